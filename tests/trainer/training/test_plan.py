"""What is due after a step, which validation is the best, and its means."""

import pytest
import tensorflow as tf

from tests.trainer.training import conftest as tiny
from trainer.training import loop


@pytest.mark.parametrize(
    ("step", "fields", "expected"),
    [
        (0, {}, 6),
        (5, {}, 6),
        (6, {}, 12),
        (7, {"num_steps": 8}, 8),
        (7, {"steps_per_call": 3}, 10),
        (7, {"log_every": 4}, 8),
        (9, {"log_every": 9, "evaluate_every": 3}, 12),
        (7, {"checkpoint_every": 11}, 11),
        (10**12, {"num_steps": 10**13}, 10**12 + 2),
        (1, {"profiled": (2, 4)}, 2),
        (2, {"profiled": (2, 4)}, 4),
        (4, {"profiled": (2, 4)}, 6),
        (1, {"two_level_steps": 2}, 2),
    ],
)
def test_next_boundary(step, fields, expected):
    assert tiny.plan(**fields).next_boundary(step) == expected


def test_what_is_due_when():
    plan = tiny.plan(num_steps=14, evaluate_every=4, checkpoint_every=5)
    steps = range(1, 15)
    assert [n for n in steps if plan.ends_epoch(n)] == [6, 12, 14]
    assert [n for n in steps if plan.evaluates(n)] == [4, 6, 8, 12, 14]
    assert [n for n in steps if plan.saves(n)] == [4, 5, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5, 1.0]),
        ("accuracy", [0.0, 0.2, 0.2, 0.1, 0.3]),
    ],
)
def test_the_best_is_the_first_of_equals(by, values):
    best, steps = loop.Best(by), []
    other = {"loss": "accuracy", "accuracy": "loss"}[by]
    for step, value in enumerate(values, start=1):
        best.see(step, {by: value, other: 0.5})
        best.see(step + 100, {})
        steps.append(best.step)
        assert best.value == values[best.step - 1]
    assert steps == [1, 2, 2, 2, 5]


def test_evaluation_adds_up_in_float64():
    big = 2.0**24

    def call(iterator):
        number = next(iterator)
        return {
            "loss": tf.constant(1.0 if number else big),
            "weight": tf.constant(1.0),
            "correct": tf.constant(float(number % 2)),
        }

    means = loop.evaluate(call, range(100), 5)
    assert means == {"loss": (big + 4) / 5, "accuracy": 0.4}
    zeros = {"loss": 0.0, "weight": 0.0, "correct": 0.0}
    assert loop.evaluate(lambda iterator: zeros, [], 2) == {}
