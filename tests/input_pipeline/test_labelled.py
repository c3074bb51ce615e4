"""Labelled text to rows: the roles of pretraining, classes, errors."""

import json

import numpy as np
import pytest

from configs import schema
from input_pipeline import (
    classification,
    labelled,
    labelled_rows,
    manifest,
    prepare,
    stream,
    text_files,
)
from input_pipeline import tokenizer as tokenizer_lib

WORDS = ["good", "bad", "film", "plot"]
TOKENIZER = tokenizer_lib.WordTokenizer(["", "[UNK]", *WORDS, "[mask]"])


def _records(number, *, labels=("no", "yes")):
    return [
        {
            "text": f"{WORDS[n % 4]} film number {n} " + "plot " * (n % 30),
            "label": labels[n % len(labels)],
        }
        for n in range(number)
    ]


def _write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def _config(tmp_path, **changes):
    config = schema.defaults()
    config.update_from_flattened_dict(
        {
            "data.source": "jsonl",
            "data.path": str(tmp_path / "reviews.jsonl"),
            "data.prepared_dir": str(tmp_path / "prepared"),
            "data.sequence_length": 8,
            "data.validation_rate": 0.2,
            "data.num_processes": 1,
            "tokenizer.vocabulary_size": 16,
            "finetune.global_batch_size": 4,
            **changes,
        }
    )
    return schema.Config.from_config_dict(config)


def _open(config):
    return manifest.open_prepared(labelled.prepare(config, TOKENIZER))


def _batches(create, prepared, config, *, hosts=1, replicas=1, num=3):
    """Global batches, put together again from those of every replica."""
    parts = []
    for host in range(hosts):
        dataset = create(
            prepared,
            config,
            shard=stream.Shard(host, hosts),
            num_replicas=replicas,
        )
        batches = list(dataset.take(num * replicas).as_numpy_iterator())
        parts.append(
            [batches[i * replicas : (i + 1) * replicas] for i in range(num)]
        )
    return [
        {
            key: np.concatenate(
                [batch[key] for part in parts for batch in part[step]]
            )
            for key in parts[0][0][0]
        }
        for step in range(num)
    ]


def test_roles_are_those_of_pretraining(tmp_path):
    _write(tmp_path / "reviews.jsonl", _records(300))
    config = _config(tmp_path)
    prepared = _open(config)
    pretraining = manifest.open_prepared(prepare.prepare(config))
    for role in ("train", "validation"):
        rows = prepared.roles[role].num_documents
        assert rows == pretraining.roles[role].num_documents > 0
    assert prepared.labels == ("no", "yes")
    report = prepared.report["train"]
    assert sum(report["labels"].values()) == report["documents"]


def test_every_document_comes_once_with_its_label(tmp_path):
    _write(tmp_path / "reviews.jsonl", _records(200))
    config = _config(tmp_path, **{"data.sequence_length": 16})
    prepared = _open(config)
    counts = {role: np.zeros(2, int) for role in ("train", "validation")}
    dataset = classification.validation_batches(prepared, config)
    for batch in dataset.as_numpy_iterator():
        for label in (0, 1):
            chosen = batch["labels"] == label
            counts["validation"][label] += batch["label_weights"][chosen].sum()
    num_rows = prepared.roles["train"].num_rows
    whole = _config(
        tmp_path,
        **{"data.sequence_length": 16, "finetune.global_batch_size": num_rows},
    )
    [batch] = _batches(classification.training_batches, prepared, whole, num=1)
    for label in (0, 1):
        chosen = batch["labels"] == label
        counts["train"][label] += batch["label_weights"][chosen].sum()
    for role, found in counts.items():
        expected = prepared.report[role]["labels"]
        assert found.tolist() == [expected["no"], expected["yes"]]


