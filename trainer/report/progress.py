"""How far a run is: a bar on a terminal, lines in a file."""

import shutil
import sys
import time
from typing import Any

import keras

_WIDTH = 24


class Progress(keras.callbacks.Callback):
    """Step, loss, accuracy, speed and time left, after calls of the step.

    Args:
      num_steps: of the whole run.
      seconds_between_lines: where the output is no terminal.
    """

    def __init__(self, num_steps: int, *, seconds_between_lines: float = 10.0):
        super().__init__()
        self._num_steps = num_steps
        self._pause = seconds_between_lines
        self._bar = sys.stdout.isatty()
        self._shown = False  # A bar, with the cursor behind it.
        self._epoch = 0
        self._last_line = 0.0
        self._computing = 0.0  # Seconds in calls, without evaluation.
        self._first_step = -1

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Starts the clock of a call."""
        if self._first_step < 0:
            self._first_step = self._step(batch)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Shows the state, on a terminal or when a pause is over."""
        now = time.perf_counter()
        self._computing += now - self._start
        if self._bar:
            text = self._text(batch + 1, logs or {})
            share = self._step(batch + 1) / self._num_steps
            print(_one_line(_bar(share, text) + text), end="", flush=True)
            self._shown = True
        elif now - self._last_line >= self._pause:
            print(self._text(batch + 1, logs or {}), flush=True)
            self._last_line = now

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """A line with the results of the epoch."""
        values = ", ".join(
            f"{name} {value:.4g}"
            for name, value in (logs or {}).items()
            if name in _EPOCH_NAMES
        )
        text = f"epoch {epoch + 1}: {values}"
        print(_one_line(text) if self._bar else text, flush=True)
        self._shown = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves an unfinished bar where it is."""
        if self._shown:
            print(flush=True)

    def _step(self, place: int) -> int:
        return self._epoch * self.params["steps"] + place

    def _text(self, place: int, logs: dict[str, Any]) -> str:
        step = self._step(place)
        done = max(1, step - self._first_step)
        left = (self._num_steps - step) * self._computing / done
        return (
            f"step {step}/{self._num_steps}"
            f"{_values(logs)}"
            f"  {logs['real_tokens_per_second'] / 1000:.1f}k tok/s"
            f"  ETA {_clock(left)}"
        )


_EPOCH_NAMES = (
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "val_perplexity",
)


def _columns() -> int:
    """Of the terminal, but the last: there the cursor would wrap."""
    return shutil.get_terminal_size().columns - 1


def _one_line(text: str) -> str:
    """What covers the line that the cursor is in, and no other."""
    return f"\r{text[: _columns()]:<{_columns()}}"


def _bar(share: float, text: str) -> str:
    """As wide as the terminal and the text that follows allow."""
    width = min(_WIDTH, _columns() - len(text) - 3)
    filled = int(width * share)
    return f"[{'=' * filled:<{width}}] " if width > 3 else ""


def _values(logs: dict[str, Any]) -> str:
    """Loss and accuracy; "" where nothing was predicted."""
    names = [name for name in ("loss", "accuracy") if name in logs]
    return "".join(f"  {name} {logs[name]:.3f}" for name in names)


def _clock(seconds: float) -> str:
    """Seconds as 3:07 or 1:02:45."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"
