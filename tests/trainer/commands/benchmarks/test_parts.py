"""What benchmarks count and how they time it, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer.commands.benchmarks import flops, graphs, machine, timing


@pytest.mark.parametrize("padding", [[[0, 0], [0, 0]], [[0, 1], [0, 4]]])
def test_a_step_is_the_sum_of_its_products_and_padding_costs_nothing(padding):
    # Two segments of 3 and 2 slots, 3 of padding; one segment of 8.
    segments = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8])
    # 2 operations a product, three times for forward and backward.
    layer = 13 * (4 * 8 * 8 + 2 * 8 * 12) + 2 * (3**2 + 2**2 + 8**2) * 8
    for transform, head in ((False, 20 * 8), (True, 20 * 8 + 8 * 8)):
        model = schema.ModelConfig(
            num_layers=3,
            hidden_size=8,
            num_heads=2,
            intermediate_size=12,
            head_transform=transform,
        )
        found = flops.masked_lm(
            model,
            vocabulary_size=20,
            segment_ids=np.pad(segments, padding),
            num_predicted=5,
        )
        assert found == 2 * 3 * (3 * layer + 5 * head)


def test_finds_the_largest_tensor_in_a_loop_inside_a_function():
    @tf.function(jit_compile=True)
    def inner(x):
        large = tf.zeros([7, 11, 13], tf.bfloat16)
        return x + tf.cast(tf.reduce_sum(large), tf.float32)

    @tf.function(autograph=False)
    def outer(x):
        return tf.while_loop(
            lambda n, _: n < 3, lambda n, x: (n + 1, inner(x)), (0, x)
        )[1]

    function = outer.get_concrete_function(tf.TensorSpec([100]))
    num_bytes, tensor = graphs.largest_tensor(function)
    assert tensor.shape == (7, 11, 13)
    assert num_bytes == 2 * 7 * 11 * 13


def test_calls_take_turns_and_the_first_round_is_thrown_away(monkeypatch):
    now, order = [0.0], []
    durations = {"a": iter([100, 1, 2]), "b": iter([50, 4, 8])}

    def create(name):
        def call():
            order.append(name)
            now[0] += next(durations[name])

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = {name: create(name) for name in durations}
    seconds = timing.in_turns(calls, num_rounds=2)
    assert seconds == {"a": [1, 2], "b": [4, 8]}
    assert "".join(order) == "ababab"


def test_describes_one_of_several_parts_and_ratios_of_one_round():
    # Half of the rounds lie between 0.2 and 0.4 s.
    assert timing.describe([0.1, 0.2, 0.25, 0.4, 0.9], parts=10) == {
        "milliseconds_median": 25.0,
        "milliseconds_minimum": 10.0,
        "spread": 0.8,
    }
    compared = timing.compare([1.0, 2.0, 4.0], [3.0, 2.0, 8.0])
    assert compared["ratios"] == [3.0, 1.0, 2.0]
    assert compared["ratio_median"] == 2.0
    assert compared["reference_milliseconds_median"] == 3000.0


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


@pytest.mark.soak  # Another process.
def test_peak_memory_is_that_of_a_later_call_alone():
    peak = machine.peak_bytes(Fills, 200 * MEBIBYTE)
    assert 190 * MEBIBYTE < peak < 260 * MEBIBYTE


@pytest.mark.parametrize(
    ("precision", "num_devices", "share"),
    [("float32", 1, 0.2), ("bfloat16", 1, 0.1), ("float32", 2, 0.1)],
)
def test_useful_work_is_compared_with_the_products_of_its_precision(
    monkeypatch, precision, num_devices, share
):
    monkeypatch.setattr(machine, "matmul_size", lambda: 10)  # 2,000 FLOPs.
    found = machine.describe_work(
        1000.0,
        5.0,
        # 200 a second, of 1,000 and of 2,000.
        {"matmul_float32": [4.0, 2.0], "matmul_bfloat16": [1.0, 8.0]},
        precision=precision,
        num_devices=num_devices,
    )
    assert found["share_of_matmul_peak"] == share


@pytest.mark.parametrize("name", ["matmul_float32", "matmul_bfloat16"])
def test_products_are_finite(monkeypatch, name):
    monkeypatch.setattr(machine, "matmul_size", lambda: 16)
    assert np.isfinite(np.float32(machine.matmuls()[name]()))
