"""Softmax cross-entropy over a large vocabulary, a few rows at a time.

N entries (predicted slots, used or not), R rows of a chunk, D width,
V vocabulary. No tensor of [N, V] exists, and unused entries cost nothing:
the used ones are moved to the front and the sweep stops behind them, with
smaller chunks at its end. The gradients are formed in the same sweep, because
the loss is a sum and what comes from above is one number (Hsu et al., "Liger
Kernel", 2024).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from trainer import fusion

# Rows of a chunk, by the bytes of a number: [384, 30000] bfloat16 is 22 MiB,
# [256, 30000] float32 29 MiB, about a CPU's last cache.
CHUNK_ROWS = {2: 384, 4: 256}
_PART_ROWS = 64  # What does not fill a chunk goes in two parts, then in one.

# Smaller numbers of a dtype lose precision (they are subnormal).
_SMALLEST = {tf.float16: 6.2e-5, tf.bfloat16: 1.2e-38, tf.float32: 1.2e-38}


class Losses(NamedTuple):
    """Losses of all entries; gradients flow through `total` alone."""

    total: tf.Tensor  # float32 []: sum of weight * loss.
    each: tf.Tensor  # float32 [N]: loss in nats; 0 where the weight is 0.
    correct: tf.Tensor  # float32 [N]: 1 where the best guess is right.


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
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., list[tf.Tensor]]]:
        losses, gradients = _sweep(
            hidden, kernel, bias, labels, weights, trains=trains
        )

        def backward(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
            assert trains, "called with trains=False"
            if tf.get_static_value(upstream) == 1:  # No pass over [V, D].
                return gradients
            return [x * tf.cast(upstream, x.dtype) for x in gradients]

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
) -> tuple[Losses, list[tf.Tensor]]:
    """The losses and, if `trains`, the gradients of their weighted sum.

    Those are of hidden, [N, D], kernel and bias.
    """
    entries = _Parts.of(weights)
    sorted_inputs = [entries.sorted(x) for x in (hidden, labels, weights)]
    table = tf.cast(kernel, hidden.dtype)  # [V, D]
    width = hidden.shape[1]

    def add(first: tf.Tensor, found: _Found, *, parts: int) -> _Found:
        x, label, weight = (
            entries.chunk(values, first, parts) for values in sorted_inputs
        )
        loss, correct, probabilities = _softmax(x, table, bias, label)
        used = tf.cast(weight > 0, tf.float32)
        found = found._replace(
            each=entries.written(found.each, first, loss * used),
            correct=entries.written(found.correct, first, correct),
        )
        if not trains:
            return found
        d_hidden, d_projection = _chunk_gradients(
            x, table, probabilities, label, weight
        )
        return found._replace(
            d_hidden=entries.written(found.d_hidden, first, d_hidden),
            d_projection=found.d_projection + d_projection,
        )

    found = _Found(entries.array(tf.float32), entries.array(tf.float32))
    if trains:
        found = found._replace(
            d_hidden=entries.array(hidden.dtype, width),
            d_projection=tf.zeros([width + 1, kernel.shape[0]]),
        )
    first = tf.constant(0)
    for parts in (CHUNK_ROWS[hidden.dtype.size] // _PART_ROWS, 2, 1):
        if parts > entries.num_parts:
            continue
        first, found = tf.while_loop(
            lambda first, _, parts=parts: first + parts
            <= entries.num_used_parts,
            lambda first, found, parts=parts: (
                first + parts,
                add(first, found, parts=parts),
            ),
            (first, found),
            parallel_iterations=1,  # By default 10 chunks may live at once.
            name="vocabulary",
        )
    each, correct = map(entries.restored, (found.each, found.correct))
    losses = Losses(tf.reduce_sum(each * weights), each, correct)
    if not trains:
        return losses, []
    # A loss is log(sum(exp(logits))) less the logit of the label. What stands
    # in d_projection is the gradient of the first term; the second is
    # subtracted here.
    x, label, weight = sorted_inputs
    weighted = tf.cast(x, tf.float32) * weight[:, tf.newaxis]
    d_kernel = tf.tensor_scatter_nd_sub(
        tf.transpose(found.d_projection[:-1]), label[:, tf.newaxis], weighted
    )
    d_bias = tf.tensor_scatter_nd_sub(
        found.d_projection[-1], label[:, tf.newaxis], weight
    )
    return losses, [entries.restored(found.d_hidden), d_kernel, d_bias]


class _Parts(NamedTuple):
    """The N entries in parts of R rows, the used ones first."""

    order: tf.Tensor  # int32 [N]
    rows: int  # R; a chunk is several parts.
    num_parts: int
    num_used_parts: tf.Tensor  # int32 []

    @classmethod
    def of(cls, weights: tf.Tensor) -> "_Parts":
        (num_entries,) = weights.shape
        rows = min(_PART_ROWS, num_entries)
        num_used = tf.math.count_nonzero(weights, dtype=tf.int32)
        return cls(
            tf.argsort(weights, direction="DESCENDING", stable=True),
            rows,
            num_parts=-(-num_entries // rows),
            num_used_parts=-(-num_used // rows),
        )

    def sorted(self, values: tf.Tensor) -> tf.Tensor:
        """[N, ...] -> [parts * R, ...], padded with zeros."""
        missing = self.num_parts * self.rows - values.shape[0]
        padding = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
        return tf.pad(tf.gather(values, self.order), padding)

    def chunk(
        self, values: tf.Tensor, first: tf.Tensor, parts: int
    ) -> tf.Tensor:
        """So many parts of sorted values, from the first: [parts * R, ...]."""
        return tf.slice(
            values,
            [first * self.rows] + [0] * (values.shape.rank - 1),
            [parts * self.rows, *values.shape[1:]],
        )

    def array(self, dtype: tf.DType, *shape: int) -> tf.TensorArray:
        """For what is found of each part, [R, *shape]."""
        return tf.TensorArray(
            dtype, self.num_parts, element_shape=(self.rows, *shape)
        )

    def written(
        self, array: tf.TensorArray, first: tf.Tensor, chunk: tf.Tensor
    ) -> tf.TensorArray:
        """The array with a chunk [parts * R, ...] from the first part on."""
        parts = tf.split(chunk, chunk.shape[0] // self.rows)
        for number, part in enumerate(parts):
            array = array.write(first + number, part)
        return array

    def restored(self, array: tf.TensorArray) -> tf.Tensor:
        """All parts as [N, ...], where their entries were."""
        parts = array.stack()
        flat = tf.reshape(parts, [-1, *parts.shape[2:]])
        return tf.gather(flat, tf.math.invert_permutation(self.order))


class _Found(NamedTuple):
    """What the sweep carries from chunk to chunk.

    Without gradients it does not carry them: XLA fails in the third of three
    loops that hand on a constant.
    """

    each: tf.TensorArray  # of float32 [rows], a part at a time; so the next two
    correct: tf.TensorArray
    d_hidden: Any = ()  # TensorArray of [rows, D]
    # float32 [D + 1, V]: the kernel's, transposed, and the bias', both without
    # the labels' part.
    d_projection: Any = ()


def _softmax(
    x: tf.Tensor, table: tf.Tensor, bias: tf.Tensor, label: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of one chunk: losses in nats and hits, float32 [R]; probabilities [R, V].

    The probabilities have the dtype of `x`.
    """

    def logits() -> tf.Tensor:
        product = tf.matmul(x, table, transpose_b=True)
        return tf.nn.bias_add(product, tf.cast(bias, x.dtype))

    def at(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(values, index, batch_dims=1), tf.float32)

    probabilities = fusion.softmax(logits())
    guess = _best(probabilities)
    best, right = at(probabilities, guess), at(probabilities, label)
    underflows = right < _SMALLEST[x.dtype]

    def exactly() -> tf.Tensor:  # The largest probability is at least 1 / V.
        # This is rare, so the logits are computed again instead of kept.
        again = logits()
        top = tf.cast(tf.reduce_max(again, axis=-1), tf.float32)
        loss = top - tf.math.log(best) - at(again, label)
        return tf.where(underflows, loss, -tf.math.log(right))

    loss = tf.cond(
        tf.reduce_any(underflows), exactly, lambda: -tf.math.log(right)
    )
    return loss, tf.cast(guess == label, tf.float32), probabilities