@pytest.mark.parametrize(("hosts", "replicas"), [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    "create",
    [classification.training_batches, classification.validation_batches],
)
def test_batches_do_not_know_the_layout(tmp_path, create, hosts, replicas):
    _write(tmp_path / "reviews.jsonl", _records(400))
    config = _config(tmp_path)
    prepared = _open(config)
    one = _batches(create, prepared, config)
    many = _batches(create, prepared, config, hosts=hosts, replicas=replicas)
    for a, b in zip(one, many, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_a_step_is_found_again_and_the_seed_matters(tmp_path):
    _write(tmp_path / "reviews.jsonl", _records(300))
    config = _config(tmp_path)
    prepared = _open(config)
    create = classification.training_batches
    batches = _batches(create, prepared, config, num=6)
    later = next(create(prepared, config, first_step=5).as_numpy_iterator())
    np.testing.assert_array_equal(later["token_ids"], batches[5]["token_ids"])
    other = _config(tmp_path, **{"finetune.seed": 1})
    moved = next(create(prepared, other).as_numpy_iterator())
    assert (moved["token_ids"] != batches[0]["token_ids"]).any()


def test_the_same_bytes_for_one_and_two_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2_000)
    _write(tmp_path / "reviews.jsonl", _records(300))
    found = []
    for number in (1, 2):
        changes = {
            "data.num_processes": number,
            "data.prepared_dir": str(tmp_path / f"p{number}"),
        }
        directory = labelled.prepare(_config(tmp_path, **changes), TOKENIZER)
        found.append(
            {file.name: file.read_bytes() for file in directory.iterdir()}
        )
    assert found[0] == found[1]


def test_the_second_time_nothing_is_done(tmp_path, monkeypatch):
    _write(tmp_path / "reviews.jsonl", _records(100))
    first = labelled.prepare(_config(tmp_path), TOKENIZER)
    monkeypatch.setattr(labelled, "_write_all", None)
    assert labelled.prepare(_config(tmp_path), TOKENIZER) == first


def test_the_vocabulary_and_the_layout_are_part_of_the_name(tmp_path):
    _write(tmp_path / "reviews.jsonl", _records(100))
    other = tokenizer_lib.WordTokenizer(["", "[UNK]", "film", "[mask]"])
    names = {
        labelled.prepare(_config(tmp_path), TOKENIZER),
        labelled.prepare(_config(tmp_path), other),
        labelled.prepare(
            _config(tmp_path, **{"finetune.pieces_per_row": 2}), TOKENIZER
        ),
        labelled.prepare(
            _config(tmp_path, **{"finetune.packing": "document"}), TOKENIZER
        ),
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((10, 9, -1), ("-1", "9", "10")),
        (("b", "a", "C"), ("C", "a", "b")),
        ((2, "a", 10), ("2", "10", "a")),
    ],
)
def test_classes_have_an_order(tmp_path, labels, expected):
    _write(tmp_path / "reviews.jsonl", _records(150, labels=labels))
    assert _open(_config(tmp_path)).labels == expected


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (_records(50, labels=("a",)), r"one value .*\('a'\)"),
        (
            [*_records(50), {"text": "bare", "label": ""}],
            "1 of .* documents have no label",
        ),
    ],
)
def test_labels_that_cannot_be_learned(tmp_path, records, message):
    _write(tmp_path / "reviews.jsonl", records)
    # No test part, so that no document is out of sight.
    _write(tmp_path / "test.jsonl", _records(3))
    changes = {"data.test_path": str(tmp_path / "test.jsonl")}
    with pytest.raises(ValueError, match=message):
        _open(_config(tmp_path, **changes))
    assert not list((tmp_path / "prepared").glob("*.tmp-*/manifest.json"))


def test_a_class_that_validation_alone_has(tmp_path):
    config = _config(tmp_path)
    with pytest.raises(ValueError, match="'c' occurs in validation alone"):
        labelled._classes(
            config,
            {
                "train": labelled.collections.Counter(a=3, b=2),
                "validation": labelled.collections.Counter(a=1, c=1),
            },
            largest=9,
        )
    with pytest.raises(ValueError, match="at most 1 classes"):
        labelled._classes(
            config,
            {
                "train": labelled.collections.Counter(a=3, b=2),
                "validation": labelled.collections.Counter(),
            },
            largest=1,
        )


def test_plain_text_has_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    config = _config(
        tmp_path,
        **{"data.source": "text", "data.path": str(tmp_path / "a.txt")},
    )
    with pytest.raises(ValueError, match="data.source=text has no labels"):
        labelled.prepare(config, TOKENIZER)


def test_width_of_the_rows(tmp_path):
    _write(tmp_path / "reviews.jsonl", _records(100))
    config = _config(tmp_path)
    layout = labelled_rows.Layout.of(config)
    assert _open(config).row_width == layout.width == 32 + (2 + 4) + 2
