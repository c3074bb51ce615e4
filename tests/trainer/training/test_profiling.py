"""Tests of trainer/training/profiling.py."""

import pytest
import tensorflow as tf

from trainer.training import profiling


@pytest.fixture
def calls(monkeypatch):
    """What the profiler was asked to do."""
    calls = []
    profiler = tf.profiler.experimental
    monkeypatch.setattr(profiler, "start", lambda path: calls.append(path))
    monkeypatch.setattr(profiler, "stop", lambda: calls.append("stop"))
    return calls


@pytest.mark.parametrize(
    ("steps", "reached", "counts"),  # Calls of the profiler after each step.
    [
        ((2, 4), [0, 2, 4, 6], [0, 1, 2, 2]),
        ((2, 4), [3, 4], [1, 2]),  # Resumed inside.
        ((0, 1), [0, 1], [1, 2]),
        ((2, 9), [2, 5, 12], [1, 1, 2]),  # A callback stopped the call early.
        ((2, 4), [0, 1, 4, 5], [0, 0, 0, 0]),
        ((0, 0), [0, 1], [0, 0]),
    ],
)
def test_records_from_one_step_to_the_other(
    calls, tmp_path, steps, reached, counts
):
    found = []
    with profiling.Trace(tmp_path, steps) as trace:
        for step in reached:
            trace.at(step)
            found.append(len(calls))
    assert found == counts
    assert calls == [str(tmp_path), "stop"][: counts[-1]]


def test_what_was_begun_is_written_when_the_run_fails(calls, tmp_path):
    with (
        pytest.raises(KeyError),
        profiling.Trace(tmp_path, (0, 9)) as trace,
    ):
        trace.at(0)
        raise KeyError
    assert calls == [str(tmp_path), "stop"]
