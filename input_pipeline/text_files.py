"""Which files to read, where to cut them, and reading plain text.

A file of lines is cut into byte ranges without reading it: a range has the
lines that start inside it. So the cuts depend on the size alone, and many
processes can prepare one large file.
"""

import codecs
import contextlib
import glob
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import storage
from configs import schema
from input_pipeline import cleaning, documents

UNIT_BYTES = 16 * 2**20  # About, and as stored: of a .gz, compressed.
_FIELDS = {
    "train": "path",
    "unlabeled": "unlabeled_path",
    "validation": "validation_path",
    "test": "test_path",
}


def list_units(data: schema.DataConfig) -> list[documents.Unit]:
    """The units of every path of the section, in the order of `_FIELDS`."""
    files = {
        split: _find(getattr(data, name), field=f"data.{name}")
        for split, name in _FIELDS.items()
    }
    _check_apart(files)
    return [
        unit
        for split, sizes in files.items()
        for unit in _group(data, split, sizes)
    ]


def is_plain(data: schema.DataConfig, split: str, path: str) -> bool:
    """Whether a file is plain text rather than records with fields."""
    is_txt = path.lower().removesuffix(".gz").endswith(".txt")
    return data.source == "text" or (split == "unlabeled" and is_txt)


def fingerprint(
    units: Sequence[documents.Unit],
    sha256: Callable[[str], str] = storage.sha256_file,
) -> list[dict[str, Any]]:
    """Split, size and sha256 of every file; names and places do not count."""
    files = dict.fromkeys(
        (unit.split, piece.path) for unit in units for piece in unit.pieces
    )
    return [
        {"split": s, "size": os.path.getsize(path), "sha256": sha256(path)}
        for s, path in files
    ]


def read(
    data: schema.DataConfig, piece: documents.Piece, counts: cleaning.Counts
) -> Iterator[documents.Document]:
    """The lines of a piece, without their ends, or the whole file."""
    with opened(piece) as file:
        if data.document == "file":
            chunks = iter(lambda: file.read(documents.MAX_DOCUMENT_BYTES), b"")
            yield from documents.cut(chunks, counts)
            return
        for _, start in lines(file, piece, documents.MAX_DOCUMENT_BYTES):
            if start.endswith(b"\n"):
                yield documents.Document(_without_end(start), "")
                continue
            yield from documents.cut(_line_chunks(file, start), counts)


@contextlib.contextmanager
def opened(piece: documents.Piece) -> Iterator[BinaryIO]:
    """Yields the file of a piece, decompressed; errors become ValueErrors."""
    path = piece.path
    try:
        if os.path.getsize(path) < piece.stop:
            raise ValueError(
                f"{path} has become shorter since the start; try again when"
                " nothing writes to it."
            )
        with gzip.open(path) if _is_gzip(path) else open(path, "rb") as file:
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError(
                    f"{path} is UTF-16, but text must be UTF-8; convert it:"
                    f" iconv -f utf-16 -t utf-8 {path}."
                )
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not a complete gzip file: {error}. Fetch it again;"
            " `gzip --test` tells whether it is whole."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def lines(
    file: BinaryIO, piece: documents.Piece, max_bytes: int = -1
) -> Iterator[tuple[int, bytes]]:
    r"""Position and bytes, with "\n", of each line that starts in a piece.

    Of a line above `max_bytes`, only the start is given; the caller may read
    the rest from `file`.
    """
    stop = sys.maxsize if _is_gzip(piece.path) else piece.stop
    position = _seek_line(file, start=piece.start, stop=stop)
    while position < stop and (line := file.readline(max_bytes)):
        is_whole = line.endswith(b"\n")
        if position == 0 and not is_whole and line.count(b"\r") > 1:
            raise ValueError(
                f"{piece.path} ends its lines with carriage returns alone, as"
                " old Macs did; convert them: tr '\\r' '\\n'."
            )
        yield position, line
        position = position + len(line) if is_whole else file.tell()


def line_number(piece: documents.Piece, position: int) -> int:
    """Which line of its file starts at a position; the first is 1."""
    number = 1
    with opened(piece) as file:
        while position > 0 and (chunk := file.read(min(position, 2**20))):
            number += chunk.count(b"\n")
            position -= len(chunk)
    return number


