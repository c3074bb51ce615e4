"""Messages between the workers of a cluster, outside the training graph.

They go through the key-value store of TensorFlow's coordination service, which
takes text of any length on any device. If a worker is lost, the others get an
error instead of waiting for ever.
"""

import itertools
import json
import statistics
import threading
from concurrent import futures
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from trainer import cluster
from trainer.training import strategies

_TIMEOUT_MILLISECONDS = 10_000  # Then check that all workers are alive.
_SLOW = 0.2  # Shorter waits, as a share of the time, deserve no message.
_numbers = itertools.count()


def require_equal(
    strategy: tf.distribute.Strategy, facts: dict[str, Any], *, remedy: str
) -> None:
    """Compares facts that must be equal on all workers; all of them call it.

    Args:
      strategy: of the run; a single process has nothing to compare.
      facts: name -> JSON value or nested facts.
      remedy: a sentence for the error that says what to do.

    Raises:
      ValueError: on every worker, with every difference.
      LostError: a worker is gone.
    """
    if not strategies.has_workers(strategy):
        return
    received = _exchange(_flat(facts))
    names = sorted({name for flat in received.values() for name in flat})
    differences = []
    for name in names:
        values: dict[str, list[str]] = {}
        for worker, flat in received.items():
            values.setdefault(flat.get(name, "nothing"), []).append(worker)
        if len(values) > 1:
            shown = (f"{v} ({', '.join(who)})" for v, who in values.items())
            differences.append(f"{name}: {', '.join(shown)}")
    if differences:
        # The store ends with the chief, which waits until all have read it.
        number = _send("read")
        if strategies.is_chief(strategy):
            _receive(number)
        raise ValueError(
            f"The workers differ in {'; '.join(differences)}. {remedy}"
        )


def slowest(strategy: tf.distribute.Strategy, seconds: float) -> float:
    """The longest time of any worker; all call it and get the same number."""
    if not strategies.has_workers(strategy):
        return seconds
    return max(_exchange(seconds).values())


def slow_worker(waiting: float) -> tuple[str, float]:
    """The worker that the others wait for; all workers call it.

    Args:
      waiting: share of the time that this worker spent waiting for others.

    Returns:
      Its name, and how much larger the share of the others is than its own;
      "" and 0 if the difference is small.
    """
    shares = _exchange(waiting)
    slowest = min(shares, key=lambda name: shares[name])
    others = [share for name, share in shares.items() if name != slowest]
    longer = statistics.fmean(others or [waiting]) - shares[slowest]
    return (slowest, longer) if longer > _SLOW else ("", 0.0)


def _exchange(value: Any) -> dict[str, Any]:
    """Worker -> the value that it sent."""
    return _receive(_send(value))


def _send(value: Any) -> int:
    """Sends a value to all workers; returns the number of the message.

    All workers send equally often, so that numbers mean the same everywhere.
    """
    members, number = cluster.from_environment(), next(_numbers)
    service = context.context()

    end: futures.Future[None] = futures.Future()

    def store() -> None:
        key, old = (_key(n, members.me) for n in (number, number - 2))
        try:
            service.set_config_key_value(key, json.dumps(value))
            if number > 1:
                # All have sent a later message, and so have received this one.
                service.delete_config_key_value(old)
            end.set_result(None)
        except Exception as error:
            end.set_exception(error)

    # It would wait for ever for a chief that is frozen; a daemon thread does
    # not keep the program from ending.
    threading.Thread(target=store, daemon=True).start()
    while not futures.wait([end], _TIMEOUT_MILLISECONDS / 1_000).done:
        members.check()
    end.result()
    return number


def _receive(number: int) -> dict[str, Any]:
    """Worker -> its message of that number; the chief comes first."""
    members = cluster.from_environment()
    messages: dict[str, Any] = {}
    while missing := [n for n in members.addresses if n not in messages]:
        try:
            text = context.context().get_config_key_value(
                _key(number, missing[0]), timeout_in_ms=_TIMEOUT_MILLISECONDS
            )
            messages[missing[0]] = json.loads(text)
        except tf.errors.DeadlineExceededError:
            members.check()
    return messages


def _key(number: int, name: str) -> str:
    return f"cloze/{number}/{name}"


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"train": {"seed": 1}} -> {"train.seed": "1"}."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat
