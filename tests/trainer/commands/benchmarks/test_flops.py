"""Tests of trainer/commands/benchmarks/flops.py."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer.commands.benchmarks import flops

MODEL = schema.ModelConfig(
    num_layers=1,
    hidden_size=8,
    num_heads=2,
    intermediate_size=12,
    head_transform=False,
)
# Two segments of 3 and 2 slots, 3 of padding; one segment of 8.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8])


def test_attention_stays_inside_segments():
    pairs = 3**2 + 2**2 + 8**2
    # Scores and mixing, 2 operations a product, three times for the backward.
    assert flops.attention(MODEL, SEGMENTS) == pairs * 8 * 2 * 2 * 3


def test_a_step_is_the_sum_of_its_products():
    found = flops.masked_lm(
        MODEL, vocabulary_size=20, segment_ids=SEGMENTS, num_predicted=5
    )
    weights = 13 * (4 * 8 * 8 + 2 * 8 * 12) + 5 * 20 * 8
    assert found == 6 * weights + flops.attention(MODEL, SEGMENTS)


@pytest.mark.parametrize(
    ("field", "value", "more"),
    [("head_transform", True, 6 * 5 * 8 * 8), ("num_layers", 1, 0)],
)
def test_what_a_field_adds(field, value, more):
    def count(model):
        return flops.masked_lm(
            model, vocabulary_size=20, segment_ids=SEGMENTS, num_predicted=5
        )

    changed = dataclasses.replace(MODEL, **{field: value})
    assert count(changed) - count(MODEL) == more


def test_padding_costs_nothing():
    padded = np.pad(SEGMENTS, [[0, 1], [0, 4]])
    assert flops.attention(MODEL, padded) == flops.attention(MODEL, SEGMENTS)


def test_tensorflow_counts_the_same_forward():
    # One row that is one segment, as TensorFlow knows of no other.
    length, width = 8, MODEL.hidden_size

    @tf.function
    def forward(x, kernel):
        return tf.matmul(tf.matmul(x, kernel), tf.transpose(kernel))

    graph = forward.get_concrete_function(
        tf.TensorSpec([length, width]), tf.TensorSpec([width, 12])
    ).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = tf.compat.v1.profiler.profile(graph, options=options)
    expected = flops.feed_forward(MODEL, num_tokens=length) / 3
    assert counted.total_float_ops == expected
