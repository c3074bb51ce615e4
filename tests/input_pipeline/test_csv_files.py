import pytest

from configs import schema
from input_pipeline import csv_files, documents


def _read(path, **fields):
    data = schema.DataConfig(source="csv", path=str(path), **fields)
    piece = documents.Piece(str(path), 0, path.stat().st_size)
    return [record for _, record in csv_files.records(data, piece)]


def _content(tmp_path, content, name="a.csv", **fields):
    path = tmp_path / name
    path.write_text(content)
    return [[*record.values()] for record in _read(path, **fields)]


COLUMNS = {"columns": ("text", "label")}


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ("text{0}label\na, b{0}x\n", {}),
        ("label{0}x, y{0}text\nx{0}1{0}a, b\n", {}),
        ("\n\ntext{0}label\na, b{0}x\n", {}),
        # Every line has one comma, too.
        ("a, b{0}x\n" * 2, COLUMNS),
    ],
)
@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_the_first_lines_tell_the_separator(
    tmp_path, content, fields, separator
):
    content = content.format(separator)
    [first, *_] = _content(tmp_path, content, **fields)
    assert {"a, b", "x"} <= {*first}
    # A wrong line among them does not change that.
    with pytest.raises(ValueError, match=r"a.csv, line \d: \d field"):
        _content(tmp_path, content + separator.join("abcd") + "\n", **fields)


@pytest.mark.parametrize(
    ("content", "name", "found"),
    [
        ("text,label\na;b\tc,x\n", "a.csv", ["a;b\tc", "x"]),
        ('text,label\n"a, b",x\n', "a.csv", ["a, b", "x"]),
        ("text\na;b\tc\n", "a.csv", ["a;b\tc"]),
        ("text\na, b\n", "a.tsv", ["a, b"]),
        ('"text"\t"label"\n"a\tb"\tx\n', "a.tsv", ["a\tb", "x"]),
    ],
)
def test_a_separator_inside_a_text(tmp_path, content, name, found):
    assert _content(tmp_path, content, name) == [found]


def test_columns_without_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,a,x\n2,b,y\n")
    fields = {"columns": ("id", "text", "label")}
    assert _read(path, **fields)[1] == {"id": "2", "text": "b", "label": "y"}
    assert _read(path, separator=",", **fields) == _read(path, **fields)
    path.write_text("only\na, b\n")
    assert _read(path, columns=("text",)) == [
        {"text": "only"},
        {"text": "a, b"},
    ]


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ("a,x\nb,y,z\n", COLUMNS, "line 2: 3 field.*data.columns names 2: 'te"),
        ("text,label\na,x\n", COLUMNS, "line 1 is a header; leave data.colum"),
        (
            "a,x\n",
            {"separator": "\\t", **COLUMNS},
            r"line 1: 1 .* by '\\t' \(d",
        ),
        ("text,label\na,b,c\n", {}, "line 2: 3 field.*the header names 2: 'te"),
        ('text\n"a\n' + "b\n" * 30, {}, "line 32: .* quote opens .* never cl"),
    ],
)
def test_fields_that_do_not_fit(tmp_path, content, fields, message):
    with pytest.raises(ValueError, match=message):
        _content(tmp_path, content, **fields)
