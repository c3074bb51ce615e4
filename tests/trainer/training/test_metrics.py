"""Events survive kills, and a lost future is forgotten."""

import json

import pytest
import tensorflow as tf

from trainer.training import metrics


def _log(path, *, stage="pretrain", first_step=0, **kwargs):
    return metrics.MetricsLog(
        path, stage=stage, first_step=first_step, **kwargs
    )


def _fill(path, steps, *, stage="pretrain", first_step=0):
    with _log(path, stage=stage, first_step=first_step) as log:
        for step in steps:
            log.write(step, {"loss": 10.0 - step})


def _steps(path, stage="pretrain"):
    return [event["step"] for event in metrics.read(path, stage)]


def test_events_are_lines_of_json_and_go_to_tensorboard(tmp_path):
    workdir = tmp_path / "new"
    assert metrics.read(workdir, "pretrain") == []
    with _log(workdir, first_step=2) as log:
        log.write(3, {"loss": 1.5, "accuracy": 0.25})
        # On the disk at once, for who looks on.
        text = (workdir / "metrics.jsonl").read_text()
        log.write(4, {"loss": 1.0})
    assert json.loads(text) == {
        "stage": "pretrain",
        "step": 3,
        "loss": 1.5,
        "accuracy": 0.25,
    }
    assert _steps(workdir) == [3, 4]
    [file] = (workdir / "tensorboard" / "pretrain").iterdir()
    events = [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert events == [(3, "loss", 1.5), (3, "accuracy", 0.25), (4, "loss", 1)]


def test_a_lost_future_is_cut_and_the_present_kept_once(tmp_path):
    _fill(tmp_path, [1, 2, 3, 4])
    _fill(tmp_path, [9], stage="finetune", first_step=8)
    _fill(tmp_path, [3, 4, 5], first_step=2)
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    _fill(tmp_path, [], first_step=5)
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    assert _steps(tmp_path, "finetune") == [9]


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"stage": "pretrain", "step": 4, "lo',
        b'{"stage": "pretrain"}',
        b'{"stage": "pretrain", "step": "4"}',
        b'{"stage": "pretrain", "step": 4, "loss": "2.5"}',
        b"[]",
        b"[" * 100_000,
        b"\0\0\0\0",
        b'{"stage": "pre\xff\xfe',
        '{"text": "\u2028'.encode(),
    ],
)
def test_a_damaged_line_is_skipped_with_a_warning(tmp_path, damaged, caplog):
    _fill(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    for content in (
        path.read_bytes() + damaged,
        damaged + b"\n" + path.read_bytes(),
    ):
        path.write_bytes(content)
        caplog.clear()
        assert _steps(tmp_path) == [1, 2]
        assert len(caplog.records) == 1
        assert "metrics.jsonl: skipped 1 damaged line" in caplog.text
        _fill(tmp_path, [3], first_step=2)
        lines = path.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
        caplog.clear()
        _fill(tmp_path, [], first_step=2)
        assert _steps(tmp_path) == [1, 2]
        assert not caplog.records


def test_only_the_chief_writes(tmp_path):
    with _log(tmp_path, enabled=False) as log:
        log.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_number_is_cut_back_as_well(tmp_path):
    for step in (10, 20):
        metrics.append(tmp_path, "pretrain", step, {"event": "x", "is": ["a"]})
    with _log(tmp_path, first_step=10):
        pass
    assert metrics.read(tmp_path, "pretrain") == [
        {"stage": "pretrain", "step": 10, "event": "x", "is": ["a"]},
    ]


def test_a_store_gets_the_events_before_a_checkpoint_and_at_the_end(
    bucket, monkeypatch
):
    """And not one by one, because each writes the whole file again."""
    board = tf.summary.create_noop_writer
    monkeypatch.setattr(
        tf.summary, "create_file_writer", lambda *_, **__: board()
    )
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock)
    far, clock = "gs://bucket/run", 1e6
    with _log(far) as log:
        for clock, seen in ((1e6, 1), (1e6 + 29, 1), (1e6 + 31, 3)):
            log.write(int(clock - 1e6), {"loss": 1.5})
            assert len(_steps(far)) == seen
        log.write(32, {"loss": 1.5})
        metrics.append(far, "pretrain", 32, {"event": "x"})
        assert _steps(far) == [0, 29, 31, 32]
        log.flush()
        assert _steps(far) == [0, 29, 31, 32, 32]
        log.write(33, {"loss": 1.5})
    assert _steps(far) == [0, 29, 31, 32, 32, 33]
    for step, kept in ((29, [0, 29]), (-1, [])):
        with _log(far, first_step=step):
            pass
        assert _steps(far) == kept


def _logged(accuracies):
    return [{"step": n, "accuracy": a} for n, a in accuracies.items()]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({}, (0, 0)),
        ({40: 0.5}, (0, 0)),
        # Steps 61 to 80, and 81 to 100.
        (
            {60: 0.1, 65: 0.2, 80: 0.6, 90: 0.7, 100: 0.9},
            (0.2 * 0.25 + 0.6 * 0.75, 0.8),
        ),
        # Epoch by epoch, and what is rarer still.
        ({10: 0.2, 20: 0.5, 30: 0.8}, (0.5, 0.8)),
        ({10: 0.2, 20: 0.5}, (0.2, 0.5)),
        ({19: 0.2, 20: 0.5}, (0.2, 0.5)),
    ],
)
def test_training_accuracy_near_the_end(accuracies, expected):
    events = [{"step": 1, "validation_accuracy": 0.9}, *_logged(accuracies)]
    assert metrics.last_fifths(events) == pytest.approx(expected)
