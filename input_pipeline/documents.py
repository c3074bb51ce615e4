"""Documents, and the units of work that they come from."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from input_pipeline import cleaning

MAX_DOCUMENT_BYTES = 2**20
# Of a line: more would not fit into memory, and no document is that long.
MAX_LINE = 2**28

# For an error: the file, and the line or row of it that is being read.
Where = Callable[[], str]

# No "\r": a cut behind it would tear the two bytes of a line end apart.
_WHITE_SPACE = (b" ", b"\t", b"\n")

# A document that was cut is recognized by this much of its beginning.
_KNOWN_BY = 20_000  # Characters, `normalised`.

# A word, or a character where words are not set apart.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)

# The tokenizer drops them inside a word: "don't" becomes "dont".
_APOSTROPHES = b"'`"
_NO_APOSTROPHES = dict.fromkeys(map(ord, "'`\N{ACUTE ACCENT}‘’ʼ"))
# For `bytes.translate`: what `normalised` makes of ASCII.
_ASCII = bytes(
    ord(chr(code).lower()) if chr(code).isalnum() and code < 128 else 32
    for code in range(256)
)


class Document(NamedTuple):
    """One text as it was stored; the label is "" where there is none.

    Documents of one group, where it is not "", share their role.
    """

    raw: bytes
    label: str
    group: str = ""


class Piece(NamedTuple):
    """A range of one input: bytes of a file, or examples of a split."""

    path: str
    start: int
    stop: int


def require_whole(piece: Piece, size: int) -> None:
    """Raises ValueError if the input of a piece has only this size now."""
    if size < piece.stop:
        raise ValueError(
            f"{piece.path} has become shorter since the start; try again when"
            " nothing writes to it."
        )


@dataclasses.dataclass(frozen=True)
class Unit:
    """Work that one process does alone; the same for any number of them."""

    split: str  # train | unlabeled | validation | test
    pieces: tuple[Piece, ...]


class _Kept(dict[int, int]):
    """For `str.translate`: letters, digits and marks; all else is a blank."""

    def __missing__(self, code: int) -> int:
        kept = unicodedata.category(chr(code))[0] in "LNM"
        return self.setdefault(code, code if kept else 32)


_KEPT = _Kept()


class Documents(NamedTuple):
    """Labelled documents as one flat run of tokens."""

    token_ids: np.ndarray  # int32 [T]
    segments: np.ndarray  # int32 [T], the piece of text a token stands in.
    owners: np.ndarray  # int32 [T], the document, 0 to N - 1.
    labels: np.ndarray  # int32 [N], or bool [N, C] where there are several.

    @classmethod
    def joined(cls, groups: Sequence[Self]) -> Self:
        """All documents of the groups, each of which counts from 0."""
        first_segments = np.cumsum(
            [0, *(g.segments.max(initial=0) + 1 for g in groups)]
        )
        first_documents = np.cumsum([0, *(len(g.labels) for g in groups)])
        none = np.zeros([0], np.int32)
        parts = zip(groups, first_segments, first_documents, strict=False)
        columns = [
            (g.token_ids, g.segments + s, g.owners + d, g.labels)
            for g, s, d in parts
        ] or [(none, none, none, none)]
        return cls(
            *(
                run if run.dtype == bool else run.astype(np.int32)
                for run in map(np.concatenate, zip(*columns, strict=True))
            )
        )


def normalised(text: str) -> str:
    """A text without case, punctuation, blanks and Unicode forms.

    All spellings of a text give the same; a text of punctuation alone stays
    as it is.
    """
    if text.isascii():
        known = text.encode().translate(_ASCII, _APOSTROPHES).decode()
    else:
        folded = text.translate(_NO_APOSTROPHES)
        folded = unicodedata.normalize("NFKC", folded).casefold()
        known = unicodedata.normalize("NFKC", folded).translate(_KEPT)
    return " ".join(known.split()) or text


def name(field: str, raw: bytes) -> str:
    """A label or group; raises ValueError where it is not UTF-8."""
    try:
        return raw.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"field {field!r} is not UTF-8: {raw[:80]!r}, so that different"
            " names could pass for one. Convert the text: iconv -f latin1 -t"
            " utf-8"
        ) from error


def cut(
    chunks: Iterable[bytes],
    counts: cleaning.Counts,
    label: str = "",
    group: str = "",
) -> Iterator[Document]:
    """The joined chunks, in documents of at most `MAX_DOCUMENT_BYTES`.

    No byte is lost or added, and of one long line made of small chunks only a
    document's worth is in memory. A cut comes after the last white space, or
    between two characters where there is none; every document after the first
    counts as one of `documents_split`. All have the label and one group: that
    given, else one that follows from how the text begins.
    """
    rest = b""
    for chunk in chunks:
        rest += chunk
        while len(rest) > MAX_DOCUMENT_BYTES:
            end = _last_boundary(rest)
            group = group or _beginning(rest[:end])
            yield Document(rest[:end], label, group)
            rest = rest[end:]
            counts.documents_split += 1
    yield Document(rest, label, group)


def _beginning(raw: bytes) -> str:
    start = cleaning.clean(raw[: 16 * _KNOWN_BY], cleaning.Counts())
    return f"begins: {normalised(start)[:_KNOWN_BY]}"


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
