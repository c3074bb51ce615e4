import itertools
import random

import pytest

from input_pipeline import cleaning, documents


@pytest.fixture(name="limit")
def _limit(monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    return 10


def _cut(*chunks):
    counts = cleaning.Counts()
    cut = list(documents.cut(chunks, counts, "label"))
    pieces = [document.raw for document in cut]
    # All stay together, and a document that is whole needs no group for that.
    [(label, group)] = {(document.label, document.group) for document in cut}
    assert (label, bool(group)) == ("label", len(cut) > 1)
    assert counts.documents_split == len(pieces) - 1
    assert b"".join(pieces) == b"".join(chunks)
    return pieces


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize(
    ("raw", "pieces"),
    [
        (b"", [b""]),
        (b"0123456789", [b"0123456789"]),
        (b"0123456789a", [b"0123456789", b"a"]),
        (b"one two three", [b"one two ", b"three"]),
        (b"one\ttwo_three", [b"one\t", b"two_three"]),
        (b"123456789 12345", [b"123456789 ", b"12345"]),
        # Never inside a character or a line end.
        ("12345678\u4f60".encode(), [b"12345678", "\u4f60".encode()]),
        (b"123456789\r\nab", [b"123456789", b"\r\nab"]),
        (b"\x80" * 11, [b"\x80" * 10, b"\x80"]),
    ],
)
def test_cut(raw, pieces):
    assert _cut(raw) == pieces


def test_cut_does_not_depend_on_the_chunks(limit):
    generator = random.Random(0)
    alphabet = [b"a", b"bc", b" ", b"\r\n", "\u4f60".encode(), b"\xff"]
    for _ in range(500):
        raw = b"".join(generator.choices(alphabet, k=generator.randrange(60)))
        pieces = _cut(raw)
        assert all(0 < len(piece) <= limit for piece in pieces) or not raw
        cuts = sorted(generator.choices(range(len(raw) + 1), k=3))
        ends = itertools.pairwise([0, *cuts, len(raw)])
        chunks = [raw[start:stop] for start, stop in ends]
        assert _cut(*chunks) == pieces


SPELLINGS = [
    ("Good, GOOD film!", "good good film"),
    ("  good\tgood\n\nfilm ", "good good film"),
    ("don't_stop", "dont stop"),
    ("\u201cGood\u201d \u2014 good film\u2026", "good good film"),
    ("\uff27ood\u3000good \ufb01lm", "good good film"),
    (
        "\u041f\u0420\u0418\u0412\u0415\u0422",
        "\u043f\u0440\u0438\u0432\u0435\u0442",
    ),
    ("STRASSE", "strasse"),
    ("stra\u00dfe", "strasse"),
    ("cafe\u0301", "caf\u00e9"),
    ("CAF\u00c9", "caf\u00e9"),
    # Marks belong to a word, as letters and digits do.
    (
        "\u0939\u093f\u0928\u094d\u0926\u0940 4\u00b2",
        "\u0939\u093f\u0928\u094d\u0926\u0940 42",
    ),
    ("...", "..."),
    ("\u2014", "\u2014"),
]


@pytest.mark.parametrize(("text", "known"), SPELLINGS)
def test_spellings_of_a_text_are_known_as_one(text, known):
    assert documents.normalised(text) == known
    assert documents.normalised(known) == known


def test_a_long_document_is_known_by_its_beginning(limit, monkeypatch):
    monkeypatch.setattr(documents, "_KNOWN_BY", 7)
    groups = {
        next(documents.cut([raw], cleaning.Counts())).group
        for raw in (b"One two. Three four", b"one  TWO four")
    }
    assert groups == {"begins: one two"}
