"""The dense reference computes what the fast path computes."""

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling
from trainer.commands.benchmarks import reference
from trainer.training import objective

ROWS, LENGTH, PREDICTIONS, VOCABULARY = 3, 16, 5, 41


def create_model(dtype="float32", **fields):
    return modeling.create_masked_lm(
        schema.ModelConfig(
            num_layers=2,
            hidden_size=8,
            num_heads=2,
            intermediate_size=12,
            **fields,
        ),
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        dtype=dtype,
    )


def create_batch(num_used):
    """Of each row's entries, so many are used."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, VOCABULARY, [ROWS, LENGTH], np.int32)
    order = rng.permuted(np.tile(np.arange(LENGTH), (ROWS, 1)), axis=1)
    used = np.arange(PREDICTIONS) < np.array(num_used)[:, np.newaxis]
    places = np.where(used, order[:, :PREDICTIONS], 0)
    batch = {
        "token_ids": ids,
        "segment_ids": np.sort(rng.integers(1, 4, [ROWS, LENGTH]), axis=1),
        "position_ids": np.tile(np.arange(LENGTH), (ROWS, 1)),
        "mask_positions": places,
        "mask_labels": rng.integers(5, VOCABULARY, places.shape) * used,
        "mask_weights": used,
    }
    return {
        name: tf.cast(value, tf.float32 if name == "mask_weights" else tf.int32)
        for name, value in batch.items()
    }


def gradients(model, loss_of):
    with tf.GradientTape() as tape:
        loss = loss_of()
    values = [variable.value for variable in model.trainable_variables]
    found = tape.gradient(loss, values, unconnected_gradients="zero")
    return [tf.convert_to_tensor(loss), *map(tf.convert_to_tensor, found)]


def fast_loss(model, batch):
    sums = objective.masked_lm(model.predictions(batch), batch)
    return tf.math.divide_no_nan(sums["loss"], sums["weight"])


def assert_near(ours, dense, *, tolerance):
    for a, b in zip(ours, dense, strict=True):
        scale = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


@pytest.mark.parametrize(
    ("num_used", "jit", "tied"),
    [
        ((0, 1, 0), False, False),
        ((0, 0, 0), False, True),
        ((PREDICTIONS, 0, 2), True, True),
        ((PREDICTIONS,) * ROWS, False, True),
    ],
    ids=["one", "none", "a full row with xla", "all"],
)
def test_loss_and_every_gradient_are_those_of_the_fast_path(
    num_used, jit, tied
):
    model, batch = create_model(tie_embeddings=tied), create_batch(num_used)
    ours = tf.function(
        lambda: gradients(model, lambda: fast_loss(model, batch)),
        jit_compile=jit,
        autograph=False,
    )()
    dense = gradients(model, lambda: reference.loss(model, batch))
    assert_near(ours, dense, tolerance=1e-5)


def test_bfloat16_stays_near_the_reference():
    batch = create_batch((5, 3, 4))
    model, rounded = create_model(), create_model("mixed_bfloat16")
    ours = gradients(rounded, lambda: fast_loss(rounded, batch))
    dense = gradients(model, lambda: reference.loss(model, batch))
    assert_near(ours[:1], dense[:1], tolerance=2e-2)
    ours, dense = (
        np.concatenate([np.ravel(gradient) for gradient in gradients])
        for gradients in (ours[1:], dense[1:])
    )
    assert np.linalg.norm(ours - dense) < 2e-2 * np.linalg.norm(dense)


def test_an_unused_entry_does_not_hide_the_slot_that_it_points_to():
    # Unused entries point to slot 0, which the first entry predicts.
    batch = create_batch((1, 0, 0))
    batch["mask_positions"] = tf.zeros([ROWS, PREDICTIONS], tf.int32)
    labels, weights = reference.dense_labels(batch)
    assert int(labels[0, 0]) == int(batch["mask_labels"][0, 0])
    assert float(weights[0, 0]) == float(tf.reduce_sum(weights)) == 1.0
