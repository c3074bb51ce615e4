"""The dense reference: the step as the Keras example takes it.

A softmax over the vocabulary at every slot, cross-entropy on it with weight 0
where nothing is predicted, stock Keras Adam, float32, no XLA. B rows, L slots,
V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer import modeling

Batch = dict[str, tf.Tensor]


def create_step(
    model: modeling.MaskedLM, learning_rate: float
) -> Callable[[Iterator[Batch], tf.Tensor], tf.Tensor]:
    """(batches, step int64 []) -> loss float32 []; updates the weights.

    Args:
      model: with float32 policy.
      learning_rate: of Adam.
    """
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(batches: Iterator[Batch], number: tf.Tensor) -> tf.Tensor:
        noise = modeling.create_noise(0, step=number)
        with tf.GradientTape() as tape:
            mean = loss(model, next(batches), noise)
        values = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(mean, values, unconnected_gradients="zero")
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return mean

    return step


def loss(
    model: modeling.MaskedLM, batch: Batch, noise: Any = None
) -> tf.Tensor:
    """Mean cross-entropy in nats of the predicted slots, float32 []."""
    rows, length = batch["token_ids"].shape
    everywhere = tf.tile(tf.range(length)[tf.newaxis], [rows, 1])
    logits = model({**batch, "mask_positions": everywhere}, noise=noise)
    labels, weights = dense_labels(batch)
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, tf.nn.softmax(logits)
    )  # [B, L]
    return tf.math.divide_no_nan(
        tf.reduce_sum(losses * weights), tf.reduce_sum(weights)
    )


def dense_labels(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """(labels int32 [B, L], weights float32 [B, L]), 0 where none is."""
    rows, length = batch["token_ids"].shape
    used = batch["mask_weights"]
    row = tf.tile(tf.range(rows)[:, tf.newaxis], [1, used.shape[1]])
    places = tf.stack([row, batch["mask_positions"]], axis=-1)  # [B, P, 2]
    labels = batch["mask_labels"] * tf.cast(used > 0, tf.int32)
    return (
        tf.scatter_nd(places, labels, [rows, length]),
        tf.scatter_nd(places, used, [rows, length]),
    )
