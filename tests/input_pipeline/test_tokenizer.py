import collections
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import storage
from configs import schema
from input_pipeline import strings, tokenizer

TEXTS = [
    "The cat sat on the mat, the CAT!",
    "a naïve café <br /><br />cat [unk]",
    'she said "no" \u00a0 2 [MASK] [mask] ##ing 中文',
    "...",
]


_PIECES = schema.TokenizerConfig(kind="wordpiece")


@functools.cache
def _words():
    counts = collections.Counter(the=9, cat=5, sat=5, mat=5, zoo=1, ant=1)
    return tokenizer.WordTokenizer.from_counts(counts, 30)


@functools.cache
def _pieces():
    pieces = ["the", "cat", "un", "##ing", "##s", "[", "]", "mask", "a", "."]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return tokenizer.WordPieceTokenizer([*specials, *pieces])


@functools.cache
def _unicode_words():
    return tokenizer.UnicodeWordTokenizer(_words().vocabulary)


@pytest.fixture(name="tokens", params=[_words, _unicode_words, _pieces])
def _tokens(request):
    return request.param()


@pytest.mark.parametrize("kind", ["word", "unicode_word"])
def test_words_are_counted_as_they_are_encoded(kind):
    texts = [*TEXTS, "“The” CAFÉ\u00a0[café]", "Привет ПРИВЕТ"]
    counts = tokenizer.count(schema.TokenizerConfig(kind=kind), texts)
    if kind == "unicode_word":
        assert counts["café"] == 3 and counts["привет"] == 2
        assert counts["no"] == 1  # Notebook: `"no"`.
    words = tokenizer.create(
        kind, ["", "[UNK]", *counts.keys() - {"[mask]"}, "[mask]"]
    )
    encoded = collections.Counter(
        words.vocabulary[i] for ids in words.encode(texts) for i in ids
    )
    assert encoded.pop("[UNK]") == counts.pop("[mask]") == 2
    assert encoded == counts
    assert not tokenizer.count(schema.TokenizerConfig(kind=kind), [" \t\n"])
    assert tokenizer.count(_PIECES, ["aba", "b"]) == {"a": 2, "b": 2}


def test_most_frequent_words_first_and_ties_by_alphabet():
    counts = collections.Counter(zoo=1, sat=5, the=9, mat=5, cat=5, ant=1)
    counts["[mask]"] = 50
    ranked = ["the", "cat", "mat", "sat", "ant", "zoo"]
    for size in (4, 8, 9, 10):
        words = tokenizer.WordTokenizer.from_counts(counts, size)
        expected = ["", "[UNK]", *ranked[: size - 3], "[mask]"]
        assert words.vocabulary == expected
    assert counts["[mask]"] == 50


def test_special_table():
    words, pieces = _words(), _pieces()
    assert words.special == tokenizer.SpecialIds(padding=0, unknown=1, mask=8)
    assert words.special.ids() == [0, 1, 8]
    assert np.flatnonzero(words.is_special).tolist() == [0, 1, 8]
    assert pieces.special == tokenizer.SpecialIds(
        padding=0, unknown=1, mask=4, start=2, end=3
    )
    assert np.flatnonzero(pieces.is_special).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(pieces.is_continuation).tolist() == [8, 9]
    assert not words.is_continuation.any()
    for one in (words, pieces):
        assert one.is_special.shape == one.is_continuation.shape
        assert len(one.is_special) == one.vocabulary_size
        assert len(one.wrap(np.zeros(0, int))) == one.num_wrapping
    assert list(words.wrap([7, 8])) == [7, 8]
    assert list(pieces.wrap([7, 8])) == [2, 7, 8, 3]
    # The ids follow the vocabulary.
    order = ["a", "[MASK]", "[SEP]", "[UNK]", "[CLS]", "b", "[PAD]"]
    assert tokenizer.WordPieceTokenizer(order).special == tokenizer.SpecialIds(
        padding=6, unknown=3, mask=1, start=4, end=2
    )


def test_words_with_upper_case():
    texts = ["The the THE [MASK] ÉTÉ Été. [mask]"]
    config = schema.TokenizerConfig(lowercase=False)
    words = _learned(config, texts)
    assert words.vocabulary == (
        ["", "[UNK]", "THE", "The", "the", "ÉTÉ", "Été", "[mask]"]
    )
    (ids,) = words.encode(texts)
    assert ids.tolist() == [3, 4, 2, 1, 5, 6, 1]
    assert words.encode_prompt("THE [MASK]").tolist() == [2, 7]


def test_encode(tokens):
    texts = ["the cat", "", "cat dog the"]
    ids = [tokens.vocabulary.index(w) for w in ("the", "cat")]
    encoded = tokens.encode(texts)
    assert [list(one) for one in encoded] == [
        ids,
        [],
        [ids[1], tokens.special.unknown, ids[0]],
    ]
    assert all(one.dtype == np.int32 for one in encoded)
    (alone,) = tokens.encode(texts[:1])
    assert list(alone) == ids
    assert tokens.encode([]) == []


@pytest.mark.parametrize("text", ["a [MASK] b", "[mask]", "x[MASK]", "[MASK]."])
def test_a_document_never_becomes_the_mask(tokens, text):
    (ids,) = tokens.encode([text])
    assert len(ids)
    assert tokens.special.mask not in ids


def test_decode():
    pieces = _pieces()
    ids = [2, *(pieces.vocabulary.index(p) for p in ("un", "##ing", "##s"))]
    assert pieces.decode([*ids, 1, 4, 3, 0, 0]) == "unings [UNK] [MASK]"
    words = _words()
    assert words.decode([2, 1, 3, words.special.mask, 0]) == (
        "the [UNK] cat [mask]"
    )
    assert words.decode([]) == ""
    # What a tensor's rows are made of.
    assert words.decode(np.array([2, 3], np.int32)) == "the cat"


