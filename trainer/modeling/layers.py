"""Layers of the encoder, with dropout as a function of (seed, step, row).

Dimensions: B rows, L slots, D width, H heads, K = D / H.
"""

import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from configs import schema
from trainer import fusion
from trainer.modeling import attention

_MULTIPLIER, _INCREMENT = 1664525, 1013904223  # Of `pcg3d`.
_PHILOX = 1  # "auto" picks an algorithm 100 times slower under XLA on a CPU.


class Noise(NamedTuple):
    """Where dropout's randomness comes from; int64 tensors [].

    Dropout is a function of these, the layer's index, the row's position in
    the global batch and the element, so no split of the batch changes it:
    rows 4 to 7 of a call with first_row=0 are rows 0 to 3 of one with 4.
    """

    seed: tf.Tensor
    step: tf.Tensor
    first_row: tf.Tensor  # Global position of the call's first row.

    def later(self, rows: tf.Tensor) -> "Noise":
        """The noise of the rows after the first `rows`."""
        first_row = self.first_row + tf.cast(rows, tf.int64)
        return self._replace(first_row=first_row)

    def for_parts(self, parts: int) -> "Noise":
        """The noise of rows that were each cut into `parts` rows."""
        return self._replace(first_row=self.first_row * parts)


def create_noise(seed: Any, *, step: Any, first_row: Any = 0) -> Noise:
    """Noise from integers or integer tensors.

    They become tensors, because Keras refuses a mix of the two.
    """
    return Noise(*(tf.cast(x, tf.int64) for x in (seed, step, first_row)))


def row_keys(
    noise: Noise, *, index: int, num_rows: tf.Tensor | int
) -> tf.Tensor:
    """Two random words for each row, uint32 [num_rows, 2].

    `index` tells the uses of one noise apart.
    """
    seed = tf.cast(tf.reshape(noise.seed, [1]), tf.uint64)
    block = _philox(  # A row is one step of the counter.
        [num_rows, 4],
        key=_philox([1], seed, (noise.step, index), tf.uint64),
        counter=(noise.first_row, 0),
        dtype=tf.uint32,
    )
    return block[:, :2]


def _philox(shape: Any, key: tf.Tensor, counter: Any, dtype: Any) -> tf.Tensor:
    # A constant upper half lets XLA drop the carry: 3 times faster on a CPU.
    counter = tf.stack([tf.cast(half, tf.uint64) for half in counter])
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, dtype=dtype
    )


