"""The masked-LM head, its model, and one step of it under a strategy."""

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling

VOCABULARY = 40
SLOTS = 8


def _config(**fields):
    small = {
        "num_layers": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "initializer_range": 0.2,
    }
    return schema.ModelConfig(**{**small, **fields})


def _model(*, seed=0, dtype=None, **fields):
    return modeling.create_masked_lm(
        _config(**fields),
        vocabulary_size=VOCABULARY,
        sequence_length=SLOTS,
        seed=seed,
        dtype=dtype,
    )


def _batch(num_rows=3, seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, VOCABULARY, (num_rows, SLOTS))
    return {
        **modeling.features(tokens),
        "mask_positions": tf.constant([[5, 0], [2, 7], [1, 1]] * 2)[:num_rows],
        "mask_labels": tf.constant(draw.integers(1, VOCABULARY, (num_rows, 2))),
        "mask_weights": tf.ones([num_rows, 2]),
    }


@pytest.mark.parametrize(
    ("tie_embeddings", "head_transform"), [(False, False), (True, True)]
)
def test_logits_are_the_explicit_product(tie_embeddings, head_transform):
    model = _model(tie_embeddings=tie_embeddings, head_transform=head_transform)
    model.head.bias.assign(tf.range(VOCABULARY, dtype=tf.float32))
    batch = _batch()
    states = model.encoder(batch).numpy()
    picked = np.stack(
        [
            states[row, slots]
            for row, slots in enumerate(batch["mask_positions"].numpy())
        ]
    )  # [B, P, D]
    for layer in model.head.transform:
        picked = layer(picked)
    kernel = (
        model.encoder.token_embedding.embeddings
        if tie_embeddings
        else model.head.kernel
    )
    expected = picked @ kernel.numpy().T + np.arange(VOCABULARY)
    logits = model(batch)
    assert logits.shape == (3, 2, VOCABULARY)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert len(model.head.transform) == 2 * head_transform
    # What a loss that never holds all logits gets instead.
    hidden, kernel, bias = model.predictions(batch)
    assert hidden.shape == (6, 16)
    assert kernel.shape == (VOCABULARY, 16)
    logits = tf.matmul(hidden, kernel, transpose_b=True) + bias
    np.testing.assert_allclose(
        tf.reshape(logits, [3, 2, -1]), expected, atol=1e-4
    )


def test_bfloat16_gives_float32_logits():
    batch = _batch()
    model = _model(dtype="mixed_bfloat16")
    kernel, bias = model.head.projection()
    assert model(batch).dtype == kernel.dtype == bias.dtype == tf.float32
    assert model.predictions(batch)[0].dtype == tf.bfloat16
    assert {v.dtype for v in model.variables} == {"float32"}
    assert np.abs(model(batch) - _model()(batch)).mean() < 0.05


def test_initial_weights_are_a_function_of_the_seed():
    def drawn(seed):
        model = _model(seed=seed, tie_embeddings=False)
        return {
            v.path: v.numpy()
            for v in model.variables
            if v.path.endswith(("kernel", "embeddings"))
        }

    first, again, other = drawn(1), drawn(1), drawn(2)
    for path, array in first.items():
        np.testing.assert_array_equal(array, again[path])
        assert (array != other[path]).all()
    assert len({array.tobytes() for array in first.values()}) == len(first)
