import itertools
import pickle
import random

import pytest

from input_pipeline import cleaning, documents


@pytest.fixture(name="limit")
def _limit(monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    return 10


def _cut(*chunks):
    counts = cleaning.Counts()
    pieces = list(documents.cut(chunks, counts))
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


def test_units_can_be_pickled():
    unit = documents.Unit("train", (documents.Piece("a", 0, 1),))
    assert pickle.loads(pickle.dumps(unit)) == unit
