"""Tests of input_pipeline/strings.py."""

import random

import pytest
import tensorflow as tf

from input_pipeline import cleaning, strings, tokenizer

# Of the Keras example: removed are these, and neither `"` nor brackets.
PUNCTUATION = "!#$%&'()*+,-./:;<=>?@\\^_`{|}~"
WORDS = ["", "[UNK]", "the", "cat", "[", "[mask]"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]
PIECES += ["[", "]", "mask", "a", "pad", '"', "\ufffd"]
# What documents are made of, good and bad.
PARTS = [
    *(bytes([i]) for i in range(256)),
    *(chr(i).encode() for i in range(0x80, 0xA1)),
    *(w.encode() for w in ["the", "cat", "cats", " ", "é", "中", "\U0001f600"]),
    *(s.encode() for s in ["[MASK]", "[mask]", "[CLS]", "[UNK]", "<br />"]),
    *(s.encode() for s in ["\ufeff", "\ufffd", "\u2003", "\u3000", "\u2028"]),
    *(b"\r\n", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"),
    *(b"\xe2\x82", b"\xf0\x9f\x98", b"\xe4\xb8", b"<br\xc2\x85/>"),
]


@pytest.fixture(name="tokens", params=["unicode_word", "word", "wordpiece"])
def _tokens(request):
    vocabulary = PIECES if request.param == "wordpiece" else WORDS
    return tokenizer.create(request.param, vocabulary)


def _documents():
    """Short random documents, and some that are nearly empty."""
    generator = random.Random(3)
    blank = [
        b" ",
        b"\n",
        b"\xc2\x85",
        "\ufffd\u3000".encode(),
        b"\xff",
        b"\x00",
    ]
    return [b""] + [
        b"".join(generator.choices(parts, k=generator.randint(1, most)))
        for parts, most, number in ((PARTS, 12, 4000), (blank, 5, 300))
        for _ in range(number)
    ]


def test_raw_bytes_become_what_training_sees(tokens):
    documents = _documents()

    @tf.function
    def in_graph(raw):
        return tokens.codec.document_ids(strings.clean(raw))

    texts = [cleaning.clean(raw, cleaning.Counts()) for raw in documents]
    expected = tokens.encode(texts)
    found = in_graph(tf.constant(documents, tf.string)).to_list()
    assert in_graph(tf.zeros([0], tf.string)).to_list() == []
    for raw, ids, text, wanted in zip(
        documents, found, texts, expected, strict=True
    ):
        assert ids == list(wanted), (raw, text)


def test_slices_are_the_text_and_so_are_their_ids(tokens):
    raw = [*_documents(), "中\u200d\u0301' ☀\u0301x 葛\U000e0100".encode()]
    texts = strings.clean(tf.constant(raw, tf.string))
    slices = tokens.codec.slices(texts)
    ids = tokens.codec.document_ids(slices.values)
    ids = slices.with_values(ids).merge_dims(1, 2).to_list()
    expected = tokens.codec.document_ids(texts).to_list()
    found = slices.to_list()
    for text, words, of_words, wanted in zip(
        texts.numpy(), found, ids, expected, strict=True
    ):
        assert b"".join(words) == text
        assert all(words)
        assert of_words == wanted, words


@pytest.mark.parametrize(
    ("kind", "slices"),
    [
        ("word", ["The ", "well-made\n\n", "<br />", "中文 ", "x"]),
        (
            "unicode_word",
            ["The ", "well-made\n\n", "<br />", "中", "文 ", "x"],
        ),
        (
            "wordpiece",
            ["The ", "well", "-", "made\n\n", "<", "br ", "/", ">"]
            + ["中", "文 ", "x"],
        ),
    ],
)
def test_a_slice_is_a_word_as_it_is_written(kind, slices):
    vocabulary = PIECES if kind == "wordpiece" else WORDS
    codec = strings.Codec(kind, vocabulary)
    (found,) = codec.slices(tf.constant(["".join(slices)])).to_list()
    assert [word.decode() for word in found] == slices


def test_clean_text_is_that_of_python():
    documents = _documents()
    cleaned = strings.clean(tf.constant(documents, tf.string)).numpy()
    for raw, found in zip(documents, cleaned, strict=True):
        text = found.decode().replace("\r\n", "\n").replace("\r", "\n")
        assert text == cleaning.clean(raw, cleaning.Counts()), raw


@pytest.mark.parametrize(
    "text", ["the [MASK] cat", 'the "[MASK]" cat', "the[MASK]. cat"]
)
def test_a_prompt_keeps_its_mask(tokens, text):
    (ids,) = tokens.codec.prompt_ids(tf.constant([text])).to_list()
    assert ids.count(tokens.special.mask) == 1
    the, cat = (tokens.vocabulary.index(word) for word in ("the", "cat"))
    assert (ids[0], ids[-1]) == (the, cat)


def test_other_special_tokens_of_a_prompt_are_text():
    codec = strings.Codec("wordpiece", PIECES)
    (ids,) = codec.prompt_ids(tf.constant(["[PAD][CLS] [[SEP]] [MASK]"]))
    assert set(ids.numpy()) & set(codec.special.ids()) == {1, 4}
    assert PIECES.index("pad") in ids


@pytest.mark.parametrize(
    "text",
    [
        "The cat sat on the mat, the CAT!",
        'she said "no" \u00a0 2 [MASK] [mask] ##ing 中文',
        "".join(map(chr, range(32, 127))),
        "ÀÉ“”…",
        "<BR />x",
    ],
)
def test_standardize_is_that_of_the_keras_example(text):
    (result,) = strings.standardize(tf.constant([text])).numpy()
    lower = "".join(c.lower() if c.isascii() else c for c in text)
    spaced = lower.replace("<br />", " ")
    assert result.decode() == "".join(c for c in spaced if c not in PUNCTUATION)
    dataset = tf.data.Dataset.from_tensors([text]).map(strings.standardize)
    assert dataset.get_single_element().numpy()[0] == result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ПРИВЕТ, Ärger: ΟΔΟΣ!", "привет ärger οδος"),
        ("“Good” «good» 'good' \"good\"", "good good good good"),
        ("don't don’t don`t rock’n’roll", "dont dont dont rocknroll"),
        (
            "well-made this—that and/or 8/10 u.s.",
            "well made this that and or 8 10 u s",
        ),
        ("$5 + €3=8 50% a_b ^^ ~x", "5 3 8 50 a b x"),
        ("great\U0001f600\u2764\ufe0f film™", "great \U0001f600 \u2764 film ™"),
        ("a<br />b<BR>c<br/>\u00a0d\u3000e\u2003f", "a b c d e f"),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth"),
        (
            "film[3] [x] [mask]. [[MASK]] x[mask]y",
            "film 3 x [mask] [mask] x [mask] y",
        ),
        ("TITLE İstanbul", "title istanbul"),
        ("नमस्ते e\u0301 中文，字。", "नमस्ते e\u0301 中 文 字"),
        ("東京タワーへ、ようこそ2ﾊﾟ", "東 京 タ ワ ー へ よ う こ そ 2 ﾊﾟ"),
        (
            "か\u3099く 葛\U000e0100x 한국어",
            "か\u3099 く 葛\U000e0100 x 한국어",
        ),
        ("", ""),
    ],
)
def test_words_of_all_of_unicode(text, words):
    texts = tf.constant([text, "ascii", text])
    first, other, last = strings.standardize_unicode(texts).numpy()
    assert b" ".join(first.split()).decode() == words
    assert (other, last) == (b"ascii", first)
    (again,) = strings.standardize_unicode(tf.constant([first])).numpy()
    assert again.split() == first.split()
