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
    ("steps", "reached", "starts", "ends"),
    [
        ((2, 4), [0, 2, 4, 6], 2, 4),
        ((2, 4), [3, 4], 3, 4),  # Resumed inside.
        ((0, 1), [0, 1], 0, 1),
        ((2, 9), [2, 5, 12], 2, 12),  # A callback stopped the call early.
    ],
)
def test_records_from_one_step_to_the_other(
    calls, tmp_path, steps, reached, starts, ends
):
    with profiling.Trace(tmp_path, steps) as trace:
        for step in reached:
            before = len(calls)
            trace.at(step)
            if step == starts:
                assert calls[before:] == [str(tmp_path)]
            if step == ends:
                assert calls[before:] == ["stop"]
    assert calls == [str(tmp_path), "stop"]


@pytest.mark.parametrize("steps", [(0, 0), (2, 4)])
def test_records_nothing_outside(calls, tmp_path, steps):
    with profiling.Trace(tmp_path, steps) as trace:
        for step in (0, 1, 4, 5):
            trace.at(step)
    assert not calls


def test_what_was_begun_is_written_when_the_run_fails(calls, tmp_path):
    with (
        pytest.raises(KeyError),
        profiling.Trace(tmp_path, (0, 9)) as trace,
    ):
        trace.at(0)
        raise KeyError
    assert calls == [str(tmp_path), "stop"]


def test_tensorboard_finds_the_trace(tmp_path):
    with profiling.Trace(tmp_path, (0, 1)) as trace:
        trace.at(0)
        tf.constant(1.0) + 1.0
        trace.at(1)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
