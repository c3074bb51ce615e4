"""Tests of trainer/commands/benchmarks/machine.py."""

import numpy as np
import pytest

from trainer.commands.benchmarks import machine

MEBIBYTE = 2**20


class Fills:
    """A call that needs so many bytes, first twice as many; had some before."""

    def __init__(self, num_bytes):
        self._num_bytes = num_bytes
        self._factor = 2
        self._before = np.ones(64 * MEBIBYTE, np.uint8)

    def trace(self):
        np.ones(32 * MEBIBYTE, np.uint8)

    def __call__(self):
        np.ones(self._factor * self._num_bytes, np.uint8)
        self._factor = 1


def test_peak_memory_is_that_of_a_later_call_alone():
    peak = machine.peak_bytes(Fills, 200 * MEBIBYTE)
    assert 190 * MEBIBYTE < peak < 260 * MEBIBYTE


def test_useful_work_is_compared_with_the_products_of_its_precision(
    monkeypatch,
):
    monkeypatch.setattr(machine, "_matmul_size", lambda: 10)  # 2,000 FLOPs.
    seconds = {"matmul_float32": [4.0, 2.0], "matmul_bfloat16": [1.0, 8.0]}

    def describe(precision, num_devices=1):
        return machine.describe_work(
            1000.0,
            5.0,
            seconds,
            precision=precision,
            num_devices=num_devices,
        )

    # 200 a second, of 1,000 and of 2,000.
    assert describe("float32")["share_of_matmul_peak"] == 0.2
    assert describe("bfloat16")["share_of_matmul_peak"] == 0.1
    assert describe("float16")["share_of_matmul_peak"] == 0.1
    assert describe("float32", 2)["share_of_matmul_peak"] == 0.1


@pytest.mark.parametrize("name", ["matmul_float32", "matmul_bfloat16"])
def test_products_are_finite(monkeypatch, name):
    monkeypatch.setattr(machine, "_matmul_size", lambda: 16)
    assert np.isfinite(np.float32(machine.matmuls()[name]()))
