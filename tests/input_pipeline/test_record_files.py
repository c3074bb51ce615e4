import gzip
import json
import time

import pytest

from configs import schema
from input_pipeline import cleaning, documents, record_files, text_files


def _read(path, source, **fields):
    data = schema.DataConfig(source=source, path=str(path), **fields)
    return [
        (document.raw, document.label)
        for unit in text_files.list_units(data)
        for piece in unit.pieces
        for document in record_files.read(data, piece, cleaning.Counts())
    ]


def _content(tmp_path, content, source):
    path = tmp_path / f"a.{source}"
    path.write_bytes(content)
    return _read(path, source)


@pytest.mark.parametrize(
    ("content", "documents_"),
    [
        (b"text,label\na,1\nb,2\n", [(b"a", "1"), (b"b", "2")]),
        (b"label,text\r\n pos ,a\r\n\r\nneg,b", [(b"a", "pos"), (b"b", "neg")]),
        (b"text\na\n", [(b"a", "")]),
        (b"text,label\na\n", [(b"a", "")]),
        (b'text\n"a, ""b""\nc\r\nd"\n', [(b'a, "b"\nc\r\nd', "")]),
        (b"\xef\xbb\xbftext\na\n", [(b"a", "")]),
        (b"text,label\nn\x00l\xff,x\n", [(b"n\x00l\xff", "x")]),
        ("text\n\u4f60\u00e9\n".encode(), [("\u4f60\u00e9".encode(), "")]),
        (b"text\n" + b"x" * 200_000, [(b"x" * 200_000, "")]),
        (b"text,label\n", []),
        (
            b"text\n\xef\xbb\xbfa\xed\xa0\x80\n",
            [(b"\xef\xbb\xbfa\xed\xa0\x80", "")],
        ),
    ],
)
def test_csv(tmp_path, content, documents_):
    assert _content(tmp_path, content, "csv") == documents_
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content))
    assert _read(tmp_path / "b.csv.gz", "csv") == documents_


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"body\na\n", r"a\.csv, line 2: no field 'text'; found 'body'"),
        (b"label,text\n1,a\n2\n", r"line 3: no field 'text'; found 'label'"),
        (b"text,label\na,1\nb, c,2\n", r"line 3: 3 field.s., but .* names 2"),
        (b'text\na\n"b\nc\n', r"line 4: .*end of data"),
        (b'text\n"a"b\n', r"line 2: .* starts with a quote ends with one"),
        (b'text\n"b\nc\n', r"line 3: .*a quote opens there and never closes"),
        (b"text,id,text\na,1,b\n", r"names 'text' more than once"),
        (
            b"text,label\na,x\nb,gr\xfcn\n",
            r"a\.csv, line 3: field 'label' is not UTF-8: b'gr\\xfcn'",
        ),
    ],
)
def test_bad_csv(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        _content(tmp_path, content, "csv")


@pytest.mark.parametrize(
    ("content", "documents_"),
    [
        (b'{"text": "a", "label": "x"}\n', [(b"a", "x")]),
        (
            b'\xef\xbb\xbf{"text": "a"}\r\n\r\n \n{"text": "b"}',
            [(b"a", ""), (b"b", "")],
        ),
        (b'{"text": "a\\u0000b", "label": 1}\n', [(b"a\x00b", "1")]),
        (b'{"text": "a\x00b\xff", "label": null}\n', [(b"a\x00b\xff", "")]),
        (
            b'{"text": "\\ud83d\\ude00", "label": true}',
            [("\U0001f600".encode(), "true")],
        ),
        (b'{"text": "\\ud83d", "label": 0.5}', [(b"\xed\xa0\xbd", "0.5")]),
        (b'{"text": ""}\n', [(b"", "")]),
    ],
)
def test_jsonl(tmp_path, content, documents_):
    assert _content(tmp_path, content, "jsonl") == documents_
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    assert _read(tmp_path / "b.jsonl.gz", "jsonl") == documents_


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "a", "n": 1}', "no field 'text'; found 'body', 'n'"),
        (b"{}", "no field 'text'; found none"),
        (b'{"text": 5}', "field 'text' is a number; a text must be a string"),
        (b'{"text": null}', "field 'text' is null"),
        (b'{"text": "a", "label": {}}', "field 'label' is an object"),
        (b'{"text": "a", "label": ["b", 3]}', "a list with a number in it"),
        (b'{"text": "a", "label": "[3]"}', "a list with a number in it"),
        (b'{"text": "a", "label": [null]}', "a list with null in it"),
        (b'{"text": "a", "label": "gr\xfcn"}', "'label' is not UTF-8"),
        (b'{"text": "a", "label": "\\ud800"}', "'label' is not UTF-8"),
        (b'{"text": "a", "who": {}}', "'who' is an object; a group must be"),
        (b"[1]", "a JSON object is wanted, not a list"),
        (b'{"text": "a"', "Expecting"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=range(14),
)
@pytest.mark.parametrize(("unit_bytes", "suffix"), [(7, ""), (10**6, ".gz")])
def test_bad_jsonl(tmp_path, monkeypatch, line, message, unit_bytes, suffix):
    monkeypatch.setattr(text_files, "UNIT_BYTES", unit_bytes)
    path = tmp_path / f"a.jsonl{suffix}"
    content = b'{"text": "good"}\n\n' + line + b"\n"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=rf"{path.name}, line 3: .*{message}"):
        _read(path, "jsonl", group_field="who")


