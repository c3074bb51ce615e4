"""Tests of trainer/commands/benchmarks/serving.py."""

import itertools

import pytest

from configs import schema
from trainer.commands.benchmarks import serving
from trainer.serving import loading


@pytest.fixture
def few_calls(monkeypatch):
    monkeypatch.setattr(serving, "_CALLS", {1: 3, 4: 2})


def test_measures_the_classifier_of_an_export(
    few_calls, tiny, one_device, exported
):
    config = tiny({"benchmark.num_rounds": 3})
    result = serving.measure(config, str(exported), one_device)
    assert result["signature"] == "classify"
    assert 0 < result["bytes_per_text"] < 200
    for size in (1, 4):
        assert result[f"batch_{size}_texts_per_second"] > 0
        middle, slow = (
            result[f"batch_{size}_milliseconds_p{percent}"]
            for percent in (50, 99)
        )
        assert 0 < middle <= slow
    parts = ("import", "load", "first_answer")
    total = sum(result[f"cold_start_seconds_{part}"] for part in parts)
    assert 0 < total <= result["cold_start_seconds"] + 0.02  # Rounded each.


def test_throws_the_first_round_away(
    few_calls, tiny, one_device, tmp_path, monkeypatch
):
    # Every call takes 100 seconds, then, from the second round on, 2.
    clock = itertools.accumulate(
        itertools.chain([0], *([0, t] for t in [100] * 5 + [2] * 15))
    )
    next(clock)
    monkeypatch.setattr(serving.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(serving, "_cold_start", lambda *_: {})
    (tmp_path / "export").mkdir()
    monkeypatch.setattr(
        loading,
        "load",
        lambda _: loading.Exported({}, {"embed": lambda text: {}}),
    )
    config = tiny({"benchmark.num_rounds": 3})
    result = serving.measure(config, str(tmp_path), one_device)
    assert result["batch_1_texts_per_second"] == 0.5
    assert result["batch_4_texts_per_second"] == 2.0
    assert result["batch_4_milliseconds_p99"] == 2_000


def test_texts_are_stored_documents_over_again(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"One!\n\ntwo \xff\n")
    data = schema.DataConfig(source="text", path=str(path))
    assert serving._texts(data, number=5) == [
        b"One!", b"two \xff", b"One!", b"two \xff", b"One!"
    ]  # fmt: skip


def test_a_missing_export_is_named(tiny, one_device, tmp_path):
    with pytest.raises(ValueError, match="make it with --mode=export"):
        serving.measure(tiny(), str(tmp_path), one_device)
