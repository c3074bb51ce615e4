import csv
import dataclasses
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from configs import schema
from input_pipeline import cleaning, manifest, preparation, sources
from tests.input_pipeline import conftest as tiny


def test_more_text_without_labels(tmp_path):
    """Lines of text beside records, and a field that is none of a label."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}')
    data = schema.DataConfig(source="jsonl", path=str(path))
    (tmp_path / "more.txt").write_text("plain\nwords\n")
    (tmp_path / "more.jsonl").write_text('{"text": "ugly", "label": [1]}\n')
    data = dataclasses.replace(data, unlabeled_path=f"{tmp_path}/more.*")
    units = sources.list_units(data)
    found = [
        (unit.split, document.raw, document.label)
        for unit in units
        for document in sources.read(data, unit, cleaning.Counts())
    ]
    assert sources.fingerprint(data, units)["source"] == "jsonl"
    assert found == [
        ("train", b"good", "1"),
        ("train", b"bad", "0"),
        ("unlabeled", b"ugly", ""),
        ("unlabeled", b"plain", ""),
        ("unlabeled", b"words", ""),
    ]


def test_reading_never_counts_what_the_cleaner_counts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\n\n \nword " * 200_000)
    data = schema.DataConfig(source="text", path=str(path), document="file")
    counts = cleaning.Counts()
    for unit in sources.list_units(data):
        raws = [raw for raw, *_ in sources.read(data, unit, counts)]
    assert counts == cleaning.Counts(documents_split=len(raws) - 1)
    assert len(raws) == 2
    for raw in raws:
        cleaning.clean(raw, counts)
    assert counts.bytes_read == path.stat().st_size
    assert counts.bytes_read == counts.bytes_kept + counts.bytes_dropped


def _csv(records, *, header=True, **fields):
    """Records as the text of a csv file."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["text", "label"], **fields)
    if header:
        writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def _write_all(folder, records):
    """The same records in every form; their settings by name."""
    plain = {
        "a.csv": _csv(records),
        "a.tsv": _csv(records, delimiter="\t"),
        "semicolons.csv": _csv(records, delimiter=";"),
        "headerless.csv": _csv(records, header=False),
        "a.jsonl": "".join(json.dumps(r) + "\n" for r in records).encode(),
    }
    plain["b.csv.gz"] = gzip.compress(plain["a.csv"])
    plain["b.csv.zst"] = zstandard.compress(plain["a.csv"])
    plain["b.jsonl.zst"] = zstandard.compress(plain["a.jsonl"])
    for name, content in plain.items():
        (folder / name).write_bytes(content)
    table = pa.Table.from_pylist(records)
    pq.write_table(table, folder / "a.parquet", row_group_size=40)
    for number, record in enumerate(records):
        path = folder / "folders" / record["label"] / f"{number:04}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record["text"])
    settings = {
        name: {"data.source": "jsonl" if "jsonl" in name else "csv"}
        for name in plain
    }
    settings["headerless.csv"]["data.columns"] = ("text", "label")
    settings["a.parquet"] = {"data.source": "parquet"}
    settings["folders"] = {"data.source": "folders"}
    return settings


def test_the_same_documents_give_the_same_rows_from_every_source(tmp_path):
    records = [*tiny.reviews(120), {"text": "", "label": "no"}]
    records[5]["text"] += ' a "quote", and a; b\tc\n| d'
    expected = None
    for name, changes in _write_all(tmp_path, records).items():
        config = tiny.labelled_config(
            tmp_path, **{"data.path": str(tmp_path / name), **changes}
        )
        found = []
        for directory in (
            preparation.prepare(config),
            preparation.prepare_labelled(config, tiny.TOKENIZER),
        ):
            prepared = manifest.open_prepared(directory)
            shards = sorted(directory.glob("*.tfrecord"))
            rows = [path.read_bytes() for path in shards]
            found.append((rows, prepared.labels, prepared.report))
        assert found[0][2]["read"]["documents_dropped_empty"] == 1, name
        expected = expected or found
        assert found == expected, name


def test_several_labels_give_the_same_rows_from_every_source(tmp_path):
    names = ("b", "a", "c, d")
    records = [
        {**record, "label": [n for i, n in enumerate(names) if number >> i & 1]}
        for number, record in enumerate(tiny.reviews(120))
    ]
    joined = [{**r, "label": "|".join(r["label"]) or "|"} for r in records]
    tiny.write(tmp_path / "a.jsonl", records)
    (tmp_path / "a.csv").write_bytes(_csv(joined))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    found = []
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        config = tiny.labelled_config(
            tmp_path,
            **{
                "data.source": name[2:],
                "data.path": str(tmp_path / name),
                "data.label_separator": "|" if name == "a.csv" else "",
            },
        )
        prepared = manifest.open_prepared(
            preparation.prepare_labelled(config, tiny.TOKENIZER)
        )
        found.append(
            (
                [p.read_bytes() for p in prepared.directory.glob("*.tfrecord")],
                prepared.labels,
                prepared.label_sets,
                prepared.report,
            )
        )
    assert found[0] == found[1] == found[2]
    assert found[0][1] == ("a", "b", "c, d")
    assert {*found[0][2]} == {
        (), (0,), (1,), (0, 1), (2,), (0, 2), (1, 2), (0, 1, 2)
    }  # fmt: skip


def test_how_files_are_read_identifies_them_only_where_it_is_set(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,body\na,1,b\n")
    (tmp_path / "t.csv").write_text("text,label,body\nc,0,d\n")
    data = schema.DataConfig(
        source="csv",
        path=f"{tmp_path}/a.csv",
        test_path=f"{tmp_path}/t.csv",
        test_text_field="body",
        test_label_field="text",
    )
    units = sources.list_units(data)
    found = [
        tuple(document[:2])
        for unit in units
        for document in sources.read(data, unit, cleaning.Counts())
    ]
    assert found == [(b"a", "1"), (b"d", "c")]
    own = [unit for unit in units if unit.split != "test"]
    without = dataclasses.replace(data, test_text_field="", test_label_field="")
    # Another reading of the test file is another test of the same rows.
    before = sources.fingerprint(without, units)
    assert sources.fingerprint(data, own) == sources.fingerprint(without, own)
    assert {*before} == {"source", "content"}
    others = [
        sources.fingerprint(other, units)
        for other in (
            data,
            dataclasses.replace(without, separator=","),
            dataclasses.replace(without, columns=("text", "label", "body")),
            dataclasses.replace(without, label_names=("no", "yes")),
            dataclasses.replace(without, label_separator="|"),
            dataclasses.replace(without, label_kind="one"),
        )
    ]
    assert len({json.dumps(other) for other in [before, *others]}) == 7


def test_lines_beside_every_kind_of_record(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "more.txt.zst").write_bytes(zstandard.compress(b"b\nc\n"))
    data = schema.DataConfig(
        source="parquet",
        path=f"{tmp_path}/a.parquet",
        unlabeled_path=f"{tmp_path}/more.txt.zst",
    )
    found = [
        document.raw
        for unit in sources.list_units(data)
        for document in sources.read(data, unit, cleaning.Counts())
    ]
    assert found == [b"a", b"b", b"c"]
