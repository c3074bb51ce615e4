"""Tests of trainer/modeling/normalization.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.modeling import normalization


def layers(dtype, width):
    """Keras' own in float32, and ours, with the same weights."""
    made = (
        keras.layers.LayerNormalization(epsilon=1e-2, dtype="float32"),
        normalization.LayerNorm(epsilon=1e-2, dtype=dtype),
    )
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=[width]) for _ in range(2)]
    for layer in made:
        layer.build([None, width])
        layer.set_weights(weights)
    return made


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-6), ("mixed_bfloat16", 1e-2)]
)
@pytest.mark.parametrize("shape", [[2, 3, 5], [1, 1], [7, 16]])
def test_equals_the_layer_of_keras(shape, dtype, tolerance, mode):
    plain, ours = layers(dtype, shape[-1])
    x = tf.random.stateless_normal(shape, [0, 1], mean=2.0)
    upstream = tf.random.stateless_normal(shape, [0, 2])

    def compute(layer):
        weights = [w.value for w in layer.trainable_variables]
        inputs = tf.cast(x, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs)
        dy = tf.cast(upstream, y.dtype)
        return y, *tape.gradient(y, [inputs, *weights], dy)

    wanted = compute(plain)
    if mode == "eager":
        got = compute(ours)
    else:
        got = tf.function(lambda: compute(ours), jit_compile=mode == "xla")()
    assert got[0].dtype == got[1].dtype == ours.compute_dtype
    assert got[2].dtype == got[3].dtype == tf.float32
    for a, b in zip(got, wanted, strict=True):
        scale = max(1.0, np.abs(b).max())
        a = tf.cast(a, tf.float32)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)
