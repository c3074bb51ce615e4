"""What a person sees while a run is going on."""

import io
import sys

import pytest

from trainer.report import progress

LOGS = {"loss": 2.5, "accuracy": 0.125, "real_tokens_per_second": 12_345.0}


class Output(io.StringIO):
    """Standard output, perhaps a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal

    def take(self):
        """What has been written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def start(monkeypatch):
    """A function: options -> progress and output; a call takes 10 seconds."""

    def begin(terminal=False, pause=0.0):
        out = Output(terminal)
        monkeypatch.setattr(sys, "stdout", out)
        shown = progress.Progress(40, seconds_between_lines=pause)
        shown.set_params({"steps": 20, "epochs": 2})
        clock = iter(range(100, 10_000, 10))
        monkeypatch.setattr(
            progress.time, "perf_counter", lambda: float(next(clock))
        )
        shown.on_train_begin()
        return shown, out

    return begin


def call(shown, first, last, logs=LOGS):
    shown.on_train_batch_begin(first)
    shown.on_train_batch_end(last, dict(logs))


def test_lines_say_step_loss_speed_and_time_left(start):
    shown, out = start()
    shown.on_epoch_begin(0)
    call(shown, 0, 9)  # 10 steps in 10 seconds.
    assert out.take() == (
        "step 10/40  loss 2.500  accuracy 0.125  12.3k tok/s  ETA 00:30\n"
    )


def test_a_resumed_run_counts_its_own_steps_and_may_have_no_loss(start):
    shown, out = start()
    shown.on_epoch_begin(1)
    # Steps 30 to 35, in 10 seconds.
    call(shown, 10, 14, {"real_tokens_per_second": 1000.0})
    assert out.take() == "step 35/40  1.0k tok/s  ETA 00:10\n"


def test_a_pause_between_lines(start):
    shown, out = start(pause=35.0)
    shown.on_epoch_begin(0)
    for first in range(0, 12, 2):  # A line may come every 20 seconds.
        call(shown, first, first + 1)
    lines = out.take().splitlines()
    assert [line.split()[1] for line in lines] == ["2/40", "6/40", "10/40"]


@pytest.mark.parametrize("columns", [20, 200])
def test_a_bar_stays_in_its_line_and_goes_away(start, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown, out = start(terminal=True)
    shown.on_epoch_begin(0)
    call(shown, 0, 19)
    shown.on_epoch_end(
        0, {"loss": 2.5, "val_loss": 3.25, "val_loss_kept": 1.0, "other": 1.0}
    )
    shown.on_epoch_begin(1)
    call(shown, 0, 1)
    shown.on_train_end()
    text = out.take()
    before, after = text.split("epoch 1: loss 2.5, val_loss 3.25\n")
    assert "step 20/40" in before and "step 22/40" in after
    assert "\n" not in before + after  # One line, drawn over again.
    for part in (before, after):
        *_, blank, end = part.split("\r")
        assert (blank.strip(), end) == ("", "")
        assert all(len(drawn) < columns for drawn in part.split("\r"))
