"""Whole pretraining runs inside this process: resumed, extended, refused."""

import hashlib
import json
import logging
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import storage
from input_pipeline import pretraining
from trainer.commands import pretrain
from trainer.run import Run
from trainer.stages import tasks

END = 33


@pytest.fixture
def train(tiny, one_device):
    """A function: workdir, changes, layout, callbacks -> trains."""

    def run(workdir, more=(), layout=one_device, callbacks=()):
        pretrain.run(
            Run(
                tiny(more),
                workdir=str(workdir),
                runtime=layout,
                callbacks=callbacks,
            )
        )

    return run


def losses(events):
    """Of every event with its kind: (step, loss or validation loss)."""
    return [
        (event["step"], name, event[name])
        for event in events
        for name in ("loss", "validation_loss")
        if name in event
    ]


def assert_same_run(look, workdir, other, tolerance=1e-5):
    """Asserts equal losses at equal steps, and equal final weights."""
    mine, theirs = losses(look.events(workdir)), losses(look.events(other))
    assert [row[:2] for row in mine] == [row[:2] for row in theirs]
    np.testing.assert_allclose(
        [row[2] for row in mine], [row[2] for row in theirs], rtol=1e-5
    )
    mine, theirs = look.weights(workdir), look.weights(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(
            mine[name], theirs[name], atol=tolerance, rtol=0, err_msg=name
        )


def content(workdir):
    """Every file of a workdir, with its digest; not the lock."""
    return {
        str(path.relative_to(workdir)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_learns_and_leaves_what_the_documentation_says(finished, look):
    workdir = finished.workdir
    found = losses(look.events(workdir))
    assert found[-1][2] < 0.6 * found[0][2]
    steps = {
        name: [row[0] for row in found if row[1] == name]
        for name in ("loss", "validation_loss")
    }
    assert steps["loss"] == [5, 10, 15, 20, 25, 30, END]
    assert steps["validation_loss"] == [15, 30, END]
    paths = look.checkpoints(workdir)
    assert [int(path.name[5:]) for path in paths] == [10, 15, 20, 30, END]
    for path in paths:
        storage.verify(path)
        assert (path / "state.json").stat().st_size <= 4096
    recorded = json.loads((workdir / "config.json").read_text())
    assert recorded["config"]["train"]["num_steps"] == END
    assert recorded["resolved"]["precision"] == "float32"
    assert recorded["resolved"]["jit"] is False
    assert list(workdir.glob("tensorboard/pretrain/*tfevents*"))
    kinds = [name for name, *_ in finished.callback.calls]
    assert kinds[0] == "train_begin" and kinds[-1] == "train_end"
    assert kinds.count("epoch_end") == 3
    assert finished.callback.optimizer is not None


def test_a_finished_run_is_left_alone(copied, train, caplog):
    workdir = copied(END)
    before = content(workdir)
    with caplog.at_level(logging.INFO):
        train(workdir)
    assert content(workdir) == before
    assert f"all {END} steps are done already" in caplog.text
    assert f"load_encoder('{workdir}')" in caplog.text
    with caplog.at_level(logging.INFO):
        train(workdir, {"train.num_steps": END - 4})
    assert f"saved:   step {END}, past the {END - 4} wanted" in caplog.text


def test_text_that_has_moved_and_a_damaged_checkpoint_stop_nobody(
    copied, train, corpus, finished, look, caplog, tmp_path
):
    workdir = copied(30)
    file = look.checkpoints(workdir)[-1] / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    moved = shutil.copy(corpus, tmp_path / "elsewhere.txt")
    with caplog.at_level(logging.INFO):
        train(workdir, {"data.path": str(moved)})
    assert str(file) in caplog.text
    assert "resuming from step 20" in caplog.text
    assert_same_run(look, workdir, finished.workdir, tolerance=0)


@pytest.mark.soak  # Every layout, step by step: tests/trainer/training.
@pytest.mark.parametrize("parts", [1, 2])
def test_resumes_in_mid_epoch_on_other_devices(
    copied, train, devices, finished, look, parts
):
    workdir = copied(20)
    train(workdir, {"train.accumulation_steps": parts}, devices(2))
    assert_same_run(look, workdir, finished.workdir)


def test_more_steps_extend_a_run_and_the_best_outlives_worse_ones(
    copied, train, finished, look
):
    workdir = copied(END)
    changes = {
        "optimizer.learning_rate": 1.0,  # Ruins what was learned.
        "checkpoint.allow_changed": True,
        "checkpoint.keep_last": 1,
        "checkpoint.every_steps": 2,
        "train.num_steps": END + 5,
    }
    train(workdir, changes)
    old, new = look.events(finished.workdir), look.events(workdir)
    assert new[: len(old)] == old
    assert {e["step"] for e in new[len(old) :]} == {34, 35, 36, END + 5}
    best, last = look.checkpoints(workdir)
    assert last.name == f"step-{END + 5:09d}"
    loss = [
        json.loads((path / "state.json").read_text())["validation_loss"]
        for path in (best, last)
    ]
    assert loss[0] < loss[1]


class StopAfter(tf.keras.callbacks.Callback):
    """Asks for an early stop, after the step of an epoch with that number."""

    def __init__(self, batch=None):
        super().__init__()
        self.last = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.last in (None, batch)


@pytest.mark.soak  # Four runs, two of them on two devices.
def test_two_levels_then_one_in_any_layout_and_resumed(
    train, devices, one_device, finished, look, tmp_path, monkeypatch
):
    # Far from how often they occur, so that the levels make a difference.
    rates = np.array([0.91, *[0.01] * 9], np.float32)
    monkeypatch.setattr(pretraining, "rare_rates", lambda _: rates)
    one = {"train.num_steps": 20}
    early = {**one, "train.full_softmax_rate": 0.25}
    two = {**early, "train.accumulation_steps": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, early)
    for changes, num_devices, last_batch, step in (
        (early, 0, None, 5),
        (two, 2, 14, 15),
        # From here on there is one level, as it is with none before.
        (one, 1, -1, 20),
    ):
        layout = devices(num_devices) if num_devices else one_device
        train(parts, changes, layout, [StopAfter(last_batch)])
        assert look.checkpoints(parts)[-1].name == f"step-{step:09d}"
    assert_same_run(look, parts, whole)
    # The rows are those of the run with one level.
    loss, one_level = (
        look.events(workdir)[0]["loss"] for workdir in (whole, finished.workdir)
    )
    assert loss == pytest.approx(one_level, rel=0.1)
    assert loss != pytest.approx(one_level, rel=1e-3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"data.validation_rate": 0.2}, "validation_rate was 0.1, now 0.2"),
        (
            {"optimizer.learning_rate": 0.5},
            "0.01, now 0.5. Set .*allow_changed",
        ),
    ],
)
def test_a_workdir_of_another_run_is_refused(copied, train, more, message):
    workdir = copied(20)
    (workdir / "config.json").unlink()  # The checkpoint knows.
    before = content(workdir)
    with pytest.raises(ValueError, match=message):
        train(workdir, more)
    assert content(workdir) == before


