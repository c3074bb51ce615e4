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


def test_events_are_lines_of_json(tmp_path):
    with _log(tmp_path / "new") as log:
        log.write(3, {"loss": 1.5, "accuracy": 0.25})
        # On the disk at once, for who looks on.
        text = (tmp_path / "new" / "metrics.jsonl").read_text()
        log.write(4, {"loss": 1.0})
    assert json.loads(text) == {
        "stage": "pretrain",
        "step": 3,
        "loss": 1.5,
        "accuracy": 0.25,
    }
    assert _steps(tmp_path / "new") == [3, 4]


def test_no_file_no_events(tmp_path):
    assert metrics.read(tmp_path, "pretrain") == []


def test_a_lost_future_is_cut_and_the_present_kept_once(tmp_path):
    _fill(tmp_path, [1, 2, 3, 4])
    _fill(tmp_path, [9], stage="finetune", first_step=8)
    _fill(tmp_path, [3, 4, 5], first_step=2)
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    assert _steps(tmp_path, "finetune") == [9]


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_what_is_kept_ends_with_the_restored_step(tmp_path, first_step):
    _fill(tmp_path, [1, 2, 3])
    _fill(tmp_path, [], first_step=first_step)
    assert _steps(tmp_path) == [1, 2, 3][:first_step]


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"stage": "pretrain", "step": 4, "lo',
        b'{"stage": "pretrain"}',
        b'{"stage": "pretrain", "step": "4"}',
        b'{"stage": "pretrain", "step": 4, "loss": "2.5"}',
        b'{"stage": ["pretrain"], "step": 4}',
        b"7",
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


def test_tensorboard_gets_the_same(tmp_path):
    with _log(tmp_path, first_step=5) as log:
        log.write(6, {"loss": 1.5})
    [file] = (tmp_path / "tensorboard" / "pretrain").iterdir()
    events = [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert events == [(6, "loss", 1.5)]


def test_only_the_chief_writes(tmp_path):
    with _log(tmp_path, enabled=False) as log:
        log.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_number_is_cut_back_as_well(tmp_path):
    with _log(tmp_path) as log:
        log.write(10, {"loss": 2.0})
        metrics.append(tmp_path, "pretrain", 10, {"event": "x", "is": ["a"]})
        log.write(20, {"loss": 1.0})
        metrics.append(tmp_path, "pretrain", 20, {"event": "x", "is": ["b"]})
    with _log(tmp_path, first_step=10):
        pass
    assert metrics.read(tmp_path, "pretrain") == [
        {"stage": "pretrain", "step": 10, "loss": 2.0},
        {"stage": "pretrain", "step": 10, "event": "x", "is": ["a"]},
    ]


@pytest.fixture(name="far")
def _far(bucket, monkeypatch):
    """Where events go in an object store, without TensorBoard's."""
    monkeypatch.setattr(
        tf.summary,
        "create_file_writer",
        lambda path, **_: tf.summary.create_noop_writer(),
    )
    return "gs://bucket/run"


def test_a_store_gets_the_events_before_a_checkpoint_and_at_the_end(far):
    with _log(far) as log:
        log.write(1, {"loss": 1.5})
        first = _steps(far)
        for step in (2, 3, 4):
            log.write(step, {"loss": 1.5})
        metrics.append(far, "pretrain", 4, {"event": "x"})
        assert _steps(far) == [*first, 4]
        log.flush()
        assert sorted(_steps(far)) == [1, 2, 3, 4, 4]
        log.write(5, {"loss": 1.5})
    assert sorted(_steps(far)) == [1, 2, 3, 4, 4, 5]
    with _log(far, first_step=2):
        pass
    assert _steps(far) == [1, 2]
    with _log(far, first_step=0):
        pass
    assert _steps(far) == []


def test_a_store_is_not_written_for_every_event(far, bucket, monkeypatch):
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock)
    with _log(far) as log:
        for clock, seen in ((1e6, 1), (1e6 + 29, 1), (1e6 + 31, 3)):
            log.write(int(clock), {"loss": 1.5})
            assert len(_steps(far)) == seen


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
