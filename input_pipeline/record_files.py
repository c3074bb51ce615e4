"""The documents of csv, jsonl and parquet files: one field of every record.

With several labels a document, the label is a set, see `label_sets`.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from configs import schema
from input_pipeline import (
    cleaning,
    csv_files,
    documents,
    label_sets,
    parquet_files,
    text_files,
)

# Strings may hold control characters as they are; the cleaner removes them.
_DECODER = json.JSONDecoder(strict=False)

_CSV_HINT = (
    "; if the file has no header, name its columns with data.columns, and if"
    " that is several columns in one, what separates them with data.separator"
)


def read(
    data: schema.DataConfig, piece: documents.Piece, counts: cleaning.Counts
) -> Iterator[documents.Document]:
    """The text field of each record, with label and group if there are any."""
    records = {
        "csv": csv_files.records,
        "jsonl": _json_records,
        "parquet": parquet_files.records,
    }[data.source]
    for where, record in records(data, piece):
        try:
            text, label, group = _fields(data, record)
        except ValueError as error:
            raise ValueError(f"{where()}: {error}.") from error
        yield from documents.cut([_encode(text)], counts, label, group)


def _json_records(
    data: schema.DataConfig, piece: documents.Piece
) -> Iterator[tuple[documents.Where, dict[str, Any]]]:
    position = 0

    def where() -> str:
        return f"{piece.path}, line {text_files.line_number(piece, position)}"

    with text_files.opened(piece) as file:
        for position, line in text_files.lines(file, piece, documents.MAX_LINE):
            if len(line) == documents.MAX_LINE:
                raise ValueError(
                    f"{piece.path} has a line of more than"
                    f" {documents.MAX_LINE:,} bytes; write one record a line."
                )
            if position == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                record = _parse(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where()}: {error}.") from error
            yield where, record


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
        raise ValueError(
            f"no field {data.text_field!r}; found {found}. Set data.text_field"
            " (of a test file, data.test_text_field) to the one with the text"
            + _CSV_HINT
            * (data.source == "csv")
        )
    text = record[data.text_field]
    if not isinstance(text, str):
        raise ValueError(
            f"field {data.text_field!r} is {_json_type(text)}; a text must be a"
            " string"
        )
    return (
        text,
        _label(data, record),
        _name(record, data.group_field, "group"),
    )


def _label(data: schema.DataConfig, record: dict[str, Any]) -> str:
    """The label, or the labels as a set; "" where there is none."""
    field = data.label_field
    value = record.get(field) if field else None
    if data.label_kind != "one":
        if isinstance(value, str) and not data.label_separator:
            value = _as_list(value)
        if isinstance(value, list):
            names = (_class(data, _item(data, item)) for item in value)
            return label_sets.joined(filter(None, names))
    label = _name(record, field, "label")
    if data.label_separator and label:
        parts = map(str.strip, label.split(data.label_separator))
        names = (_class(data, part) for part in parts)
        return label_sets.joined(filter(None, names))
    label = _class(data, label)
    if label and data.label_kind == "many":
        raise ValueError(
            f"field {field!r} is {label[:80]!r}, but data.label_kind=many wants"
            " a JSON list, or what separates the labels in a field as"
            " data.label_separator"
        )
    return label


def _as_list(text: str) -> Any:
    """The list that a text is in JSON, if it is one; else the text."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return text


def _item(data: schema.DataConfig, item: Any) -> str:
    """A label out of a list; a number only where the numbers have names."""
    if isinstance(item, str):
        return documents.name(data.label_field, _encode(item))
    if type(item) is int and data.label_names:
        return str(item)
    raise ValueError(
        f"field {data.label_field!r} is a list with {_json_type(item)} in it;"
        " each of its labels must be a string, or a number if data.label_names"
        " names the numbers 0, 1, ... If it is a name, set data.label_kind=one"
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
        + (", or leave data.label_kind=one out to read several")
        * (kind == "label" and isinstance(value, list))
    )


def _class(data: schema.DataConfig, label: str) -> str:
    """The name of a label that is a number; "" for a negative one."""
    names = data.label_names
    if not names or not label:
        return label
    number = re.fullmatch(r"(-?\d{1,9})(?:\.0)?", label)
    if not number:
        raise ValueError(
            f"field {data.label_field!r} is {label!r}, but data.label_names"
            " names the numbers 0, 1, ...; leave it out where labels are names"
        )
    if int(number[1]) >= len(names):
        raise ValueError(
            f"field {data.label_field!r} is {number[1]}, but data.label_names"
            f" has {len(names)} name(s), for 0 to {len(names) - 1}; give every"
            " number a name. Where they start with 1, begin the list with ''"
        )
    return names[int(number[1])] if int(number[1]) >= 0 else ""


def _json_type(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _encode(text: str) -> bytes:
    """The bytes the text was decoded from; a lone surrogate as bad UTF-8."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # From an escape in JSON, such as "\ud800".
        return text.encode(errors="surrogatepass")
