"""The documents of csv and jsonl files: one field of every record."""

import codecs
import collections
import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from configs import schema
from input_pipeline import cleaning, documents, text_files

# Of a line: more would not fit into memory, and no document is that long.
_MAX_LINE = 2**28
_MAX_FIELD_CHARACTERS = 2**31 - 1  # The csv module stops at 131,072.

# Strings may hold control characters as they are; the cleaner removes them.
_DECODER = json.JSONDecoder(strict=False)


def read(
    data: schema.DataConfig, piece: documents.Piece, counts: cleaning.Counts
) -> Iterator[documents.Document]:
    """The text field of each record, with label and group if there are any."""
    read_fields = _read_csv if data.source == "csv" else _read_jsonl
    for text, label, group in read_fields(data, piece):
        yield from documents.cut([_encode(text)], counts, label, group)


def _read_csv(
    data: schema.DataConfig, piece: documents.Piece
) -> Iterator[tuple[str, str, str]]:
    with text_files.opened(piece) as file:
        records = _csv_records(file)
        number = 0
        while True:
            number += 1
            try:
                fields = _fields(data, next(records))
            except StopIteration:
                return
            except (csv.Error, ValueError) as error:
                hint = "; a quote opens there and never closes"
                is_open = str(error) == "unexpected end of data"
                raise ValueError(
                    f"{piece.path}, record {number}: {error}{hint * is_open}."
                ) from error
            yield fields


def _csv_records(file: BinaryIO) -> Iterator[dict[str, str]]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    # Bad bytes pass as surrogates, so that the cleaner counts them.
    with io.TextIOWrapper(
        file, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        # Strict, because a stray quote would swallow the rest of the file.
        rows = filter(None, csv.reader(_csv_lines(text), strict=True))
        header = next(rows, [])
        times = collections.Counter(header)
        twice = sorted(name for name, number in times.items() if number > 1)
        if twice:
            raise ValueError(
                f"the header names {', '.join(map(repr, twice[:5]))} more than"
                " once; rename all but one"
            )
        for row in rows:
            if len(row) > len(header):
                raise ValueError(
                    f"{len(row)} fields, but the header names {len(header)}:"
                    f" {', '.join(map(repr, header[:20]))}; fields are"
                    " separated by commas, and a text with a comma needs quotes"
                )
            yield dict(zip(header, row, strict=False))


def _csv_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(
                f"a line has more than {_MAX_LINE:,} characters; are these the"
                " records of a csv file?"
            )
        yield line


def _read_jsonl(
    data: schema.DataConfig, piece: documents.Piece
) -> Iterator[tuple[str, str, str]]:
    with text_files.opened(piece) as file:
        for position, line in text_files.lines(file, piece, _MAX_LINE):
            if len(line) == _MAX_LINE:
                raise ValueError(
                    f"{piece.path} has a line of more than {_MAX_LINE:,}"
                    " bytes; write one record a line."
                )
            if position == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                fields = _fields(data, _parse(line))
            except (ValueError, RecursionError) as error:
                number = text_files.line_number(piece, position)
                raise ValueError(
                    f"{piece.path}, line {number}: {error}."
                ) from error
            yield fields


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = _DECODER.decode(line.decode(errors="surrogateescape"))
    except ValueError as error:
        raise ValueError(
            f"not JSON ({error}); write one object a line, or use"
            " data.source=text for plain text"
        ) from error
    if not isinstance(record, dict):
        raise ValueError(
            f"a JSON object is wanted, not {_json_type(record)}; write one"
            ' {"text": "…"} a line'
        )
    return record


def _fields(
    data: schema.DataConfig, record: dict[str, Any]
) -> tuple[str, str, str]:
    """Text, label and group of a record."""
    if data.text_field not in record:
        found = ", ".join(map(repr, list(record)[:20])) or "none"
        is_separated = data.source == "csv" and set(found) & {";", "\t", "|"}
        raise ValueError(
            f"no field {data.text_field!r}; found {found}. "
            + (
                "Fields are separated by commas; convert the file"
                if is_separated
                else "Set data.text_field to the one with the text"
            )
        )
    text = record[data.text_field]
    if not isinstance(text, str):
        raise ValueError(
            f"field {data.text_field!r} is {_json_type(text)}; a text must be a"
            " string"
        )
    return (
        text,
        _name(record, data.label_field, "label"),
        _name(record, data.group_field, "group"),
    )


def _name(record: dict[str, Any], field: str, kind: str) -> str:
    """The label or the group; "" where there is none."""
    value = record.get(field) if field else None
    if value is None:
        return ""
    if isinstance(value, str):
        return documents.name(field, _encode(value))
    if isinstance(value, (int, float)):
        return json.dumps(value)
    raise ValueError(
        f"field {field!r} is {_json_type(value)}; a {kind} must be a string or"
        f" a number. Set data.{kind}_field='' to read none"
    )


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def _encode(text: str) -> bytes:
    """The bytes the text was decoded from; a lone surrogate as bad UTF-8."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # From an escape in JSON, such as "\ud800".
        return text.encode(errors="surrogatepass")
