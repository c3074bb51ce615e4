"""Signals reach a running graph, and are given back afterwards."""

import os
import signal
import threading
import time

import pytest

from tests.trainer.training import conftest as tiny
from trainer.training import signals


def _wait_for(condition):
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_long_call_ends_soon_after_the_signal():
    with signals.StopSignal() as stop:
        model = tiny.create(tiny.mirrored(1), flag=stop.flag)
        iterator = iter(tiny.batches(model.strategy))
        start = time.perf_counter()
        model.run(iterator, 0, 20)
        step_seconds = (time.perf_counter() - start) / 20  # And the tracing.
        sent = []

        def send():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Timer(0.7, send).start()
        done, wants_stop, _ = model.run(iterator, 20, 20_000)
        late = time.perf_counter() - sent[0]
    assert 1 < done < 20_000
    assert wants_stop > 0
    assert stop.number == signal.SIGTERM
    assert late < 2 + 3 * step_seconds


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_raises_the_flag_and_its_handler_comes_back(number):
    def mine(number, frame):
        raise AssertionError("not while training")

    before = signal.signal(number, mine)
    try:
        with pytest.raises(KeyError), signals.StopSignal() as stop:
            assert (stop.flag.numpy(), stop.number) == (0.0, 0)
            os.kill(os.getpid(), number)
            _wait_for(lambda: stop.flag.numpy() > 0)  # Raised last.
            assert (stop.flag.numpy(), stop.number) == (1.0, number)
            stop.request(signal.SIGTERM)  # The first one names the reason.
            assert stop.number == number
            raise KeyError
        assert signal.getsignal(number) is mine
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("number", "handles"),
    [(signal.SIGUSR1, True), (signal.SIGHUP, False)],  # `nohup` ignores it.
)
def test_other_signals_and_those_that_are_ignored_stop_nothing(number, handles):
    heard = []
    handler = (lambda *_: heard.append(1)) if handles else signal.SIG_IGN
    before = signal.signal(number, handler)
    try:
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            assert signal.getsignal(number) is handler
        assert heard == [1] * handles
        assert stop.number == 0
    finally:
        signal.signal(number, before)


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with signals.StopSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


HANG = """
import sys, time
from unittest import mock
sys.modules["tensorflow"] = mock.MagicMock()  # Importing it takes long.
from trainer.training import signals
with signals.StopSignal():
    print("ready", flush=True)
    while True:
        time.sleep(1)
"""


def test_the_second_ctrl_c_does_not_wait():
    process = tiny.start(HANG)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
