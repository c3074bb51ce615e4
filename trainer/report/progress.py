"""How far a run is: a bar on a terminal, a line now and then in a file."""

import shutil
import sys
import time
from typing import Any

import keras
import tqdm

_Logs = dict[str, Any] | None
_SHOWN = ("loss", "accuracy", "perplexity")


class Progress(keras.callbacks.Callback):
    """Step, loss, accuracy, speed and time left, after calls of the step.

    Args:
      num_steps: of the whole run.
      seconds_between_lines: where the output is not a terminal.
    """

    def __init__(self, num_steps: int, *, seconds_between_lines: float = 10.0):
        super().__init__()
        self._num_steps = num_steps
        self._pause = seconds_between_lines
        self._bar: Any = None  # On a terminal, while the run trains.
        self._epoch = 0
        self._last_line = 0.0
        self._computing = 0.0  # Seconds in calls, without evaluation.
        self._first_step = -1

    def on_train_begin(self, logs: _Logs = None) -> None:
        """Opens the bar."""
        if sys.stdout.isatty():
            self._bar = tqdm.tqdm(
                total=self._num_steps,
                file=sys.stdout,
                bar_format="{desc}  |{bar:24}|",
                mininterval=0,
                miniters=1,  # Every call is shown.
                ncols=_columns(),
                leave=False,
            )

    def on_epoch_begin(self, epoch: int, logs: _Logs = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: _Logs = None) -> None:
        """Starts the clock of a call."""
        if self._first_step < 0:
            self._first_step = self._step(batch)
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None:
        """Shows the state, on a terminal or when a pause is over."""
        now = time.perf_counter()
        self._computing += now - self._start
        step = self._step(batch + 1)
        if self._bar is not None:
            self._bar.ncols = _columns()
            self._bar.set_description_str(
                self._text(step, logs or {}), refresh=False
            )
            self._bar.update(step - self._bar.n)
        elif now - self._last_line >= self._pause:
            print(self._text(step, logs or {}), flush=True)
            self._last_line = now

    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None:
        """A line with the results of the epoch."""
        values = ", ".join(
            f"{name} {value:.4g}"
            for name, value in (logs or {}).items()
            if name.removeprefix("val_") in _SHOWN
        )
        if self._bar is not None:
            self._bar.clear()
        print(f"epoch {epoch + 1}: {values}", flush=True)

    def on_train_end(self, logs: _Logs = None) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _step(self, place: int) -> int:
        return self._epoch * self.params["steps"] + place

    def _text(self, step: int, logs: dict[str, Any]) -> str:
        done = max(1, step - self._first_step)
        left = (self._num_steps - step) * self._computing / done
        # Where nothing was predicted, there is no loss.
        values = [
            f"{name} {logs[name]:.3f}"
            for name in ("loss", "accuracy")
            if name in logs
        ]
        speed = logs["real_tokens_per_second"] / 1000
        return "  ".join(
            [
                f"step {step}/{self._num_steps}",
                *values,
                f"{speed:.1f}k tok/s",
                f"ETA {tqdm.tqdm.format_interval(left)}",
            ]
        )


def _columns() -> int:
    """Width of the terminal without its last column, where output wraps."""
    return shutil.get_terminal_size().columns - 1
