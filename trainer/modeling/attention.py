"""Attention between the slots of a segment, and rotary positions.

Dimensions: B rows, L slots, D width, H heads, K = D / H.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import fusion

HIDDEN = -1e9  # Finite, but softmax leaves it no weight.
_GROUP_BYTES = 4 * 2**20  # For the scores of one group of rows on a CPU.


# (weights [b, H, L, L], number of their first row int32 []) -> the weights,
# each times a constant, the same at every call.
Dropout = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    segment_ids: tf.Tensor | None = None,
    dropout: Dropout = lambda weights, first_row: weights,
) -> tf.Tensor:
    """Softmax attention of scaled queries inside segments.

    Padding (segment 0) sees only padding, so that every slot sees something.
    No tensor of [L, L] is kept for the gradient, which computes the weights
    again. It needs no sum over them either: what the gradient of softmax
    subtracts is the inner product of the output and its gradient (Dao et al.,
    "FlashAttention", 2022).

    Args:
      query, key, value: [B, H, L, K].
      segment_ids: int32 [B, L]; if None, every slot sees all others.
      dropout: applied to the weights [B, H, L, L].

    Returns:
      [B, H, L, K].
    """
    segments = () if segment_ids is None else (segment_ids,)

    def forward(
        first: tf.Tensor,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        *segments: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        weights = dropout(_weights(query, key, *segments), first)
        return (tf.matmul(weights, value),)

    def backward(
        first: tf.Tensor,
        mixed: tf.Tensor,
        upstream: tf.Tensor,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        *segments: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        weights = _weights(query, key, *segments)
        inner = tf.cast(upstream, tf.float32) * tf.cast(mixed, tf.float32)
        d_scores = _softmax_gradient(
            weights,
            dropout(tf.matmul(upstream, value, transpose_b=True), first),
            tf.reduce_sum(inner, axis=-1, keepdims=True),
        )
        return (
            tf.matmul(d_scores, key),
            _transposed_product(d_scores, query),
            _transposed_product(dropout(weights, first), upstream),
        )

    @tf.custom_gradient
    def mix(
        *inputs: tf.Tensor,
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        (mixed,) = _by_rows(forward, *inputs, *segments, num_results=1)
        return mixed, lambda upstream: _by_rows(
            backward, mixed, upstream, *inputs, *segments, num_results=3
        )

    mixed: tf.Tensor = mix(query, key, value)
    return mixed


def _by_rows(
    function: Callable[..., tuple[tf.Tensor, ...]],
    *arguments: tf.Tensor,
    num_results: int,
) -> tuple[tf.Tensor, ...]:
    """A function of a batch; on a CPU, of a few rows that fit in its cache.

    Args:
      function: (first row int32 [], *arguments [b, ...] of its rows) ->
        `num_results` tensors [b, H, L, K].
      arguments: tensors [B, ...], the first of them [B, H, L, K].

    Returns:
      The results, [B, H, L, K].
    """
    like = arguments[0]
    if not fusion.is_for_cpus(like):
        return function(tf.constant(0), *arguments)
    num_rows, heads, length, _ = like.shape
    most = max(1, _GROUP_BYTES // (heads * length**2 * like.dtype.size))
    size = max(
        n for n in range(1, num_rows + 1) if n <= most and num_rows % n == 0
    )
    results = tf.map_fn(
        lambda group: function(*group),
        (
            tf.range(0, num_rows, size),
            *(tf.reshape(x, [-1, size, *x.shape[1:]]) for x in arguments),
        ),
        fn_output_signature=(
            tf.TensorSpec([size, *like.shape[1:]], like.dtype),
        )
        * num_results,
        parallel_iterations=2,  # The default of 10 would not fit.
        name="rows",
    )
    return tuple(tf.reshape(x, like.shape) for x in results)


def _weights(
    query: tf.Tensor, key: tf.Tensor, *segments: tf.Tensor
) -> tf.Tensor:
    """[b, H, L, L]; the last axis sums to 1."""
    scores = tf.matmul(query, key, transpose_b=True)
    if segments:
        scores = _inside_segments(scores, *segments)
    return fusion.softmax(scores)


def _transposed_product(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """x^T y of [b, H, L, L] and [b, H, L, K], by transposing the small y."""
    return tf.linalg.matrix_transpose(tf.matmul(y, x, transpose_a=True))


@fusion.fused
def _inside_segments(scores: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
    """Scores [B, H, L, L], hidden where the segments differ."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    hidden = max(HIDDEN, float(scores.dtype.min))
    return tf.where(same, scores, tf.constant(hidden, scores.dtype))


@fusion.fused
def _softmax_gradient(
    weights: tf.Tensor, upstream: tf.Tensor, inner: tf.Tensor
) -> tf.Tensor:
    """The gradient of the scores, [B, H, L, L].

    `inner` is the inner product of weights and upstream, float32 [B, H, L, 1].
    """
    weights32 = tf.cast(weights, tf.float32)
    gradient = weights32 * (tf.cast(upstream, tf.float32) - inner)
    return tf.cast(gradient, weights.dtype)


class Rotation(NamedTuple):
    """Cosine and sine of the angles of each slot, [B, 1, L, K / 2]."""

    cosine: tf.Tensor
    sine: tf.Tensor


def rotation(
    position_ids: tf.Tensor, *, size: int, length: int, dtype: Any
) -> Rotation:
    """Rotary positions (Su et al., "RoFormer", 2021) for int32 [B, L] < length.

    `size` is K. Pair i of a head turns by 10000^(-2i / K) for each position.
    """
    rates = 10_000.0 ** (-np.arange(0, size, 2) / size)  # [K / 2]
    angles = np.arange(length)[:, np.newaxis] * rates
    tables = (np.cos(angles), np.sin(angles))
    return Rotation(
        *(
            tf.gather(tf.constant(table, dtype), position_ids)[:, tf.newaxis]
            for table in tables
        )
    )


def rotate(x: tf.Tensor, by: Rotation) -> tf.Tensor:
    """Turns the pairs (i, i + K / 2) of [B, H, L, K]."""
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat(
        [
            first * by.cosine - second * by.sine,
            first * by.sine + second * by.cosine,
        ],
        axis=-1,
    )
