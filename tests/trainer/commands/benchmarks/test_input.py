"""Tests of trainer/commands/benchmarks/input.py."""

import itertools
import types

from trainer.commands.benchmarks import input as input_benchmark
from trainer.run import Run


def clock(*rounds):
    """Told before and after each round of so many seconds."""
    ends = itertools.accumulate(rounds)
    spans = [
        (end - seconds, end) for seconds, end in zip(rounds, ends, strict=True)
    ]
    times = itertools.chain.from_iterable(spans)
    return lambda: next(times)


def test_throws_the_first_round_away(tiny, one_device, monkeypatch, tmp_path):
    monkeypatch.setattr(input_benchmark, "_BATCHES_A_ROUND", 5)
    monkeypatch.setattr(input_benchmark, "_DOCUMENTS_A_ROUND", 3)
    monkeypatch.setattr(input_benchmark, "_encode", lambda raw, _: 30)
    # The first rounds, of texts and of batches, take 100 seconds.
    wall, worked = (
        clock(100, 9, 9, 9, 100, 1, 2, 4),
        clock(100, 1, 5, 3, 100, 4, 2, 8),
    )
    clocks = types.SimpleNamespace(perf_counter=wall, process_time=worked)
    monkeypatch.setattr(input_benchmark, "time", clocks)
    config = tiny({"benchmark.num_rounds": 3})
    result = input_benchmark.measure(config, str(tmp_path), one_device)
    tokens = 5 * 8 * 16
    assert result["tokens_per_second_maximum"] == tokens
    assert result["tokens_per_second_median"] == tokens / 2
    assert result["tokens_per_second_minimum"] == tokens / 4
    assert result["tokens_per_second_a_core"] == tokens / 4
    assert result["milliseconds_per_batch"] == 400
    assert result["text_to_ids_tokens_per_second_a_core"] == 30 / 3
    assert result["text_to_ids_documents"] == 3
    assert result["global_batch_size"] == 8
    assert result["sequence_length"] == 16


def test_texts_are_encoded_as_they_are_prepared(tiny, one_device, tmp_path):
    config = tiny({})
    prepared = Run(config, workdir="", runtime=one_device).rows
    raw = [b"One  two\x00 three", b""]
    texts = ["One  two three", ""]
    expected = sum(map(len, prepared.tokenizer.encode(texts)))
    assert expected == 3
    assert input_benchmark._encode(raw, prepared) == expected
