"""A living holder keeps others away; a killed one does not."""

import signal

import pytest

import storage
from storage import lease

NAME = "gs://bucket/run/.lock"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 0.01)


def _held(**options):
    return lease.held(storage.path_of(NAME), busy="Busy.", **options)


def test_it_is_there_while_it_is_held(bucket):
    for _ in range(2):
        with _held():
            assert NAME in bucket.objects
        assert not bucket.objects
    with pytest.raises(KeyError), _held():
        raise KeyError
    assert not bucket.objects


def test_a_living_holder_keeps_others_away(bucket, monkeypatch):
    # However slow the machine is, the next beat comes.
    monkeypatch.setattr(lease, "_SILENT_BEATS", 10_000)
    with _held():
        for _ in range(3):
            with pytest.raises(ValueError, match="Busy"), _held():
                pass
        assert NAME in bucket.objects


def test_a_killed_holder_loses_it(bucket):
    bucket.objects[NAME] = b"a host 7 123"
    with _held():
        assert b"123" not in bucket.objects[NAME]


def test_the_earlier_of_two_at_the_same_moment_stops(bucket, monkeypatch):
    stopped = lease.threading.Event()
    sent = []
    monkeypatch.setattr(
        lease.os, "kill", lambda *words: (sent.append(words), stopped.set())
    )
    with _held():
        bucket.objects[NAME] = b"another host 1 456"
        assert stopped.wait(60)
    assert sent == [(lease.os.getpid(), signal.SIGTERM)]
    assert bucket.objects[NAME] == b"another host 1 456"


def test_a_beat_that_fails_is_told_and_the_next_one_counts(
    bucket, monkeypatch, caplog
):
    read, beaten = lease._read, lease.threading.Event()

    def fail_once(path):
        monkeypatch.setattr(lease, "_read", read)
        raise OSError("no network")

    with _held():
        monkeypatch.setattr(lease, "_read", fail_once)
        while not bucket.objects[NAME].endswith(b" 9"):
            beaten.wait(0.01)
    assert caplog.text.count("cannot be written: no network") == 1