@pytest.mark.parametrize(
    ("fields", "label", "expected"),
    [
        ({}, ["b", "a", "b", " c "], '["a", "b", "c"]'),
        ({}, ['\u00e9, "x"', ""], '["\u00e9, \\"x\\""]'),
        ({}, [], "[]"),
        ({}, '["b", "a"]', '["a", "b"]'),
        ({}, "[a", "[a"),
        ({}, None, ""),
        ({"label_kind": "one"}, '["b", "a"]', '["b", "a"]'),
        ({"label_kind": "many"}, "", ""),
        ({"label_separator": "|"}, " b |a||b", '["a", "b"]'),
        ({"label_separator": "|"}, "a", '["a"]'),
        ({"label_separator": ", "}, "a, b,c", '["a", "b,c"]'),
        ({"label_separator": "|"}, "|", "[]"),
        ({"label_separator": "|"}, " ", ""),
        ({"label_separator": "|"}, ["a|b"], '["a|b"]'),
        ({"label_names": ("no", "yes")}, [1, 0, -1], '["no", "yes"]'),
        (
            {"label_names": ("no", "yes"), "label_separator": " "},
            "1 0",
            '["no", "yes"]',
        ),
    ],
)
def test_several_labels_are_one_list_in_the_order_of_the_names(
    tmp_path, fields, label, expected
):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", "label": label}))
    assert _read(path, "jsonl", **fields) == [(b"x", expected)]


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("one", ["a"], "'label' is a list; a label .* leave data.label_kind"),
        ("many", "a", "'label' is 'a', but data.label_kind=many wants a JSON"),
        ("many", 3, "'label' is '3', but"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path, kind, label, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", "label": label}))
    with pytest.raises(ValueError, match=f"line 1: field {message}"):
        _read(path, "jsonl", label_kind=kind)


@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_fields_are_chosen_by_name(tmp_path, source):
    content = {
        "csv": "text,who,body\na, me ,good\nb,7,bad\nc\n",
        "jsonl": '{"text": "a", "who": " me "}\n{"text": "b", "who": 7}\n'
        '{"text": "c", "who": null}\n',
    }[source]
    path = tmp_path / "a"
    path.write_text(content)
    data = schema.DataConfig(source=source, path=str(path), group_field="who")
    [unit] = text_files.list_units(data)
    [piece] = unit.pieces
    found = record_files.read(data, piece, cleaning.Counts())
    assert [document.group for document in found] == ["me", "7", ""]
    fields = {"text_field": "who", "label_field": "text"}
    if source == "csv":
        content = content.removesuffix("c\n")
        path.write_text(content)
        assert _read(path, source, **fields) == [(b" me ", "a"), (b"7", "b")]


@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_long_texts_are_cut(tmp_path, monkeypatch, source):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    text = "one two three"
    content = {
        "csv": f"text,label\n{text},x\n",
        "jsonl": json.dumps({"text": text, "label": "x"}),
    }[source]
    path = tmp_path / "a"
    path.write_text(content)
    assert _read(path, source) == [(b"one two ", "x"), (b"three", "x")]


def test_a_csv_with_very_many_columns_is_read_in_seconds(tmp_path):
    names = ["text", *map(str, range(50_000))]
    path = tmp_path / "wide.csv"
    path.write_text(f"{','.join(names)}\na{',' * 50_000}\n")
    data = schema.DataConfig(source="csv", path=str(path))
    piece = documents.Piece(str(path), 0, path.stat().st_size)
    start = time.process_time()
    found = record_files.read(data, piece, cleaning.Counts())
    assert [document.raw for document in found] == [b"a"]
    assert time.process_time() - start < 5


@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_a_line_without_an_end_is_not_read_whole(tmp_path, monkeypatch, source):
    monkeypatch.setattr(documents, "MAX_LINE", 1_000)
    path = tmp_path / f"bomb.{source}.gz"
    first = {"csv": b"text\n", "jsonl": b'{"text": "a"}\n'}[source]
    path.write_bytes(gzip.compress(first + b"0" * 10**6))
    with pytest.raises(ValueError, match=r"bomb.*more than 1,000"):
        _read(path, source)


@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_names_of_labels_that_are_numbers(tmp_path, source):
    def labels(names, *values):
        lines = [json.dumps({"text": "a", "label": v}) for v in values]
        if source == "csv":
            lines = ["text,label", *(f"a,{value}" for value in values)]
        path = tmp_path / "a"
        path.write_text("\n".join(lines))
        return [label for _, label in _read(path, source, label_names=names)]

    assert labels(("World", "Sports"), 0, 1, 1.0) == [
        "World",
        "Sports",
        "Sports",
    ]
    # Some numbers are no label, and two may be one class.
    assert labels(("", "a", "a"), 2, 1, -1, 0) == ["a", "a", "", ""]
    assert labels((), 1, -1) == ["1", "-1"]
    with pytest.raises(ValueError, match="is 2, but .* 2 name.s., for 0 to 1;"):
        labels(("World", "Sports"), 0, 2)
    for value in ("World", 0.5):
        with pytest.raises(
            ValueError, match=rf"is '{value}', but data.label_n"
        ):
            labels(("World", "Sports"), value)
