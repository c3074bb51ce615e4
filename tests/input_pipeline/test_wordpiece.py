"""Tests of input_pipeline/wordpiece.py."""

import functools
import json
import pathlib
import random
import unicodedata

import pytest
import tensorflow as tf
import tokenizers

from input_pipeline import cleaning, strings, tokenizer

AWKWARD = pathlib.Path(__file__).with_name("awkward.jsonl")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# All of Unicode but surrogates, with samples of what goes on and on.
CHARACTERS = [
    chr(code)
    for code in range(0x110000)
    if code < 0x3000
    or code % 97 == 0
    or unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs", "Lo")
    if not 0xD800 <= code < 0xE000
]


def awkward():
    """The texts of the file, as every tokenizer gets them."""
    texts = map(json.loads, AWKWARD.read_text().splitlines())
    return [_clean(text) for text in texts]


def vocabulary_of(texts):
    """Special tokens, and a piece and a continuation for every character."""
    characters = {
        c
        for text in texts
        for form in (text, unicodedata.normalize("NFD", text))
        for c in form + form.lower()
        if c.isprintable() and c != " "
    }
    longer = ["great", "mov", "##ie", "##ies", "movies", "한", "##aa", "aaa"]
    pieces = [*sorted(characters), *longer]
    pieces += [f"##{c}" for c in sorted(characters)]
    return SPECIAL + list(dict.fromkeys(pieces))


def _clean(text):
    return cleaning.clean(text.encode(), cleaning.Counts())


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_ids_are_those_of_hugging_face(lowercase):
    generator = random.Random(0)
    texts = [
        *awkward(),
        *(
            _clean(" ".join(f"x{c}y {c}" for c in CHARACTERS[n::100]))
            for n in range(100)
        ),
        *(
            _clean("".join(generator.choices(parts, k=30)))
            for parts in (
                CHARACTERS,
                "aÁe\u0301 .한中ß\u00a0Σ",
                CHARACTERS[:2000],
            )
            for _ in range(300)
        ),
    ]
    vocabulary = vocabulary_of(texts)
    # What BertTokenizer of transformers consists of.
    theirs = tokenizers.BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(vocabulary)},
        lowercase=lowercase,
        strip_accents=None,
    )
    ours = tokenizer.WordPieceTokenizer(vocabulary, lowercase=lowercase)
    encoded = theirs.encode_batch(texts, add_special_tokens=False)
    for text, ids, wanted in zip(
        texts, ours.encode(texts), encoded, strict=True
    ):
        found = [vocabulary[i] for i in ids]
        assert found == wanted.tokens, text


@functools.cache
def _small(lowercase):
    pieces = "great mov ##ie Great Mov cafe 한 ##국 中 文 ½ ! x ##x [ mask ]"
    vocabulary = [*SPECIAL, *pieces.split(), *"ᄒ ##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ".split()]
    return tokenizer.WordPieceTokenizer(vocabulary, lowercase=lowercase)


@pytest.mark.parametrize(
    ("text", "uncased", "cased"),
    [
        ("Great\u00a0Movie", "great mov ##ie", "Great Mov ##ie"),
        ("Cafe\u0301 CAFÉ", "cafe cafe", "[UNK] [UNK]"),
        ("한국", "ᄒ ##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ", "한 ##국"),
        ("\u00b4x\u00b4", "[UNK]", "[UNK]"),
        ("中文。", "中 文 [UNK]", "中 文 [UNK]"),
        ("great™ ½", "[UNK] ½", "[UNK] ½"),
        ("gre\u00adat mo\u200bvie", "great mov ##ie", "great mov ##ie"),
        ("great!movie", "great ! mov ##ie", "great ! mov ##ie"),
        ("x" * 100, "x" + " ##x" * 99, "x" + " ##x" * 99),
        ("x" * 101, "[UNK]", "[UNK]"),
        ("[MASK] great", "[ mask ] great", "[ [UNK] ] great"),
        ("", "", ""),
    ],
)
def test_words_become_the_longest_known_pieces(text, uncased, cased):
    for lowercase, expected in ((True, uncased), (False, cased)):
        own = _small(lowercase)
        for ids in own.encode([text, "great", text])[::2]:
            assert [own.vocabulary[i] for i in ids] == expected.split()


def test_the_same_in_a_data_set():
    codec = strings.Codec("wordpiece", [*SPECIAL, "great", "mov", "##ie"])
    data = tf.data.Dataset.from_tensors(["Great movie", "", "movie"])
    ids = data.map(codec.document_ids).get_single_element()
    assert ids.to_list() == [[5, 6, 7], [], [6, 7]]
    prompts = data.map(codec.prompt_ids).get_single_element()
    assert prompts.to_list() == ids.to_list()
