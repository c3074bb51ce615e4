"""Bytes to clean text, before TensorFlow sees a byte.

Several TensorFlow text operations cut a document at its first NUL without a
word, or stop at a bad byte in the middle of an epoch. Here such bytes are
removed and counted, by reason. What is done here, an exported model does to
its input again: so it is nothing that TensorFlow's own operations cannot do,
such as Unicode normalisation.
"""

import dataclasses
import re
from typing import Self

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_ORDER_MARK = "\ufeff"

# C0 without "\t", "\n" and "\r"; DEL.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# C1: misread dashes, dots and line ends, which stand between words.
_SEPARATOR = re.compile("[\x80-\x9f]")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_UNCLEAN_ASCII = bytes([*range(9), *range(0x0B, 0x20), 0x7F])


@dataclasses.dataclass
class Counts:
    """What was read, and what became of it.

    bytes_read == bytes_kept + bytes_dropped, and
    documents_read == documents_kept + documents_dropped_empty.
    Bytes are those of the source: a replacement character counts as none.
    """

    documents_read: int = 0
    documents_kept: int = 0
    documents_dropped_empty: int = 0
    documents_split: int = 0  # Further pieces of documents that were too long.
    bytes_read: int = 0
    bytes_kept: int = 0
    bytes_dropped_invalid_utf8: int = 0
    bytes_dropped_control: int = 0
    bytes_dropped_byte_order_mark: int = 0
    bytes_dropped_carriage_return: int = 0  # Of "\r\n".
    bytes_dropped_empty: int = 0  # Documents with nothing but white space.

    @property
    def bytes_dropped(self) -> int:
        """Bytes dropped for any reason."""
        return sum(
            count
            for name, count in self.to_dict().items()
            if name.startswith("bytes_dropped_")
        )

    def __add__(self, other: Self) -> Self:
        """The counts of both."""
        return type(self)(
            **{
                name: count + getattr(other, name)
                for name, count in self.to_dict().items()
            }
        )

    def to_dict(self) -> dict[str, int]:
        """Every count by its name."""
        return dataclasses.asdict(self)


def clean(raw: bytes, counts: Counts) -> str:
    """The text of a document, "" if nothing is left; counts what it drops.

    The text holds no control character but tab and newline, no byte order
    mark and no lone surrogate. Bytes that are not UTF-8 become U+FFFD as with
    `bytes.decode(errors="replace")`, a C1 control character becomes a space,
    "\\r\\n" and a lone "\\r" become "\\n".
    """
    counts.documents_read += 1
    counts.bytes_read += len(raw)
    if raw.isascii() and len(raw.translate(None, _UNCLEAN_ASCII)) == len(raw):
        text, num_kept = raw.decode("ascii"), len(raw)
    else:
        text, num_kept = _repair(raw, counts)
    if not text.replace(_REPLACEMENT, "").strip():
        counts.documents_dropped_empty += 1
        counts.bytes_dropped_empty += num_kept
        return ""
    counts.documents_kept += 1
    counts.bytes_kept += num_kept
    return text


def _repair(raw: bytes, counts: Counts) -> tuple[str, int]:
    """The text, and how many bytes of `raw` it holds."""
    try:
        text, num_invalid = raw.decode(), 0
    except UnicodeDecodeError:
        text, num_invalid = raw.decode(errors="replace"), _num_invalid(raw)
    counts.bytes_dropped_invalid_utf8 += num_invalid
    num_kept = len(raw) - num_invalid
    if not _UNCLEAN.search(text):
        return text, num_kept

    num_marks = len(_BYTE_ORDER_MARK.encode()) * text.count(_BYTE_ORDER_MARK)
    text = text.replace(_BYTE_ORDER_MARK, "")
    num_control = len("".join(_CONTROL.findall(text)))
    num_control += 2 * len(_SEPARATOR.findall(text))
    text = _SEPARATOR.sub(" ", _CONTROL.sub("", text))
    # Last, because a removed character may stand between "\r" and "\n".
    num_returns = text.count("\r\n")
    text = text.replace("\r\n", "\n").replace("\r", "\n")

    counts.bytes_dropped_byte_order_mark += num_marks
    counts.bytes_dropped_control += num_control
    counts.bytes_dropped_carriage_return += num_returns
    return text, num_kept - num_marks - num_control - num_returns


def _num_invalid(raw: bytes) -> int:
    """How many bytes are no part of a UTF-8 character."""
    # The same bytes as with "replace", but a surrogate for every single one.
    text = raw.decode(errors="surrogateescape")
    return len(re.findall("[\udc80-\udcff]", text))
