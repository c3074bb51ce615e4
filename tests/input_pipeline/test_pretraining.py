import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import pretraining, stream

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


def _batches(create, prepared, config, *, hosts=1, replicas=1, num_steps=4):
    """Global batches, put together from those of all replicas."""
    parts = []
    for index in range(hosts):
        dataset = create(
            prepared,
            config,
            shard=stream.Shard(index, hosts),
            num_replicas=replicas,
        )
        assert {key: spec.shape for key, spec in dataset.element_spec.items()}
        batches = list(dataset.take(num_steps * replicas))
        parts.append(
            [
                batches[step * replicas : (step + 1) * replicas]
                for step in range(len(batches) // replicas)
            ]
        )
    return [
        {
            key: tf.concat([batch[key] for batch in sum(own, [])], axis=0)
            for key in pretraining.KEYS
        }
        for own in zip(*parts, strict=True)
    ]


def _digests(create, prepared, config, **layout):
    return [
        pretraining.digest(batch)
        for batch in _batches(create, prepared, config, **layout)
    ]


def test_shapes_are_static_and_keys_in_their_order(prepared):
    dataset = pretraining.training_batches(
        prepared, _config(), shard=stream.Shard(1, 2), num_replicas=2
    )
    length, number = [2, LENGTH], [2, 3]  # ceil(0.15 * 16) predictions
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
    # Pinned: the order in which digests are made, of DESIGN's table.
    assert pretraining.KEYS == (
        "token_ids",
        "segment_ids",
        "position_ids",
        "mask_positions",
        "mask_labels",
        "mask_weights",
    )


@pytest.mark.parametrize("hosts", [1, 2])
def test_training_is_known_to_be_endless(prepared, hosts):
    # Else a cluster loses the static shapes.
    dataset = pretraining.training_batches(
        prepared, _config(), shard=stream.Shard(0, hosts)
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_digest_reads_bytes_in_the_order_of_the_keys():
    batch = {
        key: tf.constant([[number, 256]], tf.int32)
        for number, key in enumerate(pretraining.KEYS)
    }
    expected = b"".join(
        number.to_bytes(4, "little") + b"\0\1\0\0" for number in range(6)
    )
    assert (
        pretraining.digest(dict(reversed(batch.items())))
        == hashlib.sha256(expected).hexdigest()
    )


@pytest.mark.parametrize(
    "create", [pretraining.training_batches, pretraining.validation_batches]
)
def test_the_layout_changes_no_batch(create_prepared, create):
    # An epoch of training ends inside the third step of eight rows.
    prepared = create_prepared(train=21, validation=19, length=LENGTH)
    config = _config()
    whole = _digests(create, prepared, config, num_steps=3)
    assert len(set(whole)) == 3
    for hosts, replicas in itertools.product((1, 2, 4), (1, 2)):
        assert whole == _digests(
            create,
            prepared,
            config,
            hosts=hosts,
            replicas=replicas,
            num_steps=3,
        ), (hosts, replicas)


def test_training_starts_at_any_step(prepared):
    config = _config()
    whole = _digests(
        pretraining.training_batches, prepared, config, num_steps=10
    )
    for first in (1, 6, 7):
        dataset = pretraining.training_batches(
            prepared, config, first_step=first
        )
        digests = [pretraining.digest(batch) for batch in dataset.take(3)]
        assert digests == whole[first : first + 3]


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
    batches = _batches(
        pretraining.training_batches, prepared, config, num_steps=25
    )
    rows = _unmasked(batches)
    assert (rows[:, 1:] == 2).all()
    # 25 batches of 8 rows are 4 epochs of 50.
    assert np.bincount(rows[:, 0])[3:].tolist() == [4] * 50


def test_masks_differ_between_epochs_and_seeds(prepared):
    def weights(seed):
        batches = _batches(
            pretraining.training_batches,
            prepared,
            _config(seed=seed),
            num_steps=25,
        )
        order = _unmasked(batches)[:, 0].reshape(4, 50)
        masked = np.concatenate([b["mask_positions"] for b in batches])
        masked = masked.reshape(4, 50, -1)
        return [
            masked[epoch][np.argsort(order[epoch])].tolist()
            for epoch in range(4)
        ]

    epochs = weights(3) + weights(4)
    for number, one in enumerate(epochs):
        for other in epochs[:number]:
            same = sum(a == b for a, b in zip(one, other, strict=True))
            assert same < 10


def test_the_rate_follows_the_step(prepared):
    config = _config(select_rate=1.0, final_select_rate=0.25, decay_steps=4)
    batches = _batches(
        pretraining.training_batches, prepared, config, num_steps=7
    )
    counts = [int(np.sum(b["mask_weights"])) for b in batches]
    rates = [1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25, 0.25]
    assert counts == [rate * SIZE * LENGTH for rate in rates]


def test_validation_is_every_row_once_with_padding_of_no_weight(prepared):
    batches = _batches(pretraining.validation_batches, prepared, _config())
    assert len(batches) == 3
    rows = _unmasked(batches)
    assert rows[:19, 0].tolist() == list(range(3, 22))
    assert not rows[19:].any()
    weights = np.concatenate([b["mask_weights"] for b in batches])
    assert (weights[:19].sum(axis=1) >= 2).all()
    assert not weights[19:].any()


def test_validation_masks_are_frozen(prepared):
    create = pretraining.validation_batches
    frozen = _digests(create, prepared, _config())
    assert frozen == _digests(create, prepared, _config())
    # In every run: whatever its seed, its rate and its batch.
    assert frozen == _digests(create, prepared, _config(seed=99))
    for config in (
        _config(select_rate=0.4),
        _config(select_rate=0.4, seed=1, size=6),
    ):
        batches = _batches(create, prepared, config)
        for key in pretraining.KEYS:
            value = np.concatenate([batch[key] for batch in batches])
            same = np.concatenate(
                [b[key] for b in _batches(create, prepared, _config())]
            )
            if key.startswith("mask_"):
                assert not value[:, 3:].any()
                value = value[:, :3]
            np.testing.assert_array_equal(value[:19], same[:19])


def test_no_validation_row_gives_no_batch(create_prepared):
    prepared = create_prepared(validation=0, length=LENGTH)
    batches = pretraining.validation_batches(prepared, _config())
    assert list(batches) == []


def test_no_random_op_has_a_state(prepared):
    config = _config(policy="span")
    for create in (
        pretraining.training_batches,
        pretraining.validation_batches,
    ):
        dataset = create(prepared, config)
        graph = tf.compat.v1.GraphDef.FromString(
            dataset._as_serialized_graph(
                external_state_policy=(
                    tf.data.experimental.ExternalStatePolicy.IGNORE
                )
            ).numpy()
        )
        nodes = [*graph.node]
        for function in graph.library.function:
            nodes += function.node_def
        random = {
            node.op
            for node in nodes
            if "random" in node.op.lower() or "shuffle" in node.op.lower()
        }
        assert any(op.startswith("StatelessRandom") for op in random)
        assert all(op.startswith("Stateless") for op in random), random


def test_masks_do_not_depend_on_the_random_seed_of_tensorflow(prepared):
    create = pretraining.training_batches
    digests = _digests(create, prepared, _config(), num_steps=2)
    tf.random.set_seed(5)
    try:
        assert digests == _digests(create, prepared, _config(), num_steps=2)
    finally:
        tf.random.set_seed(None)


def test_the_masker_knows_the_tokenizer(prepared):
    config = dataclasses.replace(
        _config(), masking=schema.MaskingConfig(evaluation_rate=0.5)
    )
    masker = pretraining.create_masker(prepared, config)
    assert masker.num_predictions == 8  # The higher of both rates.
    assert masker.special == prepared.tokenizer.special
    assert masker.is_special.sum() == 3


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
