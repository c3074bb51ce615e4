"""Batches of labelled rows: every document once, on any layout."""

import numpy as np
import pytest

from input_pipeline import classification, manifest, preparation, stream
from tests.input_pipeline import conftest as tiny


def _open(config):
    return manifest.open_prepared(
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    )


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


def test_every_document_comes_once_with_its_label(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(200))
    config = tiny.labelled_config(tmp_path, **{"data.sequence_length": 16})
    prepared = _open(config)
    counts = {role: np.zeros(2, int) for role in ("train", "validation")}
    dataset = classification.validation_batches(prepared, config)
    for batch in dataset.as_numpy_iterator():
        for label in (0, 1):
            chosen = batch["labels"] == label
            counts["validation"][label] += batch["label_weights"][chosen].sum()
    num_rows = prepared.roles["train"].num_rows
    whole = tiny.labelled_config(
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
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(400))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    one = _batches(create, prepared, config)
    many = _batches(create, prepared, config, hosts=hosts, replicas=replicas)
    for a, b in zip(one, many, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_a_step_is_found_again_and_the_seed_matters(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(300))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    create = classification.training_batches
    batches = _batches(create, prepared, config, num=6)
    later = next(create(prepared, config, first_step=5).as_numpy_iterator())
    np.testing.assert_array_equal(later["token_ids"], batches[5]["token_ids"])
    other = tiny.labelled_config(tmp_path, **{"finetune.seed": 1})
    moved = next(create(prepared, other).as_numpy_iterator())
    assert (moved["token_ids"] != batches[0]["token_ids"]).any()