@pytest.mark.parametrize("lowercase", [True, False])
def test_save_and_load(tokens, tmp_path, lowercase):
    *words, replaced, last = tokens.vocabulary
    same = type(tokens)([*words, "naïve", last], lowercase=lowercase)
    assert replaced not in same.vocabulary
    same.save(tmp_path)
    loaded = tokenizer.load(tmp_path)
    assert type(loaded) is type(same)
    assert loaded.vocabulary == same.vocabulary
    assert loaded.special == same.special
    assert loaded.lowercase == lowercase
    texts = ["the naïve [MASK] cat", ""]
    for a, b in zip(loaded.encode(texts), same.encode(texts), strict=True):
        assert list(a) == list(b)


def test_a_vocabulary_that_does_not_tell_case_is_lower_case(tmp_path):
    content = {
        "kind": "unicode_word",
        "vocabulary": ["", "[UNK]", "a", "[mask]"],
    }
    (tmp_path / "vocabulary.json").write_text(json.dumps(content))
    (ids,) = tokenizer.load(tmp_path).encode(["A"])
    assert ids.tolist() == [2]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"kind": "words", "vocabulary": ["", "[UNK]", "a", "[mask]"]}',
        # Twice the same word; no [CLS].
        '{"kind": "word", "vocabulary": ["", "[UNK]", "a", "a", "[mask]"]}',
        '{"kind": "wordpiece", "vocabulary": ["[PAD]", "[UNK]", "a"]}',
        json.dumps(
            {
                "kind": "wordpiece",
                "vocabulary": [*strings.PIECES_SPECIAL, "a", "a"],
            }
        ),
        b"\xff\xfe",
    ],
)
def test_a_damaged_vocabulary_is_named(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(storage.DamagedError, match="vocabulary.json.*damaged"):
        tokenizer.load(tmp_path)
    with pytest.raises(storage.DamagedError, match="vocabulary.json.*missing"):
        tokenizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("word", ["[mask]"]),
        ("word", ["... !", " "]),
        ("unicode_word", ["… “”", " "]),
        ("wordpiece", ["\u200b"]),
    ],
)
def test_no_word_at_all(kind, texts):
    with pytest.raises(ValueError, match="no word at all"):
        _learned(schema.TokenizerConfig(kind=kind), texts)


def _learned(config, texts):
    return tokenizer.learn(
        config, counts=tokenizer.count(config, texts), texts=iter(texts)
    )


def _corpus():
    """Many equally frequent words of letters from several alphabets."""
    generator = np.random.default_rng(0)
    letters = list("abcdefgàéîöαβγδабвгдהוזあいうえ")
    words = ["".join(generator.choice(letters, 5)) for _ in range(150)]
    return [" ".join(words[i : i + 10]) for i in range(0, 150, 5)]


def _learn(size=300):
    config = dataclasses.replace(_PIECES, vocabulary_size=size)
    return _learned(config, _corpus())


@pytest.mark.parametrize("size", [150, 300])
def test_learned_pieces(size):
    learned = _learn(size)
    assert learned.vocabulary_size <= size
    assert len(set(learned.vocabulary)) == learned.vocabulary_size
    assert learned.vocabulary[:5] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    # Every character is a piece: no word of the corpus is unknown.
    for text, ids in zip(_corpus(), learned.encode(_corpus()), strict=True):
        assert learned.special.unknown not in ids
        (normal,) = learned.encode([learned.decode(ids)])
        assert list(normal) == list(ids), text


@pytest.mark.parametrize("word", ["acgt" * 75, "\N{GRINNING FACE}" * 90])
def test_words_without_end_are_learned_from(word):
    config = dataclasses.replace(_PIECES, vocabulary_size=1_000)
    learned = _learned(config, [f"{word} a film"] * 20 + _corpus())
    assert learned.special.unknown not in learned.encode(["a film"])[0]
    longest = max(len(piece) for piece in learned.vocabulary)
    assert 50 < longest <= 100 + len("##")


def test_a_vocabulary_without_room_for_the_characters_is_refused():
    with pytest.raises(ValueError, match="size=16 is too small.* or more") as e:
        _learn(16)
    least = int(re.search(r"use (\d+) or more", str(e.value))[1])
    assert _learn(least).vocabulary_size == least
    with pytest.raises(ValueError, match=f"size={least - 1} is too small"):
        _learn(least - 1)


def test_any_process_in_any_locale_learns_the_same_pieces():
    learned = json.dumps(_learn().vocabulary)
    assert {json.dumps(_learn().vocabulary) for _ in range(3)} == {learned}
    command = (
        "from tests.input_pipeline import test_tokenizer as t\n"
        "texts = t.strings.tf.constant(['TITLE \u0130I \u00c9I'])\n"
        "print(t.strings.standardize_unicode(texts).numpy()[0].hex())\n"
        "print(t.json.dumps(t._learn().vocabulary))"
    )
    locale = dict.fromkeys(("LC_ALL", "LANG"), "tr_TR.UTF-8")
    output = subprocess.check_output(
        [sys.executable, "-c", command],
        env={**os.environ, **locale, "PYTHONHASHSEED": "1"},
        text=True,
    )
    *_, lower, again = output.splitlines()
    assert again == learned
    # Turkish has another lower case of I.
    assert bytes.fromhex(lower).decode() == "title ii éi"