def _chunk_gradients(
    x: tf.Tensor,
    table: tf.Tensor,
    probabilities: tf.Tensor,
    label: tf.Tensor,
    weight: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the hidden vectors [R, D], and of the projection, see `_Found`.

    The weights go to the small factor of each product, and the small factor is
    what is transposed. The bias is a weight of an input that is always 1.
    """
    d_hidden = tf.cast(tf.matmul(probabilities, table), tf.float32)
    d_hidden -= tf.cast(tf.gather(table, label), tf.float32)
    column = tf.cast(weight, x.dtype)[:, tf.newaxis]  # [R, 1]
    weighted = tf.concat([x * column, column], axis=1)  # [R, D + 1]
    d_projection = tf.matmul(weighted, probabilities, transpose_a=True)
    return (
        tf.cast(d_hidden * weight[:, tf.newaxis], x.dtype),
        tf.cast(d_projection, tf.float32),
    )


def _best(probabilities: tf.Tensor) -> tf.Tensor:
    """The most likely token of each row, the first of equals: int32 [R].

    The bits of numbers that are not negative are ordered as the numbers are;
    on a CPU, integers are searched twice as fast as bfloat16.
    """
    is_bfloat16 = probabilities.dtype == tf.bfloat16
    if is_bfloat16 and fusion.is_for_cpus(probabilities):
        probabilities = tf.bitcast(probabilities, tf.int16)
    return tf.argmax(probabilities, axis=-1, output_type=tf.int32)


def two_level_cross_entropy(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    *,
    labels: tf.Tensor,
    weights: tf.Tensor,
    rare_rates: tf.Tensor,
) -> Losses:
    """The losses of a softmax in two levels (Grave et al., 2017), to train on.

    The first level chooses among the K frequent tokens, those with the lowest
    ids, and a cluster that stands for all others; the second among the others,
    and is computed for their entries alone. Together they are a normalised
    distribution over all tokens.

    The cluster has no weights of its own. In `cross_entropy`'s softmax, the
    log-sum-exp of the others' logits would stand in its place; here it is the
    tangent to that at `rare_rates`, which lies below: their mean logit and the
    entropy of the rates.

    Args:
      hidden, kernel, bias, labels, weights: as in `cross_entropy`.
      rare_rates: float32 [V - K]: how often each of the others occurs among
        themselves; they add up to 1 and none is 0.

    Returns:
      As in `cross_entropy`. The best guess is the best of the first level and,
      if that is the cluster, the best of the second.
    """
    num_rare = rare_rates.shape[0]
    num_frequent = kernel.shape[0] - num_rare
    frequent_kernel, rare_kernel = tf.split(kernel, [num_frequent, num_rare])
    frequent_bias, rare_bias = tf.split(bias, [num_frequent, num_rare])
    rates = rare_rates[tf.newaxis]  # [1, V - K]
    surprise = rare_bias - tf.math.log(rare_rates)
    first = cross_entropy(  # The frequent tokens and the cluster.
        hidden,
        tf.concat([frequent_kernel, tf.matmul(rates, rare_kernel)], axis=0),
        tf.concat([frequent_bias, tf.linalg.matvec(rates, surprise)], axis=0),
        labels=tf.minimum(labels, num_frequent),
        weights=weights,
        trains=True,
    )
    is_rare = tf.cast(labels >= num_frequent, tf.float32)
    second = cross_entropy(
        hidden,
        rare_kernel,
        rare_bias,
        labels=tf.maximum(labels - num_frequent, 0),
        weights=weights * is_rare,
        trains=True,
    )
    return Losses(
        first.total + second.total,
        first.each + second.each,
        first.correct * (1 - is_rare + is_rare * second.correct),
    )