def test_changed_text_is_refused(copied, train, corpus, tmp_path):
    workdir = copied(20)
    before = content(workdir)
    changed = tmp_path / "changed.txt"
    changed.write_text(corpus.read_text() + "one more line\n")
    with pytest.raises(ValueError, match="the text has changed"):
        train(workdir, {"data.path": str(changed)})
    assert content(workdir) == before


@pytest.mark.parametrize(
    ("message", "error", "said"),
    [
        ("OOM when allocating", ValueError, "Raise train.accumulation_steps"),
        (
            "/a/b; No space left on device",
            tf.errors.ResourceExhaustedError,
            "No space left",
        ),
    ],
)
def test_out_of_memory_says_what_helps_but_not_of_a_full_disk(
    copied, train, monkeypatch, message, error, said
):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(tasks.Task, "create_train_call", lambda *_: fail)
    with pytest.raises(error, match=said):
        train(copied(20))


def test_rows_that_vanish_in_the_middle_are_named(copied, train, tmp_path):
    class Vandal(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            [shard] = tmp_path.glob("prepared/*/validation-*.tfrecord")
            shard.unlink()

    changes = {"data.prepared_dir": str(tmp_path / "prepared")}
    with pytest.raises(ValueError, match="validation-.* is missing.*Delete"):
        train(copied(20), changes, callbacks=[Vandal()])
