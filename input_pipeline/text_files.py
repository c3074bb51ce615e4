"""Which files to read, where to cut them, and reading plain text.

A file of lines is cut into byte ranges without reading it: a range has the
lines that start inside it. So the cuts depend on the size alone, and many
processes can prepare one large file.
"""

import codecs
import contextlib
import functools
import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import storage
from configs import schema
from input_pipeline import cleaning, compression, documents, parquet_files

UNIT_BYTES = 16 * 2**20  # About, as they are stored.
FIELDS = {
    "train": "path",
    "unlabeled": "unlabeled_path",
    "validation": "validation_path",
    "test": "test_path",
}


def list_units(data: schema.DataConfig) -> list[documents.Unit]:
    """The units of every path of the section, in the order of `FIELDS`."""
    files = {
        split: find(getattr(data, name), field=f"data.{name}")
        for split, name in FIELDS.items()
    }
    check_apart(files)
    return [
        unit
        for split, sizes in files.items()
        for unit in grouped(split, _pieces(data.of_split(split), split, sizes))
    ]


def is_plain(data: schema.DataConfig, split: str, path: str) -> bool:
    """Whether a file is plain text rather than records with fields."""
    is_txt = compression.stem(path).lower().endswith(".txt")
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
            yield from documents.cut(chunks(file), counts)
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
        documents.require_whole(piece, os.path.getsize(path))
        with compression.opened(path) as file:
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError(
                    f"{path} is UTF-16, but text must be UTF-8; convert it:"
                    f" iconv -f utf-16 -t utf-8 {path}."
                )
            yield file
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, of which little is in memory at once."""
    return iter(lambda: file.read(documents.MAX_DOCUMENT_BYTES), b"")


def lines(
    file: BinaryIO, piece: documents.Piece, max_bytes: int = -1
) -> Iterator[tuple[int, bytes]]:
    r"""Position and bytes, with "\n", of each line that starts in a piece.

    Of a line above `max_bytes`, only the start is given; the caller may read
    the rest from `file`.
    """
    is_packed = bool(compression.kind(piece.path))  # Then there is one piece.
    stop = sys.maxsize if is_packed else piece.stop
    position = _seek_line(file, start=piece.start, stop=stop)
    while position < stop and (line := file.readline(max_bytes)):
        is_whole = line.endswith(b"\n")
        if position == 0 and not is_whole and line.count(b"\r") > 1:
            raise ValueError(
                f"{piece.path} ends its lines with carriage returns alone, as"
                " old Macs did; convert them: tr '\\r' '\\n'."
            )
        yield position, line
        is_known = is_whole or is_packed
        position = position + len(line) if is_known else file.tell()


def line_number(piece: documents.Piece, position: int) -> int:
    """Which line of its file starts at a position; the first is 1."""
    number = 1
    with opened(piece) as file:
        while position > 0 and (chunk := file.read(min(position, 2**20))):
            number += chunk.count(b"\n")
            position -= len(chunk)
    return number


def find(pattern: str, *, field: str) -> dict[str, int]:
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
        path: size(path) for path in sorted(paths) if not os.path.isdir(path)
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


def size(path: str) -> int:
    """In bytes; raises ValueError where it cannot be read."""
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


def check_apart(files: dict[str, dict[str, int]]) -> None:
    """Refuses a file of two splits."""
    seen: dict[str, str] = {}
    folder = functools.cache(os.path.realpath)  # One has very many files.

    def real(path: str) -> str:
        parent, name = os.path.split(path)
        is_link = os.path.islink(path)
        return folder(path) if is_link else os.path.join(folder(parent), name)

    for split, paths in files.items():
        for path in sorted(map(real, paths)):
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
                f"{path} is in data.{FIELDS[other]} and in"
                f" data.{FIELDS[split]}; {why}. Let them match different"
                " files."
            )


def grouped(
    split: str, pieces: Iterable[tuple[documents.Piece, int]]
) -> list[documents.Unit]:
    """Pieces with their sizes as units: neighbours, up to `UNIT_BYTES`."""
    groups: list[list[documents.Piece]] = []
    room = -1
    for piece, num_bytes in pieces:
        if num_bytes > room:
            groups.append([])
            room = UNIT_BYTES
        groups[-1].append(piece)
        room -= num_bytes
    return [documents.Unit(split, tuple(group)) for group in groups]


def _pieces(
    data: schema.DataConfig, split: str, sizes: Mapping[str, int]
) -> Iterator[tuple[documents.Piece, int]]:
    """Whole files, and what large ones are cut into; with their sizes."""
    for path, num_bytes in sizes.items():
        plain = is_plain(data, split, path)
        if data.source == "parquet" and not plain:
            yield from parquet_files.pieces(path, data.text_field, UNIT_BYTES)
            continue
        by_lines = data.document == "line" if plain else data.source == "jsonl"
        whole = not by_lines or compression.kind(path)
        step = max(num_bytes, 1) if whole else UNIT_BYTES
        for start in range(0, num_bytes, step):
            stop = min(start + step, num_bytes)
            yield documents.Piece(path, start, stop), stop - start


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
