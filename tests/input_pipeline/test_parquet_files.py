import datetime
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import schema
from input_pipeline import cleaning, parquet_files, sources, text_files


def _write(path, *, row_group_size=None, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def _config(path, **fields):
    return schema.DataConfig(source="parquet", path=str(path), **fields)


def _read(data, units=None):
    return [
        document
        for unit in units or sources.list_units(data)
        for document in sources.read(data, unit, cleaning.Counts())
    ]


def test_every_row_is_read_once_and_in_order(tmp_path, monkeypatch):
    # Batches end inside of pieces, and pieces inside of row groups.
    monkeypatch.setattr(parquet_files, "_BATCH_BYTES", 200)
    texts = [f"text {n} {'word ' * (n % 7)}" for n in range(103)]
    for group_rows in (1, 7, 50, 103, 1_000):
        path = _write(
            tmp_path / "a.parquet", row_group_size=group_rows, text=texts
        )
        for unit_bytes in (1, 300, 10**6):
            monkeypatch.setattr(text_files, "UNIT_BYTES", unit_bytes)
            data = _config(path)
            units = sources.list_units(data)
            assert units == pickle.loads(pickle.dumps(units))
            found = [
                document.raw.decode()
                for unit in reversed(units)  # Each is read on its own.
                for document in reversed(_read(data, [unit]))
            ]
            assert found[::-1] == texts
            pieces = [piece for unit in units for piece in unit.pieces]
            groups = [piece.start // group_rows for piece in pieces]
            assert groups == [(p.stop - 1) // group_rows for p in pieces]
            for group in set(groups):
                assert groups.count(group) <= 32
            if unit_bytes == 10**6:
                assert len(units) == 1


def test_text_label_and_group_of_every_type(tmp_path):
    path = tmp_path / "a.parquet"
    for strings in (pa.string(), pa.large_string(), pa.string_view()):
        _write(
            path,
            text=pa.array(["good", "", "bad"], strings),
            label=pa.array([" pos ", None, "neg"]).dictionary_encode(),
            who=pa.array([1, 2, None]),
            more=[[1], [2], []],
        )
        assert _read(_config(path, group_field="who")) == [
            (b"good", "pos", "1"),
            (b"", "", "2"),
            (b"bad", "neg", ""),
        ]
    raw = pa.array([b"bad \xff", b"utf-8"])
    for column in (raw, raw.cast(pa.string(), safe=False)):
        _write(path, text=column, label=[0.5, 1.0])
        assert _read(_config(path)) == [
            (b"bad \xff", "0.5", ""),
            (b"utf-8", "1.0", ""),
        ]
    _write(path, text=["a"], label=[True])
    assert _read(_config(path)) == [(b"a", "true", "")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"], "label": [1]}, "row 1: no field 'text'; found 'body'"),
        ({"text": ["a", None]}, "row 2: field 'text' is null"),
        (
            {"text": [["a"], ["b"]]},
            "row 1: field 'text' is a list; a text must",
        ),
        ({"text": [{"body": "a"}]}, "row 1: field 'text' is an object"),
        ({"text": [1]}, "row 1: field 'text' is a number"),
        (
            {"text": ["a", "b"], "label": [[], [{"x": 1}]]},
            "row 2: field 'label' is a list with an object in it; each of",
        ),
        (
            {"text": ["a"], "label": [datetime.date(2000, 1, 1)]},
            "row 1: field 'label' is a date; a label must be",
        ),
        (
            {"text": ["a"], "label": pa.array([b"gr\xfcn"])},
            "row 1: field 'label' is not UTF-8",
        ),
    ],
)
def test_columns_that_are_no_text_and_no_label(tmp_path, columns, message):
    path = _write(tmp_path / "a.parquet", **columns)
    with pytest.raises(ValueError, match=rf"a\.parquet, {message}"):
        _read(_config(path))


def test_a_torn_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    _write(path, text=[f"{n:0100}" for n in range(2_000)])
    whole = path.read_bytes()
    torn = {
        "cut": whole[:-100],
        "start": whole[5_000:],
        "page": whole[:3_000] + b"\xff" * 3_000 + whole[6_000:],
        "footer": whole[:-200] + b"\xff" * 180 + whole[-20:],
        "no parquet": b"text\na\n",
    }
    for content in torn.values():
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"a\.parquet .*as parquet: .*torn"
        ):
            _read(_config(path))


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = _write(tmp_path / "a.parquet", text=["a", "b", "c"])
    data = _config(path)
    units = sources.list_units(data)
    _write(path, text=["a", "b"])
    with pytest.raises(ValueError, match=r"a\.parquet has become shorter"):
        _read(data, units)
