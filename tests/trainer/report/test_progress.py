"""What a person sees while a run is going on."""

import sys

import pytest

from trainer.report import progress

LOGS = {"loss": 2.5, "accuracy": 0.125, "real_tokens_per_second": 12_345.0}


def _progress(
    monkeypatch, *, terminal=False, num_steps=40, pause=0.0, columns=100
):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    shown = progress.Progress(num_steps, seconds_between_lines=pause)
    shown.set_params({"steps": 20, "epochs": 2})
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(
        progress.time, "perf_counter", lambda: float(next(clock))
    )
    return shown


def _call(shown, first, last, logs=None):
    shown.on_train_batch_begin(first)
    shown.on_train_batch_end(last, logs or dict(LOGS))


def test_lines_say_step_loss_speed_and_time_left(monkeypatch, capsys):
    shown = _progress(monkeypatch)
    shown.on_epoch_begin(0)
    _call(shown, 0, 9)  # 10 steps in 10 seconds.
    assert capsys.readouterr().out == (
        "step 10/40  loss 2.500  accuracy 0.125  12.3k tok/s  ETA 0:30\n"
    )


def test_a_resumed_run_counts_its_own_steps(monkeypatch, capsys):
    shown = _progress(monkeypatch)
    shown.on_epoch_begin(1)
    _call(shown, 10, 14)  # Steps 30 to 35, in 10 seconds.
    assert "step 35/40 " in (out := capsys.readouterr().out)
    assert out.endswith("ETA 0:10\n")


def test_a_pause_between_lines(monkeypatch, capsys):
    shown = _progress(monkeypatch, pause=35.0)
    shown._last_line = -100.0
    shown.on_epoch_begin(0)
    for first in range(0, 12, 2):  # A line may come every 20 seconds.
        _call(shown, first, first + 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2/40", "6/40", "10/40"]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    shown = _progress(monkeypatch, terminal=True)
    shown.on_epoch_begin(0)
    _call(shown, 0, 9)
    out = capsys.readouterr().out
    assert out.startswith(f"\r[{'=' * 6}{' ' * 18}] step 10/40 ")
    assert "\n" not in out
    shown.on_train_end()
    assert capsys.readouterr().out == "\n"


def test_the_epoch_covers_the_bar(monkeypatch, capsys):
    shown = _progress(monkeypatch, terminal=True)
    shown.on_epoch_begin(0)
    _call(shown, 0, 19)
    width = len(capsys.readouterr().out)
    shown.on_epoch_end(
        0, {"loss": 2.5, "val_loss": 3.25, "val_loss_kept": 1.0, "other": 1.0}
    )
    shown.on_train_end()
    out = capsys.readouterr().out
    assert out.strip() == "epoch 1: loss 2.5, val_loss 3.25"
    assert len(out) == width + 1
    assert out.endswith("\n")


@pytest.mark.parametrize("columns", [20, 60, 70, 80, 200])
def test_a_bar_never_wraps(monkeypatch, capsys, columns):
    shown = _progress(monkeypatch, terminal=True, columns=columns)
    shown.on_epoch_begin(0)
    _call(shown, 0, 9)
    out = capsys.readouterr().out
    assert len(out.removeprefix("\r")) == columns - 1
    assert ("[" in out) == (columns >= 70)
    assert ("12.3k tok/s" in out) == (columns >= 60)


def test_without_predictions_there_is_no_loss(monkeypatch, capsys):
    shown = _progress(monkeypatch)
    shown.on_epoch_begin(0)
    _call(shown, 0, 9, {"real_tokens_per_second": 1000.0})
    assert capsys.readouterr().out == "step 10/40  1.0k tok/s  ETA 0:30\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00")],
)
def test_clock(seconds, text):
    assert progress._clock(seconds) == text
