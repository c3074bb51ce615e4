"""`benchmark.what=head`: losses and gradients of the projection to words.

N entries (predicted slots, used or not), D width, V vocabulary.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from trainer.commands.benchmarks import (
    flops,
    machine,
    reference,
    steps,
    timing,
)
from trainer.run import Run
from trainer.training import cross_entropy

# ((hidden, kernel, bias), labels, weights) -> float32 []
_Total = Callable[[list[tf.Tensor], tf.Tensor, tf.Tensor], tf.Tensor]


def measure(
    config: schema.Config, workdir: str, runtime: Runtime
) -> dict[str, Any]:
    """Forward and backward of a batch's entries, from random hidden states.

    The dense reference has logits for every slot, in float32, without XLA.
    """
    arithmetic = steps.resolve(config, runtime)
    prepared = Run(config, workdir="", runtime=runtime).rows
    batch = steps.first_batches(config, prepared)[0]
    width = config.model.hidden_size
    vocabulary_size = prepared.tokenizer.vocabulary_size
    shape = [vocabulary_size, width]
    calls = {
        "ours": _create(
            _chunked,
            shape,
            batch["mask_labels"],
            batch["mask_weights"],
            dtype=arithmetic.precision,
            jit=arithmetic.jit,
        )
    }
    if config.benchmark.reference:
        calls["reference"] = _create(
            _dense, shape, *reference.dense_labels(batch)
        )
    seconds = timing.in_turns(
        calls | machine.matmuls(), num_rounds=config.benchmark.num_rounds
    )
    num_used = int(np.count_nonzero(batch["mask_weights"]))
    result = {
        **timing.describe(seconds["ours"]),
        "entries": batch["mask_weights"].shape.num_elements(),
        "used_entries": num_used,
        "width": width,
        "vocabulary_size": vocabulary_size,
        "precision": arithmetic.precision,
        "xla": arithmetic.jit,
        **machine.describe_work(
            flops.head(num_used, vocabulary_size, width),
            statistics.median(seconds["ours"]),
            seconds,
            precision=arithmetic.precision,
        ),
    }
    if config.benchmark.reference:
        result |= timing.compare(seconds["ours"], seconds["reference"])
    return result


def _create(
    total: _Total,
    shape: list[int],
    labels: tf.Tensor,
    weights: tf.Tensor,
    *,
    dtype: str = "float32",
    jit: bool = False,
) -> timing.Call:
    kernel = 0.05 * tf.random.stateless_normal(shape, seed=[0, 0])  # [V, D]
    labels, weights = (tf.reshape(value, [-1]) for value in (labels, weights))
    hidden = tf.random.stateless_normal([*labels.shape, shape[1]], seed=[0, 1])
    hidden = tf.cast(hidden, dtype)  # [N, D]
    compute = tf.function(
        functools.partial(_gradients, total), jit_compile=jit, autograph=False
    )
    return lambda: tf.nest.map_structure(
        lambda gradient: gradient[0].numpy(),
        compute([hidden, kernel, tf.zeros(shape[:1])], labels, weights),
    )


def _gradients(
    total: _Total,
    values: list[tf.Tensor],
    labels: tf.Tensor,
    weights: tf.Tensor,
) -> list[tf.Tensor]:
    """Of the loss, by hidden states [N, D], kernel [V, D] and bias [V]."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = total(values, labels, weights)
    gradients: list[tf.Tensor] = tape.gradient(loss, values)
    return gradients


def _chunked(
    values: list[tf.Tensor], labels: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    return cross_entropy.cross_entropy(
        *values, labels=labels, weights=weights, trains=True
    ).total


def _dense(
    values: list[tf.Tensor], labels: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    hidden, kernel, bias = values
    logits = tf.matmul(hidden, kernel, transpose_b=True) + bias
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(losses * weights)
