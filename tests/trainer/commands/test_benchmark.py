"""Tests of trainer/commands/benchmark.py."""

import json

import pytest

from trainer.commands import benchmark


@pytest.fixture
def few_batches(monkeypatch):
    monkeypatch.setattr(benchmark, "_BATCHES_A_ROUND", 5)


def test_prints_and_writes_its_result(
    few_batches, tiny, one_device, tmp_path, capsys
):
    config = tiny({"benchmark.num_rounds": 3})
    benchmark.run(config, workdir=str(tmp_path / "w"), runtime=one_device)
    path = tmp_path / "w" / "benchmark-input.json"
    result = json.loads(path.read_text())
    assert result["what"] == "input"
    assert (
        0
        < result["tokens_per_second_minimum"]
        <= result["tokens_per_second_median"]
        <= result["tokens_per_second_maximum"]
    )
    assert result["global_batch_size"] == 8
    assert result["sequence_length"] == 16
    printed = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in printed] == list(result)


def test_throws_the_first_round_away(few_batches, tiny, monkeypatch):
    # A clock on which the first round takes 100 seconds, the others 1.
    times = iter([0, 100, 100, 101, 101, 102, 102, 103])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(times))
    config = tiny({"benchmark.num_rounds": 3})
    directory = benchmark.prepare.prepare(config)
    prepared = benchmark.manifest.open_prepared(directory)
    result = benchmark.measure_input(config, prepared)
    assert result["tokens_per_second_minimum"] == 5 * 8 * 16
    assert result["milliseconds_per_batch"] == 200
