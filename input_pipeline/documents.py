"""Documents, and the pieces of work they come from: what sources speak."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from input_pipeline import cleaning

MAX_DOCUMENT_BYTES = 2**20

# No "\r": a cut behind it would tear the two bytes of a line end apart.
_WHITE_SPACE = (b" ", b"\t", b"\n")


class Document(NamedTuple):
    """One text as it was stored; the label is "" where there is none."""

    raw: bytes
    label: str


class Piece(NamedTuple):
    """A range of one input: bytes of a file, or examples of a split."""

    path: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Unit:
    """Work that one process does alone; the same for any number of them."""

    split: str  # train | unlabeled | test
    pieces: tuple[Piece, ...]


def cut(chunks: Iterable[bytes], counts: cleaning.Counts) -> Iterator[bytes]:
    """The joined chunks, in documents of at most `MAX_DOCUMENT_BYTES`.

    No byte is lost or added, and of one long line made of small chunks only a
    document's worth is in memory. A cut comes after the last white space, or
    between two characters where there is none; every document after the first
    counts as one of `documents_split`.
    """
    rest = b""
    for chunk in chunks:
        rest += chunk
        while len(rest) > MAX_DOCUMENT_BYTES:
            end = _last_boundary(rest)
            yield rest[:end]
            rest = rest[end:]
            counts.documents_split += 1
    yield rest


def _last_boundary(text: bytes) -> int:
    """Where to end a document in a text that is too long for one."""
    limit = MAX_DOCUMENT_BYTES
    end = 1 + max(text.rfind(byte, 0, limit) for byte in _WHITE_SPACE)
    if end:
        return end
    # Three continuation bytes at most belong to one character of UTF-8.
    for end in range(limit, max(limit - 4, 0), -1):
        is_inside = 0x80 <= text[end] < 0xC0
        is_line_end = text[end - 1 : end + 1] == b"\r\n"
        if not is_inside and not is_line_end:
            return end
    return limit
