"""What a run measured, as lines of JSON and for TensorBoard."""

import json
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

import storage

_log = logging.getLogger(__name__)
# Appending rewrites the whole object, so it is done rarely.
_STORE_SECONDS = 30.0


class MetricsLog:
    """Appends events to `metrics.jsonl` and to TensorBoard's files.

    Args:
      workdir: the directory of both.
      stage: name of the training stage, part of every event.
      first_step: step at which the run starts or resumes. Later events of the
        stage, from steps after the restored checkpoint, are removed.
      enabled: False on workers that are not the chief; they write nothing.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        stage: str,
        first_step: int,
        enabled: bool = True,
    ):
        self._stage = stage
        self._path = storage.path_of(workdir) / "metrics.jsonl"
        self._board: Any = None
        self._waiting = ""  # Lines.
        self._flushed = 0.0
        if not enabled:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():  # Drops damaged lines, too.
            kept = [
                line + "\n"
                for line, event in _good_lines(self._path)
                if event["stage"] != stage or event["step"] <= first_step
            ]
            storage.write_bytes(self._path, "".join(kept).encode())
        self._board = tf.summary.create_file_writer(
            str(board_directory(workdir, stage)), max_queue=10_000
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records named finite numbers that were measured at a step."""
        if not self._board:
            return
        event = {"stage": self._stage, "step": step, **values}
        self._waiting += json.dumps(event) + "\n"
        with self._board.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        pause = _STORE_SECONDS if storage.in_store(self._path) else 0.0
        if time.monotonic() >= self._flushed + pause:
            self.flush()

    def flush(self) -> None:
        """Writes pending events, so that no checkpoint precedes its events."""
        if self._waiting:
            storage.append(self._path, self._waiting)
            self._board.flush()
            self._waiting = ""
            self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        """Returns itself; the files are closed at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the files."""
        if self._board:
            self.flush()
            self._board.close()


def board_directory(workdir: str | pathlib.Path, stage: str) -> pathlib.Path:
    """Directory of a stage's TensorBoard files."""
    return storage.path_of(workdir) / "tensorboard" / stage


def append(
    workdir: str | pathlib.Path, stage: str, step: int, values: dict[str, Any]
) -> None:
    """Records an event that holds more than numbers; only for the chief.

    Such an event has the key "event". It is removed like all others.
    """
    event = {"stage": stage, "step": step, **values}
    path = storage.path_of(workdir) / "metrics.jsonl"
    storage.append(path, json.dumps(event) + "\n")


def read(workdir: str | pathlib.Path, stage: str) -> list[dict[str, Any]]:
    """The events of a stage, in order."""
    return read_all(workdir).get(stage, [])


def read_all(workdir: str | pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Stage -> its events, in order; damaged lines are left out.

    A kill can damage the last line, a power cut any line; one warning says
    how many there are.
    """
    stages: dict[str, list[dict[str, Any]]] = {}
    for _, event in _good_lines(storage.path_of(workdir) / "metrics.jsonl"):
        stages.setdefault(event["stage"], []).append(event)
    return stages


def last_fifths(events: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Training accuracy in the last fifth of the steps and the one before it.

    Returns:
      The one before and the last; twice 0 if there are fewer than two events.
    """
    measured = [(e["step"], e["accuracy"]) for e in events if "accuracy" in e]
    if len(measured) < 2:
        return 0.0, 0.0
    steps, accuracies = np.array(measured).T
    last = int(np.searchsorted(steps, 0.8 * steps[-1], side="right"))
    # If the fifth before has no event of its own, the preceding one counts.
    last = max(last, 1)
    before = int(np.searchsorted(steps, 0.6 * steps[-1], side="right"))
    before = min(before, last - 1)
    weights = np.diff(steps, prepend=0)
    return (
        float(
            np.average(accuracies[before:last], weights=weights[before:last])
        ),
        float(np.average(accuracies[last:], weights=weights[last:])),
    )


def _good_lines(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of `metrics.jsonl` that are events, each with its event."""
    if not path.exists():
        return []
    # A power cut leaves bytes behind that are not text.
    lines = path.read_bytes().decode(errors="replace").split("\n")
    events = [(line, _parse(line)) for line in lines if line]
    good = [(line, event) for line, event in events if event]
    if len(good) < len(events):
        _log.warning(
            "%s: skipped %d damaged line(s)", path, len(events) - len(good)
        )
    return good


def _parse(line: str) -> dict[str, Any] | None:
    """The event of a line; None if the line is damaged."""
    try:
        event = json.loads(line)
        stage, step = event["stage"], event["step"]
        # An event with a name may hold anything, all others hold numbers.
        numbers = () if "event" in event else event.keys() - {"stage"}
        is_good = isinstance(stage, str) and type(step) is int
        is_good &= all(isinstance(event[key], int | float) for key in numbers)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return event if is_good else None
