"""What workers say to each other: threads of this process around one store."""

import threading

import pytest
import tensorflow as tf

from trainer import cluster as cluster_lib
from trainer.training import strategies, workers

NAMES = ("chief 0", "worker 0", "worker 1")


class Store:
    """Stands for TensorFlow's context: a key-value store that waits."""

    def __init__(self):
        self.values = {}
        self._changed = threading.Condition()

    def set_config_key_value(self, key, value):
        with self._changed:
            assert key not in self.values
            self.values[key] = value
            self._changed.notify_all()

    def get_config_key_value(self, key, timeout_in_ms):
        with self._changed:
            if self._changed.wait_for(
                lambda: key in self.values, timeout_in_ms / 1000
            ):
                return self.values[key]
        raise tf.errors.DeadlineExceededError(None, None, key)

    def delete_config_key_value(self, key):
        with self._changed:
            del self.values[key]


class Numbers(threading.local):
    """A count for every thread, as every process has its own."""

    number = -1

    def __next__(self):
        self.number += 1
        return self.number


@pytest.fixture(name="store")
def _store(monkeypatch):
    store, here = Store(), threading.local()
    addresses = {name: f"{name[-1]}.invalid:1" for name in NAMES}
    monkeypatch.setattr(workers, "_numbers", Numbers())
    monkeypatch.setattr(workers.context, "context", lambda: store)
    monkeypatch.setattr(
        workers.cluster,
        "from_environment",
        lambda: cluster_lib.Cluster(addresses, here.name),
    )
    # In place of the two strategy functions that know who this is.
    monkeypatch.setattr(strategies, "has_workers", lambda strategy: True)
    monkeypatch.setattr(
        strategies, "is_chief", lambda strategy: here.name == NAMES[0]
    )
    store.here = here
    return store


@pytest.fixture(name="together")
def _together(store):
    """A function: what each worker does -> what it got, or what was raised."""

    def run(act):
        results = {}

        def work(name):
            store.here.name = name
            try:
                results[name] = act(name)
            except (ValueError, cluster_lib.LostError) as error:
                results[name] = error

        threads = [threading.Thread(target=work, args=[n]) for n in NAMES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(results) == len(NAMES)
        return results

    return run


def require_equal(facts):
    workers.require_equal(None, facts, remedy="Do better.")


def test_equal_facts_pass_on_all(together, store):
    def act(name):
        for _ in range(5):
            require_equal({"seed": 1, "train": {"jit": "on", "sizes": [1, 2]}})

    assert together(act) == dict.fromkeys(NAMES)
    # What everybody has received is deleted.
    assert len(store.values) <= 2 * len(NAMES)


def test_every_difference_is_listed_on_every_worker(together, store):
    facts = {
        "chief 0": {"seed": 1, "data": {"path": "a", "field": "x"}, "on": True},
        "worker 0": {"seed": 1, "data": {"path": "b"}, "on": True},
        "worker 1": {
            "seed": 2,
            "data": {"path": "a", "field": "x"},
            "on": True,
            "late": 3,  # The chief knows of no such thing.
        },
    }

    def act(name):
        try:
            require_equal(facts[name])
        finally:
            if name == NAMES[0]:  # It leaves last: the store goes with it.
                read = {key for key in store.values if "/1/" in key}
                assert read == {f"cloze/1/{name}" for name in NAMES}

    expected = (
        'The workers differ in data.field: "x" (chief 0, worker 1), nothing'
        ' (worker 0); data.path: "a" (chief 0, worker 1), "b" (worker 0);'
        " late: nothing (chief 0, worker 0), 3 (worker 1);"
        " seed: 1 (chief 0, worker 0), 2 (worker 1). Do better."
    )
    for error in together(act).values():
        assert isinstance(error, ValueError)
        assert str(error) == expected


@pytest.fixture(name="losing")
def _losing(monkeypatch):
    """The second check of a worker finds another one lost."""
    monkeypatch.setattr(workers, "_TIMEOUT_MILLISECONDS", 50)
    checks = []

    def check(self):
        checks.append(self.me)
        if checks.count(self.me) == 2:
            raise cluster_lib.LostError("lost")

    monkeypatch.setattr(cluster_lib.Cluster, "check", check)


@pytest.mark.usefixtures("losing")
def test_a_lost_worker_ends_the_waiting(together):
    results = together(lambda name: name == "worker 1" or require_equal({}))
    assert results.pop("worker 1") is True
    for error in results.values():
        assert isinstance(error, cluster_lib.LostError)


@pytest.mark.usefixtures("losing")
def test_a_frozen_chief_ends_the_sending(together, store, monkeypatch):
    awake = threading.Event()
    monkeypatch.setattr(store, "set_config_key_value", lambda *_: awake.wait())
    results = together(lambda name: require_equal({}))
    awake.set()
    for error in results.values():
        assert isinstance(error, cluster_lib.LostError)


def test_an_error_while_sending_is_raised(together, store, monkeypatch):
    def fail(key, value):
        raise ValueError("connection reset")

    monkeypatch.setattr(store, "set_config_key_value", fail)
    for error in together(lambda name: require_equal({})).values():
        assert str(error) == "connection reset"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.5, 0.4, 0.0), ("worker 1", 0.45)),
        ((0.4, 0.01, 0.4), ("worker 0", 0.39)),
        ((0.1, 0.12, 0.0), ("", 0.0)),
    ],
)
def test_the_worker_that_waits_least_is_slow(together, shares, expected):
    found = together(lambda n: workers.slow_worker(shares[NAMES.index(n)]))
    name, longer = expected
    for result in found.values():
        assert result == (name, pytest.approx(longer))
