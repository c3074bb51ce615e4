"""Tests of trainer/commands/benchmarks/input.py."""

import types

from trainer.commands.benchmarks import input as input_benchmark


def test_throws_the_first_round_away(tiny, one_device, monkeypatch, tmp_path):
    monkeypatch.setattr(input_benchmark, "_BATCHES_A_ROUND", 5)
    # A clock on which the first round takes 100 seconds, the others 1, 2, 4.
    times = iter([0, 100, 100, 101, 101, 103, 103, 107])
    clock = types.SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr(input_benchmark, "time", clock)
    config = tiny({"benchmark.num_rounds": 3})
    result = input_benchmark.measure(config, str(tmp_path), one_device)
    tokens = 5 * 8 * 16
    assert result["tokens_per_second_maximum"] == tokens
    assert result["tokens_per_second_median"] == tokens / 2
    assert result["tokens_per_second_minimum"] == tokens / 4
    assert result["milliseconds_per_batch"] == 400
    assert result["global_batch_size"] == 8
    assert result["sequence_length"] == 16
