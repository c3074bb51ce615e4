"""Tests of trainer/commands/benchmarks/head.py."""

import numpy as np
import tensorflow as tf

from trainer.commands.benchmarks import head


def test_measures_the_entries_of_a_batch(
    tiny, one_device, tmp_path, monkeypatch
):
    monkeypatch.setattr(head.machine, "_matmul_size", lambda: 64)
    config = tiny({"benchmark.num_rounds": 3, "benchmark.reference": True})
    result = head.measure(config, str(tmp_path), one_device)
    assert result["entries"] == 8 * config.num_predictions
    assert 0 < result["used_entries"] <= result["entries"]
    assert result["width"] == 16
    assert result["vocabulary_size"] <= 32
    assert result["milliseconds_median"] > 0
    assert len(result["ratios"]) == 3


def test_both_ways_have_the_same_gradients():
    rng = np.random.default_rng(0)
    values = [
        tf.constant(rng.normal(size=shape), tf.float32)
        for shape in ([9, 4], [11, 4], [11])
    ]
    labels = tf.constant(rng.integers(11, size=9), tf.int32)
    weights = tf.constant(rng.integers(2, size=9), tf.float32)
    both = (
        head._gradients(total, values, labels, weights)
        for total in (head._chunked, head._dense)
    )
    for ours, dense in zip(*both, strict=True):
        np.testing.assert_allclose(ours, dense, atol=1e-5)
