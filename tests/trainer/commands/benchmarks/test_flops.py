"""Tests of trainer/commands/benchmarks/flops.py."""

import dataclasses

import numpy as np

from configs import schema
from trainer.commands.benchmarks import flops

MODEL = schema.ModelConfig(
    num_layers=3,
    hidden_size=8,
    num_heads=2,
    intermediate_size=12,
    head_transform=False,
)
# Two segments of 3 and 2 slots, 3 of padding; one segment of 8.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8])
PAIRS = 3**2 + 2**2 + 8**2


def count(model=MODEL, segment_ids=SEGMENTS):
    return flops.masked_lm(
        model, vocabulary_size=20, segment_ids=segment_ids, num_predicted=5
    )


def test_a_step_is_the_sum_of_its_products():
    # 2 operations a product, three times for forward and backward.
    layer = 13 * (4 * 8 * 8 + 2 * 8 * 12) + 2 * PAIRS * 8
    assert count() == 2 * 3 * (3 * layer + 5 * 20 * 8)
    transformed = dataclasses.replace(MODEL, head_transform=True)
    assert count(transformed) - count() == 2 * 3 * 5 * 8 * 8


def test_padding_costs_nothing():
    assert count(segment_ids=np.pad(SEGMENTS, [[0, 1], [0, 4]])) == count()
