"""Records of csv files, whatever separates their fields."""

import collections
import csv
import io
import itertools
from collections.abc import Iterator, Sequence

from configs import schema
from input_pipeline import compression, documents, text_files

_FIRST_LINES = 20  # They tell the separator.
_MAX_FIELD_CHARACTERS = 2**31 - 1  # The csv module stops at 131,072.


def records(
    data: schema.DataConfig, piece: documents.Piece
) -> Iterator[tuple[documents.Where, dict[str, str]]]:
    """Where a record ends, and its fields by name; a missing one is left out.

    Raises:
      ValueError: a record does not fit the columns, or is no csv.
    """
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    with (
        text_files.opened(piece) as file,
        # Bad bytes pass as surrogates, so that the cleaner counts them.
        io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text,
    ):
        lines = _lines(text, piece.path)
        first = [*itertools.islice(lines, _FIRST_LINES)]
        separator = _separator(data, first, piece.path)
        # Strict, because a stray quote would swallow the rest of the file.
        rows = csv.reader(
            itertools.chain(first, lines), delimiter=separator, strict=True
        )

        def where() -> str:
            return f"{piece.path}, line {rows.line_num}"

        try:
            yield from _named(data, rows, separator, where)
        except csv.Error as error:
            hint = (
                "a field that starts with a quote ends with one; double others"
            )
            if str(error) == "unexpected end of data":
                hint = "a quote opens there and never closes"
            raise ValueError(f"{where()}: {error}; {hint}.") from error


def _named(
    data: schema.DataConfig,
    rows: Iterator[list[str]],
    separator: str,
    where: documents.Where,
) -> Iterator[tuple[documents.Where, dict[str, str]]]:
    filled = filter(None, rows)
    header = [*data.columns] or next(filled, [])
    times = collections.Counter(header)
    twice = sorted(name for name, number in times.items() if number > 1)
    if twice:
        raise ValueError(
            f"{where()}: the header names {', '.join(map(repr, twice[:5]))}"
            " more than once; rename all but one. If it is no header, name the"
            " columns with data.columns."
        )
    for row in filled:
        missing = len(header) - len(row)
        if missing < 0 or (missing and data.columns):
            names = "data.columns names" if data.columns else "the header names"
            raise ValueError(
                f"{where()}: {len(row)} field(s), but {names} {len(header)}:"
                f" {', '.join(map(repr, header[:20]))}; fields are separated by"
                f" {separator!r} (data.separator), and a text with that in it"
                " needs quotes."
            )
        if data.columns and row == header:
            raise ValueError(
                f"{where()} is a header; leave data.columns out, which names"
                " the columns of files without one."
            )
        yield where, dict(zip(header, row, strict=False))


def _separator(data: schema.DataConfig, first: Sequence[str], path: str) -> str:
    """The one given, else the one that suits the first lines best."""
    if data.separator:
        return data.separator.replace("\\t", "\t")

    def fit(separator: str) -> tuple[int, int]:
        rows = [*filter(None, csv.reader(first, delimiter=separator))] or [[]]
        if data.columns:
            return sum(len(row) == len(data.columns) for row in rows), 0
        return data.text_field in rows[0], len(rows[0])

    # Where two fit, the one that is less often part of a text.
    is_tsv = compression.stem(path).lower().endswith((".tsv", ".tab"))
    return max("\t|;," if is_tsv or data.columns else ",;|\t", key=fit)


def _lines(text: io.TextIOWrapper, path: str) -> Iterator[str]:
    while line := text.readline(documents.MAX_LINE):
        if len(line) == documents.MAX_LINE:
            raise ValueError(
                f"{path} has a line of more than {documents.MAX_LINE:,}"
                " characters; are these the records of a csv file?"
            )
        yield line
