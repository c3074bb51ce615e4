"""Layer normalization.

Dimensions: N slots, D width.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import fusion


class LayerNorm(keras.layers.LayerNormalization):
    """Keras' own over the last axis; on a CPU, in one pass each way.

    There its sums are matrix products with ones: XLA keeps the order of a sum
    and cannot use vectors for it, those of a product it can.
    """

    def __init__(self, **kwargs: Any) -> None:
        """As Keras' own."""
        super().__init__(autocast=False, **kwargs)  # It would round gamma.

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[..., D] -> the same, in its dtype; computed in float32."""
        if not fusion.is_for_cpus(inputs):
            return super().call(inputs)
        flat = tf.reshape(inputs, [-1, inputs.shape[-1]])
        weights = (tf.convert_to_tensor(w) for w in (self.gamma, self.beta))
        y = _normalize(flat, *weights, tf.constant(self.epsilon))
        return tf.reshape(y, inputs.shape)


@tf.custom_gradient
def _normalize(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """x [N, D], float32 [D] twice, [] -> [N, D]."""

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        return *_gradients(x, gamma, epsilon, dy), None

    return _forward(x, gamma, beta, epsilon), backward


@fusion.fused
def _forward(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: tf.Tensor
) -> tf.Tensor:
    normal, _ = _normal(x, epsilon)
    return tf.cast(normal * gamma + beta, x.dtype)


@fusion.fused
def _gradients(
    x: tf.Tensor, gamma: tf.Tensor, epsilon: tf.Tensor, dy: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of x, gamma and beta."""
    normal, scale = _normal(x, epsilon)
    dy = tf.cast(dy, tf.float32)
    d_normal = dy * gamma
    dx = d_normal - _mean(d_normal) - normal * _mean(d_normal * normal)
    ones = tf.ones([1, x.shape[0]])
    return (
        tf.cast(dx * scale, x.dtype),
        tf.matmul(ones, dy * normal)[0],
        tf.matmul(ones, dy)[0],
    )


def _normal(x: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """float32: [N, D] of mean 0 and variance 1, and its scale [N, 1]."""
    x = tf.cast(x, tf.float32)
    centred = x - _mean(x)
    scale = tf.math.rsqrt(_mean(tf.square(centred)) + epsilon)
    return centred * scale, scale


def _mean(x: tf.Tensor) -> tf.Tensor:
    """[N, D] -> [N, 1]."""
    width = x.shape[-1]
    return tf.matmul(x, tf.fill([width, 1], 1 / width))
