"""Records of parquet files, a few rows at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

from configs import schema
from input_pipeline import documents, processes

# To reach its own rows, a piece reads over those before it in the row group:
# with this many pieces a group, the group is read 16 times.
_MAX_PIECES = 32
_BATCH_BYTES = 2**22  # About; of text.
_BUFFER_BYTES = 2**20


def pieces(
    path: str, text_field: str, num_bytes: int
) -> Iterator[tuple[documents.Piece, int]]:
    """Ranges of rows with about so many bytes of text, and how many they have.

    The description of the file decides: a range never leaves its row group.
    """
    with _opened(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            size = _text_bytes(file, group, text_field)
            number = min(_MAX_PIECES, rows, max(1, -(-size // num_bytes)))
            for i in range(number):
                start = first + rows * i // number
                stop = first + rows * (i + 1) // number
                yield documents.Piece(path, start, stop), size // number
            first += rows


def records(
    data: schema.DataConfig, piece: documents.Piece
) -> Iterator[tuple[documents.Where, dict[str, Any]]]:
    """Where a row stands, and its text, label and group by name.

    Raises:
      ValueError: the file is torn.
    """
    row = piece.start

    def where() -> str:
        return f"{piece.path}, row {row + 1}"

    with _opened(piece.path) as file:
        documents.require_whole(piece, file.metadata.num_rows)
        names = file.schema_arrow.names
        if data.text_field not in names:
            yield where, dict.fromkeys(names)
            return
        wanted = (data.text_field, data.label_field, data.group_field)
        fields = [name for name in dict.fromkeys(wanted) if name in names]
        for batch in _batches(file, piece, fields):
            columns = [_values(batch.column(name)) for name in fields]
            for values in zip(*columns, strict=True):
                yield where, dict(zip(fields, values, strict=True))
                row += 1


def _batches(
    file: Any, piece: documents.Piece, fields: list[str]
) -> Iterator[Any]:
    """The rows of a piece in batches of few; the first field is the text."""
    first = group = 0
    while first + (rows := file.metadata.row_group(group).num_rows) <= (
        piece.start
    ):
        first, group = first + rows, group + 1
    size = _text_bytes(file, group, fields[0])
    for batch in file.iter_batches(
        max(1, min(rows, _BATCH_BYTES * rows // max(size, 1))),
        row_groups=[group],
        columns=fields,
        use_threads=False,
    ):
        start = max(piece.start - first, 0)
        stop = max(piece.stop - first, 0)
        yield batch.slice(start, max(stop - start, 0))
        first += batch.num_rows
        if first >= piece.stop:
            break


def _text_bytes(file: Any, group: int, field: str) -> int:
    """Of the text in a row group, before it was compressed."""
    columns = file.metadata.row_group(group)
    return sum(
        column.total_uncompressed_size
        for column in map(columns.column, range(columns.num_columns))
        if f"{column.path_in_schema}.".startswith(f"{field}.")
    )


def _values(column: Any) -> list[Any]:
    """Of a column; bad bytes of a string pass as surrogates, as in csv."""
    pa = processes.import_module("pyarrow")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts = (
        *(pa.string(), pa.large_string(), pa.string_view()),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
    )
    if column.type not in texts:
        return column.to_pylist()
    return [
        raw if raw is None else raw.decode(errors="surrogateescape")
        for raw in column.cast(pa.large_binary()).to_pylist()
    ]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Yields a `ParquetFile`, whose columns are read page by page."""
    parquet = processes.import_module("pyarrow.parquet")
    arrow_error = processes.import_module("pyarrow").ArrowException
    try:
        with parquet.ParquetFile(
            path,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
            page_checksum_verification=True,
        ) as file:
            yield file
    except (arrow_error, OSError) as error:
        what = getattr(error, "strerror", None) or f"{error}".split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as parquet: {what.rstrip(': .')}. If it is"
            " torn, fetch it again; if it is no parquet, choose another"
            " data.source."
        ) from error
