"""Tests of trainer/commands/benchmarks/step.py."""

import pytest

from trainer.commands.benchmarks import step, steps


@pytest.fixture
def no_children(monkeypatch):
    """Memory is measured here, without other processes."""
    peaks = {"create_steps": 100, "create_reference": 550}
    monkeypatch.setattr(
        step.machine, "peak_bytes", lambda create, *_: peaks[create.__name__]
    )
    monkeypatch.setattr(step.machine, "_matmul_size", lambda: 64)


def test_measures_a_step_and_the_reference(
    no_children, tiny, one_device, tmp_path
):
    config = tiny(
        {
            "benchmark.num_rounds": 3,
            "benchmark.reference": True,
            "train.steps_per_call": 2,
        }
    )
    result = step.measure(config, str(tmp_path), one_device)
    assert result["rows"] == 8
    assert 0 < result["real_tokens"] <= 8 * 16
    assert 0 < result["predicted_slots"] <= 8 * config.num_predictions
    assert result["milliseconds_minimum"] <= result["milliseconds_median"]
    assert result["real_tokens_per_second"] == pytest.approx(
        1000 * result["real_tokens"] / result["milliseconds_median"], rel=0.01
    )
    assert result["memory_ratio"] == 5.5
    assert len(result["ratios"]) == 3
    assert result["verdict"].split(":")[0] in (
        "input",
        "compute",
        "launches",
        "memory",
    )
    # Documents one a row hold fewer tokens, in the same time.
    packed = result["real_tokens"] / result["reference_real_tokens"]
    assert packed > 1
    assert result["ratio_per_real_token"] == pytest.approx(
        result["ratio_median"] * packed, abs=0.02
    )


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        ({"train.global_batch_size": 8}, 2),
        ({"train.global_batch_size": 6}, None),
        ({"train.global_batch_size": 8, "train.accumulation_steps": 4}, None),
    ],
)
def test_a_quarter_of_the_rows_where_there_is_one(tiny, one_device, more, rows):
    task = steps.create_task(tiny(more), one_device)
    quarter = step._quarter(task)
    assert (quarter and quarter.train.global_batch_size) == rows


@pytest.mark.parametrize(
    ("waits", "quarter", "share", "verdict"),
    [
        (0.06, 0.3, 0.9, "input: a step waits 6%"),
        (0.05, 0.3, 0.5, "compute"),
        (-0.01, 0.71, 0.49, "launches"),
        (-0.01, 0.69, 0.49, "memory"),
    ],
)
def test_verdict(waits, quarter, share, verdict):
    seconds = {"step": [9.0, 1.0, 1.0], "quarter": [quarter]}
    found = step._verdict(seconds, waits=waits, share_of_peak=share)
    assert found.startswith(verdict)
