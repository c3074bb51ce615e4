"""What a run measured: one JSON object a line, and TensorBoard."""

import contextlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

import storage

# An object is written anew when something is added, so it is done rarely.
_STORE_SECONDS = 30.0


class MetricsLog:
    """Appends events to `metrics.jsonl` and to TensorBoard's files.

    Args:
      workdir: where both lie.
      stage: written into every event.
      first_step: where the run goes on; later events of the stage, written
        by a future that was lost, are removed.
      enabled: False on workers that are not the chief: nothing is written.
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
        self._enabled = enabled
        self._waiting = ""  # Lines.
        self._flushed = 0.0
        self._open = contextlib.ExitStack()
        if not enabled:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _cut_back(self._path, stage=stage, step=first_step)
        self._board = tf.summary.create_file_writer(
            str(board_directory(workdir, stage)), max_queue=10_000
        )
        self._open.callback(self._board.close)
        self._open.callback(self.flush)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records finite numbers, by name, of a step."""
        if not self._enabled:
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
        """Writes what waits, so that no checkpoint comes before its events."""
        if self._waiting:
            storage.append(self._path, self._waiting)
            self._board.flush()
            self._waiting = ""
            self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        """Itself; the files are closed at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the files."""
        self._open.close()


def board_directory(workdir: str | pathlib.Path, stage: str) -> pathlib.Path:
    """Where TensorBoard finds what a stage recorded."""
    return storage.path_of(workdir) / "tensorboard" / stage


def append(
    workdir: str | pathlib.Path, stage: str, step: int, values: dict[str, Any]
) -> None:
    """Records what is no number, as JSON; the chief calls it.

    Such an event has the key "event"; it is cut back like all others.
    """
    event = {"stage": stage, "step": step, **values}
    path = storage.path_of(workdir) / "metrics.jsonl"
    storage.append(path, json.dumps(event) + "\n")


def read(workdir: str | pathlib.Path, stage: str) -> list[dict[str, Any]]:
    """The events of a stage, in order; a torn last line is left out."""
    path = storage.path_of(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    events = map(_parse, _lines(path))
    return [event for event in events if event.get("stage") == stage]


def last_fifths(events: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Training accuracy in the last fifth of the steps and the one before it.

    Returns:
      Before and last; twice 0 where there is a single event, or none.
    """
    measured = [(e["step"], e["accuracy"]) for e in events if "accuracy" in e]
    if len(measured) < 2:
        return 0.0, 0.0
    steps, accuracies = np.array(measured).T
    last = int(np.searchsorted(steps, 0.8 * steps[-1], side="right"))
    # Where events are that rare, the one before counts.
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


def _cut_back(path: pathlib.Path, *, stage: str, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in _lines(path):
        event = _parse(line)
        if event and (event["stage"] != stage or event["step"] <= step):
            kept.append(line + "\n")
    storage.write_bytes(path, "".join(kept).encode())


def _lines(path: pathlib.Path) -> list[str]:
    # A power cut leaves bytes behind that are no text.
    return path.read_bytes().decode(errors="replace").split("\n")


def _parse(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
        event["stage"], event["step"]
    except (ValueError, TypeError, KeyError):
        return {}  # The process was killed while it wrote this line.
    return event
