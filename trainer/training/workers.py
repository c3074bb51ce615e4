"""What the workers of a cluster tell each other, aside from the training graph.

Through the key-value store of TensorFlow's coordination service: text of any
length, whatever the device, and an error instead of a wait for one that is
gone.
"""

import itertools
import json
import logging
import statistics
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from trainer import cluster as cluster_lib
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
_PATIENCE_MILLISECONDS = 10_000  # Then one looks whether all are still there.
_SLOW = 0.2  # Of the time that the others wait; less is not worth a word.
_numbers = itertools.count()


def require_equal(
    strategy: tf.distribute.Strategy, facts: dict[str, Any], *, remedy: str
) -> None:
    """Compares what must be the same on all workers, which all call this.

    Args:
      strategy: of the run; one of a single process has nothing to compare.
      facts: by name, nested, as JSON has it.
      remedy: what to do where they differ.

    Raises:
      ValueError: on every worker, with every difference.
      LostError: a worker is gone.
    """
    if not strategy_lib.has_workers(strategy):
        return
    told = _exchange(_flat(facts))
    names = sorted({name for flat in told.values() for name in flat})
    differences = []
    for name in names:
        values: dict[str, list[str]] = {}
        for worker, flat in told.items():
            values.setdefault(flat.get(name, "nothing"), []).append(worker)
        if len(values) > 1:
            shown = (f"{v} ({', '.join(who)})" for v, who in values.items())
            differences.append(f"{name}: {', '.join(shown)}")
    if differences:
        # The store goes with the chief; so it waits until all have read.
        number = _tell("read")
        if strategy_lib.is_chief(strategy):
            _hear(number)
        raise ValueError(
            f"The workers differ in {'; '.join(differences)}. {remedy}"
        )


def slowest(strategy: tf.distribute.Strategy, seconds: float) -> float:
    """The longest time of any worker; all call it and get the same number."""
    if not strategy_lib.has_workers(strategy):
        return seconds
    return max(_exchange(seconds).values())


class Pace:
    """Says in the log of the chief for whom all others wait."""

    def __init__(self) -> None:
        self._suspect = ""
        self._told = False

    def compare(self, waiting: float) -> None:
        """Takes the share of the time that this worker waited; all call it.

        A slow worker is named once, at its second time in a row: compiling and
        other short disturbances take but one.
        """
        shares = _exchange(waiting)
        slowest = min(shares, key=lambda name: shares[name])
        others = [share for name, share in shares.items() if name != slowest]
        longer = statistics.fmean(others or [waiting]) - shares[slowest]
        suspect = slowest if longer > _SLOW else ""
        if suspect != self._suspect:
            self._suspect, self._told = suspect, False
        elif suspect and not self._told:
            self._told = True
            _log.info(
                "%s is slow: the others wait for it %.0f %% of the time",
                suspect,
                100 * longer,
            )


def _exchange(value: Any) -> dict[str, Any]:
    return _hear(_tell(value))


def _tell(value: Any) -> int:
    """Tells the others; all do it equally often. Returns how often before."""
    cluster, number = cluster_lib.from_environment(), next(_numbers)
    service = context.context()

    def store() -> None:
        key, old = (_key(n, cluster.me) for n in (number, number - 2))
        service.set_config_key_value(key, json.dumps(value))
        if number > 1:
            # All have told something since, and so have heard this.
            service.delete_config_key_value(old)

    _await(store, cluster)
    return number


def _hear(number: int) -> dict[str, Any]:
    """What all workers told, by their names; the chief's first."""
    cluster = cluster_lib.from_environment()
    return {
        name: json.loads(_wait_for(_key(number, name), cluster))
        for name in cluster.addresses
    }


def _key(number: int, name: str) -> str:
    return f"cloze/{number}/{name}"


def _wait_for(key: str, cluster: cluster_lib.Cluster) -> str:
    while True:
        try:
            return str(
                context.context().get_config_key_value(
                    key, timeout_in_ms=_PATIENCE_MILLISECONDS
                )
            )
        except tf.errors.DeadlineExceededError:
            cluster.check()


def _await(act: Callable[[], None], cluster: cluster_lib.Cluster) -> None:
    """Calls what would wait without an end for a chief that is frozen."""
    end: futures.Future[None] = futures.Future()

    def work() -> None:
        try:
            act()
            end.set_result(None)
        except Exception as error:
            end.set_exception(error)

    # A daemon: nobody waits for it when the program ends.
    threading.Thread(target=work, daemon=True).start()
    while not futures.wait([end], _PATIENCE_MILLISECONDS / 1_000).done:
        cluster.check()
    end.result()


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"train": {"seed": 1}} -> {"train.seed": "1"}."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat
