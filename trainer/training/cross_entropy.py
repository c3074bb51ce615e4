"""Softmax cross-entropy over a large vocabulary, a few rows at a time.

N entries (predicted slots, used or not), R rows of a chunk, D width,
V vocabulary. No tensor of [N, V] exists, and unused entries cost nothing:
the used ones are moved to the front and the sweep stops behind them. The
gradients are formed in the same sweep, because the loss is a sum and what
comes from above is one number (Hsu et al., "Liger Kernel", 2024).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

# Rows of a chunk: [256, 30000] float32 is 29 MiB, about a CPU's last cache.
_CHUNK_ROWS = 256


class Losses(NamedTuple):
    """What the sweep finds; gradients flow through `total` alone."""

    total: tf.Tensor  # float32 []: sum of weight * loss.
    each: tf.Tensor  # float32 [N]: loss in nats; 0 where the weight is 0.
    correct: tf.Tensor  # float32 [N]: 1 where the best guess is right.


class _Gradients(NamedTuple):
    hidden: tf.Tensor  # [N, D]
    kernel: tf.Tensor  # float32 [V, D]
    bias: tf.Tensor  # float32 [V]


def cross_entropy(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    *,
    labels: tf.Tensor,
    weights: tf.Tensor,
    trains: bool,
) -> Losses:
    """The losses of `softmax(hidden @ kernel.T + bias)` against `labels`.

    Args:
      hidden: [N, D] in the compute dtype; N is static.
      kernel: float32 [V, D].
      bias: float32 [V].
      labels: int32 [N].
      weights: float32 [N]; entries of weight 0 are not computed.
      trains: False leaves the gradients out, which saves two thirds.
    """

    @tf.custom_gradient
    def total(
        hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., _Gradients]]:
        losses, gradients = _sweep(
            hidden, kernel, bias, labels, weights, trains=trains
        )

        def backward(upstream: tf.Tensor, *_: tf.Tensor) -> _Gradients:
            assert trains, "called with trains=False"
            return _Gradients(
                gradients.hidden * tf.cast(upstream, hidden.dtype),
                gradients.kernel * upstream,
                gradients.bias * upstream,
            )

        return tuple(losses), backward

    losses = Losses(*total(hidden, kernel, bias))
    return losses._replace(
        each=tf.stop_gradient(losses.each),
        correct=tf.stop_gradient(losses.correct),
    )


def _sweep(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    *,
    trains: bool,
) -> tuple[Losses, _Gradients]:
    """Losses and, if `trains`, the gradients of their weighted sum."""
    num_entries, width = hidden.shape
    rows = min(_CHUNK_ROWS, num_entries)
    num_chunks = -(-num_entries // rows)
    # The used entries first, in their order.
    order = tf.argsort(weights, direction="DESCENDING", stable=True)
    place = tf.math.invert_permutation(order)
    num_used = tf.math.count_nonzero(weights, dtype=tf.int32)

    def chunks(values: tf.Tensor) -> tf.Tensor:  # [N, ...] -> [chunks, R, ...]
        missing = num_chunks * rows - num_entries
        padding = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
        values = tf.pad(tf.gather(values, order), padding)
        return tf.reshape(values, [num_chunks, rows, *values.shape[1:]])

    def entries(values: tf.TensorArray) -> tf.Tensor:  # and back
        stacked = values.stack()
        flat = tf.reshape(stacked, [num_chunks * rows, *stacked.shape[2:]])
        return tf.gather(flat, place)

    def array(dtype: tf.DType, *shape: int) -> tf.TensorArray:
        return tf.TensorArray(dtype, num_chunks, element_shape=(rows, *shape))

    inputs = [chunks(values) for values in (hidden, labels, weights)]
    table = tf.cast(kernel, hidden.dtype)  # [V, D]

    def add(
        number: tf.Tensor,
        each: tf.TensorArray,
        correct: tf.TensorArray,
        d_hidden: tf.TensorArray,
        d_kernel: tf.Tensor,
        d_bias: tf.Tensor,
    ) -> tuple[Any, ...]:
        x, label, weight = (values[number] for values in inputs)
        logits = tf.matmul(x, table, transpose_b=True)  # [R, V]
        logits = tf.cast(logits, tf.float32) + bias
        softmax = tf.nn.softmax(logits)
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)
        loss = _losses(logits, softmax, best, label)
        each = each.write(number, loss * tf.cast(weight > 0, tf.float32))
        correct = correct.write(number, tf.cast(best == label, tf.float32))
        if trains:
            d_logits = _minus_one_at(softmax, label)
            chunk = _chunk_gradients(x, table, d_logits, weight)
            d_hidden = d_hidden.write(number, chunk.hidden)
            d_kernel += chunk.kernel
            d_bias += chunk.bias
        return number + 1, each, correct, d_hidden, d_kernel, d_bias

    _, each, correct, d_hidden, d_kernel, d_bias = tf.while_loop(
        lambda number, *_: number * rows < num_used,
        add,
        (
            tf.constant(0),
            array(tf.float32),
            array(tf.float32),
            array(hidden.dtype, width),
            tf.zeros(kernel.shape if trains else [], tf.float32),
            tf.zeros(bias.shape if trains else [], tf.float32),
        ),
        name="vocabulary",
    )
    each = entries(each)
    losses = Losses(tf.reduce_sum(each * weights), each, entries(correct))
    return losses, _Gradients(entries(d_hidden), d_kernel, d_bias)


def _losses(
    logits: tf.Tensor, softmax: tf.Tensor, best: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    """Cross-entropy in nats [R] of [R, V], from a softmax that is there.

    TensorFlow's fused op takes half as long again on a CPU. The normalizer
    comes from the largest probability, which is never near 0.
    """
    top, right = (
        tf.gather(logits, ids, batch_dims=1) for ids in (best, labels)
    )
    normalizer = top - tf.math.log(tf.gather(softmax, best, batch_dims=1))
    return normalizer - right


def _minus_one_at(softmax: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The gradient of the losses by the logits, [R, V]."""
    places = tf.stack([tf.range(labels.shape[0]), labels], axis=1)  # [R, 2]
    ones = tf.ones(labels.shape, softmax.dtype)
    return tf.tensor_scatter_nd_sub(softmax, places, ones)


def _chunk_gradients(
    x: tf.Tensor, table: tf.Tensor, d_logits: tf.Tensor, weight: tf.Tensor
) -> _Gradients:
    """Of one chunk; the weights go to the small factors of each product."""
    rounded = tf.cast(d_logits, x.dtype)  # [R, V]
    column = weight[:, tf.newaxis]  # [R, 1]
    weighted = x * tf.cast(column, x.dtype)  # [R, D]
    d_hidden = tf.cast(tf.matmul(rounded, table), tf.float32) * column
    d_kernel = tf.matmul(rounded, weighted, transpose_a=True)  # [V, D]
    d_bias = tf.matmul(d_logits, column, transpose_a=True)[:, 0]  # [V]
    return _Gradients(
        tf.cast(d_hidden, x.dtype), tf.cast(d_kernel, tf.float32), d_bias
    )
