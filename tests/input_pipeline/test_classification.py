"""Batches of labelled rows: every document once, on any layout."""

import numpy as np
import pytest

from input_pipeline import classification, manifest, preparation
from tests.input_pipeline import conftest as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reviews lie, and their rows, which are prepared once."""
    folder = tmp_path_factory.mktemp("reviews")
    tiny.write(folder / "reviews.jsonl", tiny.reviews(400))
    return folder


def _open(config):
    return manifest.open_prepared(
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    )


def test_every_document_comes_once_with_its_label(folder):
    prepared = _open(tiny.labelled_config(folder))
    one_batch = tiny.labelled_config(
        folder,
        **{"finetune.global_batch_size": prepared.roles["train"].num_rows},
    )
    [train] = tiny.global_batches(
        classification.training_batches, prepared, one_batch, num_steps=1
    )
    validation = classification.validation_batches(prepared, one_batch)
    for role, batches in (("train", [train]), ("validation", validation)):
        expected = prepared.report[role]["labels"]
        found = np.zeros(2, int)
        for batch in batches:
            used = batch["label_weights"] > 0
            found += np.bincount(batch["labels"][used], minlength=2)
        assert found.tolist() == [expected["no"], expected["yes"]]


@pytest.mark.parametrize(
    "create",
    [classification.training_batches, classification.validation_batches],
)
def test_batches_do_not_know_the_layout(folder, create):
    config = tiny.labelled_config(folder)
    prepared = _open(config)
    one = tiny.global_batches(create, prepared, config, num_steps=3)
    for hosts, replicas in ((1, 2), (2, 1), (2, 2)):
        many = tiny.global_batches(
            create,
            prepared,
            config,
            hosts=hosts,
            replicas=replicas,
            num_steps=3,
        )
        for a, b in zip(one, many, strict=True):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])


def test_a_step_is_found_again_and_the_seed_matters(folder):
    config = tiny.labelled_config(folder)
    prepared = _open(config)
    create = classification.training_batches
    batches = list(create(prepared, config).take(6))
    [later] = create(prepared, config, first_step=5).take(1)
    np.testing.assert_array_equal(later["token_ids"], batches[5]["token_ids"])
    other = tiny.labelled_config(folder, **{"finetune.seed": 1})
    [moved] = create(prepared, other).take(1)
    assert (moved["token_ids"] != batches[0]["token_ids"]).numpy().any()
