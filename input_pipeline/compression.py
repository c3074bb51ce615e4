"""Files compressed with gzip or Zstandard, read as what is inside."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import cast

from input_pipeline import processes

_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_STARTS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def stem(path: str) -> str:
    """The path without the suffix that says how it is compressed."""
    lower = path.lower()
    suffixes = [suffix for suffix in _SUFFIXES if lower.endswith(suffix)]
    return path[: -len(suffixes[0])] if suffixes else path


def kind(path: str) -> str:
    """How a file begins or is called: "gzip", "zstd", or "" for neither.

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
    for known, name in _STARTS.items():
        if start.startswith(known):
            return name
    return _SUFFIXES.get(path[len(stem(path)) :].lower(), "")


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """Yields the content of a file.

    Raises:
      ValueError: it is compressed, but torn or damaged.
      OSError: it cannot be read.
    """
    how = kind(path)
    try:
        with open(path, "rb") as stored:
            if how == "gzip":
                yield cast(io.BufferedReader, gzip.GzipFile(fileobj=stored))
            elif how == "zstd":
                # That of zstandard takes a torn end for the end of the text.
                arrow = processes.import_module("pyarrow")
                yield io.BufferedReader(
                    arrow.CompressedInputStream(stored, how)
                )
            else:
                yield stored
    except (EOFError, OSError, zlib.error) as error:
        if not how or getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{path} is not a complete {how} file: {error}. Fetch it again;"
            f" `{how} --test` tells whether it is whole."
        ) from error
