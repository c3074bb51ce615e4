"""Tests of trainer/commands/benchmarks/attention.py."""

import numpy as np
import pytest

from trainer.commands.benchmarks import attention


def test_measures_every_length_with_the_same_slots(
    tiny, one_device, tmp_path, monkeypatch
):
    monkeypatch.setattr(attention.machine, "_matmul_size", lambda: 64)
    monkeypatch.setattr(attention, "_LENGTHS", (8, 32))
    config = tiny({"benchmark.num_rounds": 3, "benchmark.reference": True})
    result = attention.measure(config, str(tmp_path), one_device)
    assert result["slots"] == 8 * 16
    for length in (8, 32):
        assert result[f"{length}_milliseconds_median"] > 0
        assert len(result[f"{length}_ratios"]) == 3
    # Documents of 200 slots: a longer row has more to attend to.
    assert result["32_useful_gigaflops"] >= result["8_useful_gigaflops"]


@pytest.mark.parametrize(
    ("length", "rows", "counts"),
    [(128, 8, [128]), (256, 4, [200, 56]), (512, 2, [200, 200, 112])],
)
def test_rows_are_full_of_documents(length, rows, counts):
    segment_ids = attention._segments(1024, length)
    assert segment_ids.shape == (rows, length)
    for row in segment_ids:
        assert np.bincount(row)[1:].tolist() == counts