def _find(pattern: str, *, field: str) -> dict[str, int]:
    """The sizes of the files that match, by path; empty for no pattern."""
    if not pattern:
        return {}
    if storage.in_store(pattern):
        raise ValueError(
            f"{field}={pattern} lies in an object store, but text is read from"
            " the disk, once; copy it: gcloud storage cp. What is prepared from"
            " it may go to a store (data.prepared_dir)."
        )
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        raise ValueError(
            f"{field}={pattern} is a directory; use"
            f" '{os.path.join(pattern, '*.txt')}'."
        )
    paths = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    sizes = {
        path: _size(path) for path in sorted(paths) if not os.path.isdir(path)
    }
    if not sizes:
        raise ValueError(
            f"{field}={pattern} matches no file, seen from {os.getcwd()}."
        )
    if not any(sizes.values()):
        raise ValueError(
            f"{field}={pattern} has no text: {len(sizes)} file(s), all empty."
        )
    return sizes


def _size(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file; copy it to one.")
    if not os.access(path, os.R_OK):
        raise ValueError(
            f"{path} cannot be read: permission denied; try `chmod +r`."
        )
    return status.st_size


def _check_apart(files: dict[str, dict[str, int]]) -> None:
    """Refuses a file of two splits."""
    seen: dict[str, str] = {}
    for split, paths in files.items():
        for path in sorted(map(os.path.realpath, paths)):
            other = seen.setdefault(path, split)
            if other == split:
                continue
            why = (
                "that is an unlabelled file that is the labelled file"
                if "unlabeled" in (other, split)
                else f"a {split} on the text of the {other} split proves"
                " nothing"
            )
            raise ValueError(
                f"{path} is in data.{_FIELDS[other]} and in"
                f" data.{_FIELDS[split]}; {why}. Let them match different"
                " files."
            )


def _group(
    data: schema.DataConfig, split: str, sizes: dict[str, int]
) -> list[documents.Unit]:
    """Cuts large files and joins small ones, up to `UNIT_BYTES` a unit."""
    pieces = []
    for path, size in sizes.items():
        by_lines = data.source == "jsonl"
        if is_plain(data, split, path):
            by_lines = data.document == "line"
        step = UNIT_BYTES if by_lines and not _is_gzip(path) else max(size, 1)
        for start in range(0, size, step):
            stop = min(start + step, size)
            pieces.append(documents.Piece(path, start, stop))
    groups: list[list[documents.Piece]] = []
    room = 0
    for piece in pieces:
        num_bytes = piece.stop - piece.start
        if num_bytes > room:
            groups.append([])
            room = UNIT_BYTES
        groups[-1].append(piece)
        room -= num_bytes
    return [documents.Unit(split, tuple(group)) for group in groups]


def _is_gzip(path: str) -> bool:
    """Whether a file begins as gzip does, or is called so.

    Raises:
      ValueError: it is a zip archive.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\3\4":
        raise ValueError(
            f"{path} is a zip archive, which is not read; unpack it with unzip"
            " and name the files in it."
        )
    return start[:2] == b"\x1f\x8b" or path.lower().endswith(".gz")


def _seek_line(file: BinaryIO, *, start: int, stop: int) -> int:
    """Goes to the first line from `start` on; gives where that is.

    Where no line starts before `stop`, the answer is `stop` or more.
    """
    if start == 0:
        return 0
    # One byte back: a line starts at `start` if a line ends right before it.
    position = file.seek(start - 1)
    limit = documents.MAX_DOCUMENT_BYTES
    while position < stop and (chunk := file.readline(limit)):
        position += len(chunk)
        if chunk.endswith(b"\n"):
            return position
    return stop


def _line_chunks(file: BinaryIO, chunk: bytes) -> Iterator[bytes]:
    """The line that starts with `chunk`, without its end, as it is read."""
    while not chunk.endswith(b"\n"):
        more = file.readline(documents.MAX_DOCUMENT_BYTES)
        if not more:
            break
        # The last byte waits: it may be the first of a line end.
        yield chunk[:-1]
        chunk = chunk[-1:] + more
    yield _without_end(chunk)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")
