import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import pretraining, stream
from tests.input_pipeline import conftest as tiny

LENGTH = 16
SIZE = 8


def _config(*, seed=3, size=SIZE, **masking):
    return schema.Config(
        seed=seed,
        data=schema.DataConfig(sequence_length=LENGTH),
        masking=schema.MaskingConfig(**masking),
        train=schema.TrainConfig(global_batch_size=size),
    )


@pytest.fixture(name="prepared")
def _prepared(create_prepared):
    return create_prepared(train=50, validation=19, length=LENGTH)


def _digests(create, prepared, config, **layout):
    batches = tiny.global_batches(create, prepared, config, **layout)
    return [pretraining.digest(batch) for batch in batches]


@pytest.mark.parametrize("hosts", [1, 2])
def test_shapes_are_static_and_training_has_no_end(prepared, hosts):
    # Else a cluster loses the static shapes.
    dataset = pretraining.training_batches(
        prepared,
        _config(),
        shard=stream.Shard(hosts - 1, hosts),
        num_replicas=2,
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    rows = 4 // hosts
    length, number = [rows, LENGTH], [rows, 3]  # ceil(0.15 * 16) predictions
    assert {
        key: (spec.shape.as_list(), spec.dtype.name)
        for key, spec in dataset.element_spec.items()
    } == {
        "token_ids": (length, "int32"),
        "segment_ids": (length, "int32"),
        "position_ids": (length, "int32"),
        "mask_positions": (number, "int32"),
        "mask_labels": (number, "int32"),
        "mask_weights": (number, "float32"),
    }


@pytest.mark.parametrize(
    "create", [pretraining.training_batches, pretraining.validation_batches]
)
def test_the_layout_changes_no_batch(create_prepared, create):
    # An epoch of training ends inside the second step of 16 rows.
    prepared = create_prepared(train=21, validation=19, length=LENGTH)
    config = _config(size=16)
    whole = _digests(create, prepared, config, num_steps=2)
    assert len(set(whole)) == 2
    if create is pretraining.training_batches:  # Which start at any step.
        later = create(prepared, config, first_step=1).take(1)
        assert [pretraining.digest(batch) for batch in later] == whole[1:]
    layout = {"hosts": 2, "replicas": 4, "num_steps": 2}
    assert whole == _digests(create, prepared, config, **layout)


def test_golden_digest(prepared):
    # Pinned: a run that another version resumes must see the same batches.
    (digest,) = _digests(
        pretraining.training_batches, prepared, _config(), num_steps=1
    )
    assert digest == (
        "c4735d5af36a37ee8e13bd3a6af6aa2daef191d7ac34bf3e408ea3ed367410ff"
    )


def _unmasked(batches):
    """The rows [N, L] with their original ids."""
    rows = []
    for batch in batches:
        batch = {key: value.numpy() for key, value in batch.items()}
        ids = batch["token_ids"].copy()
        for row in range(len(ids)):
            used = batch["mask_weights"][row] > 0
            places = batch["mask_positions"][row, used]
            ids[row, places] = batch["mask_labels"][row, used]
        rows.append(ids)
    return np.concatenate(rows)


def test_labels_give_the_rows_back(prepared):
    config = _config(select_rate=0.5)
    batches = tiny.global_batches(
        pretraining.training_batches, prepared, config, num_steps=25
    )
    rows = _unmasked(batches)
    assert (rows[:, 1:] == 2).all()
    # 25 batches of 8 rows are 4 epochs of 50.
    assert np.bincount(rows[:, 0])[3:].tolist() == [4] * 50


def test_the_rate_follows_the_step(prepared):
    config = _config(select_rate=1.0, final_select_rate=0.25, decay_steps=4)
    batches = tiny.global_batches(
        pretraining.training_batches, prepared, config, num_steps=7
    )
    counts = [int(np.sum(b["mask_weights"])) for b in batches]
    rates = [1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25, 0.25]
    assert counts == [rate * SIZE * LENGTH for rate in rates]


def test_validation_is_every_row_once_with_padding_of_no_weight(prepared):
    batches = tiny.global_batches(
        pretraining.validation_batches, prepared, _config()
    )
    assert len(batches) == 3
    rows = _unmasked(batches)
    assert rows[:19, 0].tolist() == list(range(3, 22))
    assert not rows[19:].any()
    weights = np.concatenate([b["mask_weights"] for b in batches])
    assert (weights[:19].sum(axis=1) >= 2).all()
    assert not weights[19:].any()


def test_validation_masks_are_frozen(prepared):
    """In every run, whatever its seed, its rate and its batch."""
    create = pretraining.validation_batches
    batches = tiny.global_batches(create, prepared, _config())
    others = tiny.global_batches(
        create, prepared, _config(select_rate=0.4, seed=1, size=6)
    )
    for key in pretraining.KEYS:
        one, other = (
            np.concatenate([batch[key] for batch in found])[:19]
            for found in (batches, others)
        )
        if key.startswith("mask_"):
            assert not other[:, 3:].any()
            other = other[:, :3]
        np.testing.assert_array_equal(one, other)


def test_a_large_vocabulary_has_two_levels_and_a_small_one_has_one():
    def rates(size):
        frequencies = 1 / np.arange(1.0, size + 1)
        logs = np.log(frequencies / frequencies.sum()).astype(np.float32)
        return pretraining.rare_rates(logs)

    assert rates(1_500) is None
    rare = rates(30_000)
    assert rare.dtype == np.float32
    assert len(rare) == 30_000 - 4_095
    np.testing.assert_allclose(rare.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(rare[0] / rare[-1], 30_000 / 4_096, rtol=1e-3)
