"""Labelled text to rows: the roles of pretraining, classes, errors."""

import collections

import pytest

from input_pipeline import (
    labelled,
    labelled_rows,
    manifest,
    prepare,
    text_files,
)
from input_pipeline import tokenizer as tokenizer_lib
from tests.input_pipeline import conftest as tiny


def _open(config):
    return manifest.open_prepared(labelled.prepare(config, tiny.TOKENIZER))


def test_roles_are_those_of_pretraining(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(300))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    pretraining = manifest.open_prepared(prepare.prepare(config))
    for role in ("train", "validation"):
        rows = prepared.roles[role].num_documents
        assert rows == pretraining.roles[role].num_documents > 0
    assert prepared.labels == ("no", "yes")
    report = prepared.report["train"]
    assert sum(report["labels"].values()) == report["documents"]


def test_the_same_bytes_for_one_and_two_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2_000)
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(300))
    found = []
    for number in (1, 2):
        changes = {
            "data.num_processes": number,
            "data.prepared_dir": str(tmp_path / f"p{number}"),
        }
        directory = labelled.prepare(
            tiny.labelled_config(tmp_path, **changes), tiny.TOKENIZER
        )
        found.append(
            {file.name: file.read_bytes() for file in directory.iterdir()}
        )
    assert found[0] == found[1]


def test_the_second_time_nothing_is_done(tmp_path, monkeypatch):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    first = labelled.prepare(tiny.labelled_config(tmp_path), tiny.TOKENIZER)
    monkeypatch.setattr(labelled, "_write_all", None)
    assert (
        labelled.prepare(tiny.labelled_config(tmp_path), tiny.TOKENIZER)
        == first
    )


def test_the_vocabulary_and_the_layout_are_part_of_the_name(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    other = tokenizer_lib.WordTokenizer(["", "[UNK]", "film", "[mask]"])
    rule = tokenizer_lib.UnicodeWordTokenizer(tiny.TOKENIZER.vocabulary)
    names = {
        labelled.prepare(tiny.labelled_config(tmp_path), rule),
        labelled.prepare(tiny.labelled_config(tmp_path), tiny.TOKENIZER),
        labelled.prepare(tiny.labelled_config(tmp_path), other),
        labelled.prepare(
            tiny.labelled_config(tmp_path, **{"finetune.pieces_per_row": 2}),
            tiny.TOKENIZER,
        ),
        labelled.prepare(
            tiny.labelled_config(tmp_path, **{"finetune.packing": "document"}),
            tiny.TOKENIZER,
        ),
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((10, 9, -1), ("-1", "9", "10")),
        (("b", "a", "C"), ("C", "a", "b")),
        ((2, "a", 10), ("2", "10", "a")),
    ],
)
def test_classes_have_an_order(tmp_path, labels, expected):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(150, labels=labels))
    assert _open(tiny.labelled_config(tmp_path)).labels == expected


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (tiny.reviews(50, labels=("a",)), r"one value .*\('a'\)"),
        (
            [*tiny.reviews(50), {"text": "bare", "label": ""}],
            "1 of .* documents have no label",
        ),
    ],
)
def test_labels_that_cannot_be_learned(tmp_path, records, message):
    tiny.write(tmp_path / "reviews.jsonl", records)
    # No test part, so that no document is out of sight.
    tiny.write(tmp_path / "test.jsonl", tiny.reviews(3))
    changes = {"data.test_path": str(tmp_path / "test.jsonl")}
    with pytest.raises(ValueError, match=message):
        _open(tiny.labelled_config(tmp_path, **changes))
    assert not list((tmp_path / "prepared").glob("*.tmp-*/manifest.json"))


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_class_that_no_training_document_has(role, tmp_path):
    config = tiny.labelled_config(tmp_path)
    found = {
        "train": collections.Counter(a=3, b=2),
        "validation": collections.Counter(a=1),
        "test": collections.Counter(b=1),
    }
    assert labelled._classes(config, found, largest=9) == ["a", "b"]
    found[role]["c"] += 1
    with pytest.raises(ValueError, match="'c' occurs in no training document"):
        labelled._classes(config, found, largest=9)


def test_labels_of_a_test_split_by_hash_are_counted(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(300, labels=("", "a")))
    config = tiny.labelled_config(tmp_path)
    with pytest.raises(ValueError, match="150 of 300 documents have no label"):
        labelled.prepare(config, tiny.TOKENIZER)


def test_too_many_classes(tmp_path):
    config = tiny.labelled_config(tmp_path)
    with pytest.raises(ValueError, match="at most 1 classes"):
        labelled._classes(
            config,
            {
                "train": collections.Counter(a=3, b=2),
                "validation": collections.Counter(),
            },
            largest=1,
        )


def test_plain_text_has_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    config = tiny.labelled_config(
        tmp_path,
        **{"data.source": "text", "data.path": str(tmp_path / "a.txt")},
    )
    with pytest.raises(
        labelled.NoLabelsError, match="data.source=text has no labels"
    ):
        labelled.prepare(config, tiny.TOKENIZER)


def test_records_without_labels(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50, labels=("",)))
    with pytest.raises(labelled.NoLabelsError, match="no document has a label"):
        _open(tiny.labelled_config(tmp_path))


def test_width_of_the_rows(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    number = prepared.documents_per_row
    assert 2 <= number <= 16
    layout = labelled_rows.Layout.of(config, number)
    assert prepared.row_width == layout.width == 32 + (number + 4) + number
