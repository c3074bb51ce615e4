"""Attention between the slots of a segment, and rotary positions.

Dimensions: B rows, L slots, D width, H heads, K = D / H.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import fusion

HIDDEN = -1e9  # A score that leaves no weight, yet is finite in float32.


def attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    segment_ids: tf.Tensor | None = None,
    dropout: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tf.Tensor:
    """Softmax attention of scaled queries inside segments.

    Padding (segment 0) sees padding only, so that every slot sees something.
    The gradient needs no sum over [L, L]: what softmax subtracts is the
    product of the output and its gradient (Dao et al., "FlashAttention", 2022).

    Args:
      query, key, value: [B, H, L, K].
      segment_ids: int32 [B, L]; without, every slot sees every other.
      dropout: of the weights [B, H, L, L]: multiplies each by a constant, the
        same constant whenever it is called.

    Returns:
      [B, H, L, K].
    """

    @tf.custom_gradient
    def mix(
        query: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        scores = tf.matmul(query, key, transpose_b=True)  # [B, H, L, L]
        if segment_ids is not None:
            scores = _inside_segments(scores, segment_ids)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32))
        weights = tf.cast(weights, query.dtype)
        mixed = tf.matmul(dropout(weights), value)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            inner = tf.cast(upstream, tf.float32) * tf.cast(mixed, tf.float32)
            d_scores = _softmax_gradient(
                weights,
                dropout(tf.matmul(upstream, value, transpose_b=True)),
                tf.reduce_sum(inner, axis=-1, keepdims=True),
            )
            return (
                tf.matmul(d_scores, key),
                tf.matmul(d_scores, query, transpose_a=True),
                tf.matmul(dropout(weights), upstream, transpose_a=True),
            )

        return mixed, backward

    mixed: tf.Tensor = mix(query, key, value)
    return mixed


@fusion.fused
def _inside_segments(scores: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
    """float32 [B, H, L, L], hidden where the segments differ."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return tf.where(same, tf.cast(scores, tf.float32), HIDDEN)


@fusion.fused
def _softmax_gradient(
    weights: tf.Tensor, upstream: tf.Tensor, inner: tf.Tensor
) -> tf.Tensor:
    """[B, H, L, L] twice, their inner product float32 [B, H, L, 1]."""
    weights32 = tf.cast(weights, tf.float32)
    gradient = weights32 * (tf.cast(upstream, tf.float32) - inner)
    return tf.cast(gradient, weights.dtype)


class Rotation(NamedTuple):
    """Cosine and sine of every slot's angles, [B, L, 1, K / 2]."""

    cosine: tf.Tensor
    sine: tf.Tensor


def rotation(
    position_ids: tf.Tensor, *, size: int, length: int, dtype: Any
) -> Rotation:
    """Rotary positions (Su et al., "RoFormer", 2021) for int32 [B, L] < length.

    `size` is K; pair i of a head turns by 10000^(-2i / K) a position.
    """
    rates = 10_000.0 ** (-np.arange(0, size, 2) / size)  # [K / 2]
    angles = np.arange(length)[:, np.newaxis] * rates
    tables = (np.cos(angles), np.sin(angles))
    return Rotation(
        *(
            tf.gather(tf.constant(table, dtype), position_ids)[:, :, tf.newaxis]
            for table in tables
        )
    )


def rotate(x: tf.Tensor, by: Rotation) -> tf.Tensor:
    """Turns the pairs (i, i + K / 2) of [B, L, H, K]."""
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat(
        [
            first * by.cosine - second * by.sine,
            first * by.sine + second * by.cosine,
        ],
        axis=-1,
    )
