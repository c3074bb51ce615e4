"""`benchmark.what=attention`: self-attention over rows of several lengths.

B rows, L slots, D width, H heads; B * L is that of the config.
"""

import statistics
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from trainer.commands.benchmarks import flops, machine, steps, timing
from trainer.modeling import layers

_LENGTHS = (128, 256, 512, 1024)
_SEGMENT = 200  # Slots of a document; rows of 128 hold pieces of one.


def measure(
    config: schema.Config, workdir: str, runtime: Runtime
) -> dict[str, Any]:
    """Forward and backward of one layer's attention, length by length.

    The reference is `keras.layers.MultiHeadAttention`, float32, without XLA.
    """
    arithmetic = steps.resolve(config, runtime)
    model = config.model
    num_slots = config.train.global_batch_size * config.data.sequence_length
    segments = {length: _segments(num_slots, length) for length in _LENGTHS}
    calls: dict[str, timing.Call] = {}
    for length, segment_ids in segments.items():
        calls[f"ours_{length}"] = _ours(
            model, segment_ids, dtype=arithmetic.policy, jit=arithmetic.jit
        )
        if config.benchmark.reference:
            calls[f"reference_{length}"] = _reference(model, segment_ids)
    seconds = timing.in_turns(
        calls | machine.matmuls(), num_rounds=config.benchmark.num_rounds
    )
    result = {
        "slots": num_slots,
        "precision": arithmetic.precision,
        "xla": arithmetic.jit,
    }
    for length, segment_ids in segments.items():
        ours = seconds[f"ours_{length}"]
        work = flops.attention(model, segment_ids)
        work += flops.projections(model, num_tokens=segment_ids.size)
        found = timing.describe(ours) | machine.describe_work(
            work,
            statistics.median(ours),
            seconds,
            precision=arithmetic.precision,
        )
        if config.benchmark.reference:
            found |= timing.compare(ours, seconds[f"reference_{length}"])
        result |= {f"{length}_{name}": value for name, value in found.items()}
    return result


def _segments(num_slots: int, length: int) -> np.ndarray:
    """int32 [B, L]: rows full of documents of 200 slots."""
    row = np.arange(length, dtype=np.int32) // _SEGMENT + 1
    return np.tile(row, (max(1, num_slots // length), 1))


def _ours(
    model: schema.ModelConfig,
    segment_ids: np.ndarray,
    *,
    dtype: str,
    jit: bool,
) -> timing.Call:
    make = layers.LayerFactory(model, seed=0, stream=0, dtype=dtype)
    layer = layers.SelfAttention(make, dropout_index=0, name="attention")
    layer.build((None, None, model.hidden_size))

    def attend(x: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        return layer(x, segment_ids=segment_ids)

    states = tf.cast(_states(model, segment_ids), layer.compute_dtype)
    return _create(
        attend, layer.trainable_variables, states, segment_ids, jit=jit
    )


def _reference(
    model: schema.ModelConfig, segment_ids: np.ndarray
) -> timing.Call:
    width, heads = model.hidden_size, model.num_heads
    layer = keras.layers.MultiHeadAttention(heads, width // heads)
    layer.build((None, None, width), (None, None, width))

    def attend(x: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        same = segment_ids[:, :, tf.newaxis] == segment_ids[:, tf.newaxis]
        return layer(x, x, attention_mask=same)

    states = _states(model, segment_ids)
    return _create(attend, layer.trainable_variables, states, segment_ids)


def _states(model: schema.ModelConfig, segment_ids: np.ndarray) -> tf.Tensor:
    """Random float32 [B, L, D]."""
    shape = [*segment_ids.shape, model.hidden_size]
    return tf.random.stateless_normal(shape, seed=[0, 0])


def _create(
    attend: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    weights: list[keras.Variable],
    states: tf.Tensor,
    segment_ids: np.ndarray,
    *,
    jit: bool = False,
) -> timing.Call:
    """Gradients of the summed output by the states and the weights."""
    values = [weight.value for weight in weights]

    @tf.function(jit_compile=jit, autograph=False)
    def compute(states: tf.Tensor, segment_ids: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(states)
            total = tf.reduce_sum(tf.square(attend(states, segment_ids)))
        gradients: list[tf.Tensor] = tape.gradient(
            total, [states, *values], unconnected_gradients="zero"
        )
        return gradients

    segments = tf.constant(segment_ids)
    return lambda: compute(states, segments)[0][0, 0].numpy()