def random_words(keys: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Uniform uint32 [B, *shape], a function of the row's key and the element.

    `pcg3d` of Jarzynski and Olano, "Hash Functions for GPU Rendering" (JCGT,
    2020), of (element, key, key). It needs a few operations for each element
    and nothing of its neighbours, so XLA computes a word where it is used and
    never stores one.

    Args:
      keys: uint32 [B, 2].
      shape: the shape of a row.
    """
    keys = tf.reshape(keys, [-1, 2, *(1 for _ in shape)])
    y, z = (keys[:, i] * _MULTIPLIER + _INCREMENT for i in range(2))
    x = y * z + _INCREMENT
    # Axis by axis, or XLA would keep the numbers of the elements in memory.
    for axis, size in enumerate(shape):
        inner = shape[axis + 1 :]
        stride = np.uint32(_MULTIPLIER * math.prod(inner) % 2**32)
        steps = np.arange(size, dtype=np.uint32) * stride
        x += steps.reshape([size, *(1 for _ in inner)])
    y += z * x
    z += x * y
    x, y, z = (v ^ tf.bitwise.right_shift(v, 16) for v in (x, y, z))
    return x + y * z


def threshold(rate: float) -> int:
    """The word below which a share `rate` of all words lies, to 2^-32."""
    return min(round(rate * 2**32), 2**32 - 1)


class Dropout(keras.layers.Layer):
    """Inverted dropout whose mask the layout of the batch cannot change.

    Keras' own dropout draws the same mask on every replica and is 100 times
    slower under XLA on a CPU. The mask is not stored for the gradient, but
    computed again.
    """

    def __init__(self, rate: float, index: int, *, name: str) -> None:
        """Drops `rate` of the elements; `index` is unique in the model."""
        super().__init__(autocast=False, name=name)  # x keeps its dtype.
        self.rate = rate
        self.index = index
        self.built = True

    def call(self, x: tf.Tensor, noise: Noise | None = None) -> tf.Tensor:
        """x [B, ...], static except for B; returns x where noise is None."""
        if noise is None or not self.rate:
            return x
        keys = row_keys(
            noise,
            index=self.index,
            num_rows=tf.shape(x)[0] if x.shape[0] is None else x.shape[0],
        )
        least = tf.constant(threshold(self.rate), tf.uint32)
        scale = tf.constant(1 / (1 - self.rate), x.dtype)

        @tf.custom_gradient
        def drop(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return (
                _where_kept(x, keys, least, scale),
                lambda dy: _where_kept(dy, keys, least, scale),
            )

        return drop(x)


@fusion.fused
def _where_kept(
    x: tf.Tensor, keys: tf.Tensor, least: tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
    """`x` times `scale` where its word is at least `least`, else 0."""
    words = random_words(keys, tuple(x.shape[1:]))
    return tf.where(words >= least, x * scale, tf.zeros([], x.dtype))


ACTIVATIONS = {
    "relu": tf.nn.relu,
    "gelu": fusion.recomputed(functools.partial(tf.nn.gelu, approximate=False)),
    "gelu_tanh": fusion.recomputed(
        functools.partial(tf.nn.gelu, approximate=True)
    ),
}


class LayerFactory:
    """Makes Keras layers with the settings and the dtype policy of a model.

    The seed of the n-th weight is a function of (seed, stream, n); nothing
    global counts.
    """

    def __init__(
        self, model: schema.ModelConfig, *, seed: int, stream: int, dtype: Any
    ) -> None:
        """`stream` tells the factories of one model apart; dtype: a policy."""
        self.model = model
        self.dtype = dtype
        self._seeds = np.random.SeedSequence([seed, stream])

    def embedding(self, size: int, name: str) -> keras.layers.Embedding:
        """A table [size, D]."""
        return keras.layers.Embedding(
            size,
            self.model.hidden_size,
            embeddings_initializer=self.initializer(
                keras.initializers.RandomUniform
            ),
            dtype=self.dtype,
            name=name,
        )

    def dense(self, size: int, name: str, activation: str = "") -> Any:
        """[..., n] -> [..., size]."""
        return keras.layers.Dense(
            size,
            activation=ACTIVATIONS[activation] if activation else None,
            kernel_initializer=self.initializer(),
            dtype=self.dtype,
            name=name,
        )

    def einsum(
        self,
        equation: str,
        name: str,
        *,
        shape: tuple[int, ...],
        bias: str | None = None,
    ) -> keras.layers.EinsumDense:
        """[B, L, ...] -> [B, L, *shape], with a bias over the axes `bias`."""
        return keras.layers.EinsumDense(
            equation,
            output_shape=(None, *shape),
            bias_axes=bias,
            kernel_initializer=self.initializer(),
            dtype=self.dtype,
            name=name,
        )

    def norm(self, name: str) -> keras.layers.LayerNormalization:
        """LayerNorm over the last axis; computed in float32."""
        return keras.layers.LayerNormalization(
            epsilon=self.model.layer_norm_epsilon,
            dtype=self.dtype,
            name=name,
        )

    def initializer(
        self, default: Any = keras.initializers.GlorotUniform
    ) -> keras.initializers.Initializer:
        """BERT's truncated normal, or `default` if initializer_range is 0."""
        seed = int(self._seeds.spawn(1)[0].generate_state(1)[0])
        stddev = self.model.initializer_range
        if not stddev:
            return default(seed=seed)
        return keras.initializers.TruncatedNormal(stddev=stddev, seed=seed)


class SelfAttention(keras.layers.Layer):
    """Multi-head attention; weights as in `keras.layers.MultiHeadAttention`.

    query, key, value: kernel [D, H, K], bias [H, K]; output: [H, K, D], [D].
    """

    def __init__(
        self, make: LayerFactory, *, dropout_index: int, name: str
    ) -> None:
        """Makes the projections and the dropout of the attention weights."""
        # Autocast would round the bias.
        super().__init__(autocast=False, dtype=make.dtype, name=name)
        width, heads = make.model.hidden_size, make.model.num_heads
        self._scale = (width // heads) ** -0.5
        self.query, self.key, self.value = (
            make.einsum(
                "bld,dhk->blhk", name, shape=(heads, width // heads), bias="hk"
            )
            for name in ("query", "key", "value")
        )
        self.dropout = Dropout(
            make.model.attention_dropout, dropout_index, name="dropout"
        )
        self.attention_output = make.einsum(
            "blhk,hkd->bld", "attention_output", shape=(width,), bias="d"
        )

    def build(self, input_shape: Any) -> None:
        """Creates the weights for x [B, L, D]."""
        for layer in (self.query, self.key, self.value):
            layer.build(input_shape)
        self.attention_output.build(
            self.query.compute_output_shape(input_shape)
        )

    def call(
        self,
        x: tf.Tensor,
        segment_ids: tf.Tensor | None = None,
        noise: Noise | None = None,
        turn: attention.Rotation | None = None,
    ) -> tf.Tensor:
        """x [B, L, D], int32 [B, L] (see `attention.attend`) -> [B, L, D]."""
        query = self.query(x) * self._scale  # [B, L, H, K]
        # The bias of the key is left out: softmax cancels what it adds, and
        # Adam would turn the rounding errors of its gradient, which is 0, into
        # steps.
        kernel = tf.cast(self.key.kernel, x.dtype)  # [D, H, K]
        key = tf.einsum("bld,dhk->blhk", x, kernel)
        query, key, value = (
            tf.transpose(y, [0, 2, 1, 3]) for y in (query, key, self.value(x))
        )
        if turn is not None:
            query, key = (attention.rotate(y, turn) for y in (query, key))
        mixed = attention.attend(
            query,
            key,
            value,
            segment_ids,
            dropout=lambda weights, first_row: self.dropout(
                weights, noise=noise and noise.later(first_row)
            ),
        )
        mixed = tf.transpose(mixed, [0, 2, 1, 3])  # [B, L, H, K]
        return self.attention_output(mixed)


class TransformerLayer(keras.layers.Layer):
    """Self-attention, then feed-forward: each with dropout and a residual.

    Uses the dropout indices `dropout_index` to `dropout_index + 2`.
    """

    def __init__(
        self, make: LayerFactory, *, dropout_index: int, name: str
    ) -> None:
        """LayerNorm before each part ("pre") or after each sum ("post")."""
        super().__init__(autocast=False, dtype=make.dtype, name=name)
        model = make.model
        self._is_pre = model.normalization == "pre"
        self._intermediate_size = model.intermediate_size
        self.attention = SelfAttention(
            make, dropout_index=dropout_index, name="attention"
        )
        self.attention_dropout = Dropout(
            model.dropout, dropout_index + 1, name="attention_dropout"
        )
        self.attention_norm = make.norm("attention_norm")
        self.intermediate = make.dense(
            model.intermediate_size, "intermediate", model.activation
        )
        self.output_dense = make.dense(model.hidden_size, "output_dense")
        self.feedforward_dropout = Dropout(
            model.dropout, dropout_index + 2, name="feedforward_dropout"
        )
        self.feedforward_norm = make.norm("feedforward_norm")

    def build(self, input_shape: Any) -> None:
        """Creates the weights for x [B, L, D]."""
        self.attention.build(input_shape)
        self.attention_norm.build(input_shape)
        self.intermediate.build(input_shape)
        self.output_dense.build((*input_shape[:-1], self._intermediate_size))
        self.feedforward_norm.build(input_shape)

    def call(
        self,
        x: tf.Tensor,
        segment_ids: tf.Tensor | None = None,
        noise: Noise | None = None,
        turn: attention.Rotation | None = None,
    ) -> tf.Tensor:
        """x [B, L, D], int32 [B, L] (see `attention.attend`) -> [B, L, D]."""

        def attend(x: tf.Tensor) -> tf.Tensor:
            x = self.attention(
                x, segment_ids=segment_ids, noise=noise, turn=turn
            )
            return self.attention_dropout(x, noise=noise)

        if self._is_pre:
            x += attend(self.attention_norm(x))
            return x + self._feed_forward(self.feedforward_norm(x), noise)
        x = self.attention_norm(x + attend(x))
        return self.feedforward_norm(x + self._feed_forward(x, noise))

    def _feed_forward(self, x: tf.Tensor, noise: Noise | None) -> tf.Tensor:
        x = self.output_dense(self.intermediate(x))
        return self.feedforward_dropout(x, noise=noise)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's."""
        return input_shape
