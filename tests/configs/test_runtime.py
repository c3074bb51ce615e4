"""Tests of configs/runtime.py."""

import dataclasses
import pickle
import signal

import pytest

from configs import runtime


def test_runtime_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        runtime.Runtime().strategy = "tpu"


def test_runtime_defaults():
    assert runtime.Runtime() == runtime.Runtime("mirrored", 0)


@pytest.mark.parametrize("strategy", runtime.STRATEGIES)
def test_every_strategy_is_accepted(strategy):
    assert runtime.Runtime(strategy).strategy == strategy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("mirror", 0), "--strategy=mirror .* mirrored, one_device, multi_w"),
        (("mirrored", -1), "--num_virtual_devices=-1 must be at least 0"),
        (("tpu", 2), "--num_virtual_devices=2 .* --strategy=tpu"),
    ],
)
def test_a_bad_runtime_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        runtime.Runtime(*values)


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGINT, 130, "stopped by SIGINT"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
)
def test_stopped_knows_its_exit_code(number, code, text):
    error = runtime.Stopped(number)
    assert (error.exit_code, str(error)) == (code, text)
    assert pickle.loads(pickle.dumps(error)).signal_number == number
