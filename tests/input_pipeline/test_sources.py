import dataclasses

from configs import schema
from input_pipeline import cleaning, sources


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
