"""What is evaluated is what preparing set aside, and all of it."""

import json

import pytest

from configs import schema
from input_pipeline import held_out, manifest, preparation
from input_pipeline.corpus import Corpus


@pytest.fixture
def write(tmp_path):
    """A function: name, records -> a jsonl file with them."""

    def create(name, records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
        return str(path)

    return create


def read(data):
    counts = held_out.Counts()
    return [*held_out.examples(Corpus(data), counts)], counts


def test_own_split_is_read_whole(write):
    train = write("train.jsonl", [{"text": "seen", "label": "a"}])
    test = write(
        "test.jsonl",
        [
            {"text": "one", "label": "a"},
            {"text": " \x00 ", "label": "a"},
            {"text": "two\x01", "label": 3},
            {"text": "three"},
        ],
    )
    data = schema.DataConfig(source="jsonl", path=train, test_path=test)
    found, counts = read(data)
    assert [(e.raw, e.label) for e in found] == [
        (b"one", "a"),
        (b"two\x01", "3"),
    ]
    assert found[1].place == f"test document 3, in {test}"
    assert counts == held_out.Counts(
        evaluated=2, empty=1, without_label=1, split=0, own_split=True
    )


def test_a_tenth_by_hash_is_what_preparing_set_aside(write, tmp_path):
    records = [
        {"text": f"some text {number} in it", "label": str(number % 2)}
        for number in range(400)
    ]
    values = {
        "source": "jsonl",
        "path": write("all.jsonl", records),
        "prepared_dir": str(tmp_path / "prepared"),
        "num_processes": 1,
    }
    config = schema.Config(data=schema.DataConfig(**values))
    found, counts = read(config.data)
    prepared = manifest.open_prepared(preparation.prepare(config))
    assert 20 < len(found) < 60
    assert not counts.own_split
    assert (
        counts.evaluated
        == len({e.digest for e in found})
        == prepared.report["documents_reserved_for_test"]
    )
    rows = prepared.report["rows"]
    rest = sum(rows[role]["documents"] for role in ("train", "validation"))
    assert counts.evaluated + rest == 400
