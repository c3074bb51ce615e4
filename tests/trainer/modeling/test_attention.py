"""Tests of trainer/modeling/attention.py."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.modeling import attention


def plain_attention(query, key, value, segment_ids, keep):
    scores = tf.matmul(query, key, transpose_b=True)
    if segment_ids is not None:
        same = segment_ids[:, :, None] == segment_ids[:, None, :]
        scores = tf.where(same[:, None], scores, -1e9)
    return tf.matmul(keep * tf.nn.softmax(scores), value)


@pytest.mark.parametrize(
    ("mode", "rows", "drops", "whole"),
    [
        ("eager", 6, True, False),
        ("xla", 6, True, False),
        ("graph", 6, False, True),
        ("graph", 4, True, False),  # Four at a time do not divide six.
        ("graph", 1, False, False),
    ],
)
def test_gradients_of_attention_are_those_of_its_formula(
    mode, rows, drops, whole, monkeypatch
):
    monkeypatch.setattr(attention, "_GROUP_BYTES", rows * 3 * 5 * 5 * 4)
    shape, size = [6, 3, 5, 4], [6, 3, 5, 5]
    inputs = [tf.random.stateless_normal(shape, [0, n]) for n in range(3)]
    upstream = tf.random.stateless_normal(shape, [0, 9])
    keep = tf.cast(tf.random.stateless_uniform(size, [1, 0]) > 0.3, tf.float32)
    keep = keep / 0.7 if drops else tf.ones(size)
    segments = tf.constant(
        [[1, 1, 2, 2, 0], [1, 1, 1, 1, 1], [1, 2, 3, 0, 0]] * 2
    )
    segments = None if whole else segments

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function()
        return output, tape.gradient(output, inputs, upstream)

    def compute():
        return gradients(
            lambda: attention.attend(
                *inputs,
                segments,
                lambda w, first: w * keep[first : first + tf.shape(w)[0]],
            )
        )

    if mode != "eager":
        compute = tf.function(compute, jit_compile=mode == "xla")
    wanted = gradients(lambda: plain_attention(*inputs, segments, keep))
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6),
        compute(),
        wanted,
    )


def test_rotation_is_multiplication_by_a_complex_number():
    size, length = 6, 10
    draw = np.random.default_rng(0)
    x = draw.normal(size=[2, 3, 4, size]).astype(np.float32)
    positions = draw.integers(0, length, [2, 4])
    turn = attention.rotation(
        tf.constant(positions), size=size, length=length, dtype=tf.float32
    )
    rates = 10_000.0 ** (-2 * np.arange(size // 2) / size)
    angles = positions[:, np.newaxis, :, np.newaxis] * rates
    pairs = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    expected = np.concatenate([pairs.real, pairs.imag], -1)
    np.testing.assert_allclose(attention.rotate(x, turn), expected, atol=1e-5)
