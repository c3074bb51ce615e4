"""Signals reach a running graph, and are given back afterwards."""

import os
import signal
import threading
import time

import pytest

from tests.trainer.training import conftest as tiny
from trainer.training import signals


@pytest.fixture(autouse=True)
def _hangup_is_not_ignored():
    """Undoes what `nohup` does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_long_call_ends_soon_after_the_signal(number):
    with signals.StopSignal() as stop:
        model = tiny.create(tiny.mirrored(1), flag=stop.flag)
        iterator = iter(tiny.batches(model.strategy))
        start = time.perf_counter()
        model.run(iterator, 0, 20)
        step_seconds = (time.perf_counter() - start) / 20  # And the tracing.
        sent = []

        def send():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), number)

        threading.Timer(0.7, send).start()
        done, wants_stop, _ = model.run(iterator, 20, 20_000)
        late = time.perf_counter() - sent[0]
    assert 1 < done < 20_000
    assert wants_stop > 0
    assert stop.number == number
    assert late < 2 + 3 * step_seconds


def test_flag_is_down_until_then():
    with signals.StopSignal() as stop:
        assert stop.flag.numpy() == 0.0
        assert stop.number == 0
        stop.request(signal.SIGTERM)
        assert stop.flag.numpy() == 1.0
    assert stop.number == signal.SIGTERM


def test_the_first_signal_names_the_reason():
    stop = signals.StopSignal()
    stop.request(signal.SIGINT)
    stop.request(signal.SIGTERM)
    assert stop.number == signal.SIGINT


def test_handlers_are_given_back(monkeypatch):
    def mine(number, frame):
        raise AssertionError("not while training")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(200):
                if stop.number:
                    break
                time.sleep(0.01)
            assert stop.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.set_wakeup_fd(-1) == -1
        assert not stop._thread.is_alive()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_are_given_back_after_an_error():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyError), signals.StopSignal():
        raise KeyError
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


def test_other_signals_stop_nothing():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
        assert heard == [1]
        assert stop.number == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As `nohup` does.
    try:
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
        assert stop.number == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with signals.StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.number))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]


HANG = """
import time
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
