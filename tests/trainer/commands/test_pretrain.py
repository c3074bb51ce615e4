"""Tests of trainer/commands/pretrain.py: whole runs, inside this process."""

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
from trainer import workdir as workdir_lib
from trainer.commands import pretrain
from trainer.run import Run
from trainer.stages import tasks

END = 33


def losses(events):
    """Of every event with its kind: (step, loss or validation loss)."""
    return [
        (event["step"], name, event[name])
        for event in events
        for name in ("loss", "validation_loss")
        if name in event
    ]


def assert_same_run(look, workdir, other):
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
            mine[name], theirs[name], atol=1e-5, err_msg=name
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


def test_loss_falls(finished, look):
    loss = [v for _, name, v in losses(look.events(finished.workdir))]
    assert loss[-1] < 0.6 * loss[0]
    assert np.isfinite(loss).all()


def test_events_come_when_they_are_due(finished, look):
    steps = {"loss": [], "validation_loss": []}
    for step, name, _ in losses(look.events(finished.workdir)):
        steps[name].append(step)
    assert steps["loss"] == [5, 10, 15, 20, 25, 30, END]
    assert steps["validation_loss"] == [15, 30, END]


def test_a_workdir_holds_what_design_says(finished, look):
    paths = look.checkpoints(finished.workdir)
    assert [p.name for p in paths] == [
        f"step-{n:09d}" for n in (10, 15, 20, 30, END)
    ]
    for path in paths:
        storage.verify(path)
        assert (path / "state.json").stat().st_size <= 4096
    recorded = json.loads((finished.workdir / "config.json").read_text())
    assert recorded["config"]["train"]["num_steps"] == END
    assert recorded["resolved"]["precision"] == "float32"
    assert recorded["resolved"]["jit"] is False
    assert recorded["versions"]["tensorflow"] == tf.__version__
    assert list(finished.workdir.glob("tensorboard/pretrain/*tfevents*"))
    event = look.events(finished.workdir)[0]
    assert event["stage"] == "pretrain"
    assert {"accuracy", "learning_rate", "real_tokens_per_second"} <= {*event}


def test_a_callback_of_the_user_is_driven_as_fit_would(finished):
    calls = finished.callback.calls
    assert finished.callback.optimizer is not None
    assert [c[:2] for c in calls if c[0] != "batch_end"] == [
        ("train_begin", None),
        ("epoch_begin", 0),
        ("epoch_end", 0),
        ("epoch_begin", 1),
        ("epoch_end", 1),
        ("epoch_begin", 2),
        ("epoch_end", 2),
        ("train_end", None),
    ]
    ends = [c[1] for c in calls if c[0] == "batch_end"]
    assert ends == [4, 9, 14, 4, 9, 14, 2]
    logs = [c[2] for c in calls if c[0] == "epoch_end"]
    assert all({"loss", "val_loss", "accuracy"} <= {*log} for log in logs)


def test_a_finished_run_is_left_alone(copied, tiny, one_device, caplog):
    workdir = copied(END)
    before = content(workdir)
    with caplog.at_level(logging.INFO):
        pretrain.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
    assert content(workdir) == before
    assert f"all {END} steps are done already" in caplog.text
    assert f"load_encoder('{workdir}')" in caplog.text


def test_a_run_past_its_last_step_says_where_it_is(
    copied, tiny, one_device, caplog
):
    workdir = copied(END)
    config = tiny({"train.num_steps": END - 4})
    with caplog.at_level(logging.INFO):
        pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert f"saved:   step {END}, past the {END - 4} wanted" in caplog.text


@pytest.mark.parametrize(
    ("num_devices", "more"),
    [
        (1, {}),
        (2, {"train.accumulation_steps": 2}),
        pytest.param(2, {}, marks=pytest.mark.soak),
    ],
)
def test_resumes_in_mid_epoch_on_other_devices(
    copied, tiny, one_device, devices, finished, look, num_devices, more
):
    workdir = copied(20)
    layout = devices(num_devices) if num_devices > 1 else one_device
    pretrain.run(Run(tiny(more), workdir=str(workdir), runtime=layout))
    assert_same_run(look, workdir, finished.workdir)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    copied, tiny, one_device, finished, look, caplog
):
    workdir = copied(30)
    file = look.checkpoints(workdir)[-1] / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.INFO):
        pretrain.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
    assert str(file) in caplog.text
    assert "resuming from step 20" in caplog.text
    assert_same_run(look, workdir, finished.workdir)


def test_more_steps_extend_a_finished_run(
    copied, tiny, one_device, finished, look
):
    workdir = copied(END)
    config = tiny({"train.num_steps": END + 4})
    pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    old = look.events(finished.workdir)
    new = look.events(workdir)
    assert new[: len(old)] == old
    # Training to 35, training, validation and fill-ins at the end.
    assert [e["step"] for e in new[len(old) :]] == [35, *[END + 4] * 3]
    assert look.checkpoints(workdir)[-1].name == f"step-{END + 4:09d}"


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("float32", 1e-5),
        pytest.param("bfloat16", 2e-2, marks=pytest.mark.soak),
    ],
)
def test_xla_trains_and_validates_several_chunks(
    precision, tolerance, tiny, one_device, look, tmp_path
):
    losses = []
    for jit in ("on", "off"):
        changes = {
            "train.jit": jit,
            "train.precision": precision,
            "train.global_batch_size": 256,  # Three sizes of chunks.
            "train.num_steps": 2,
        }
        workdir = tmp_path / jit
        pretrain.run(
            Run(tiny(changes), workdir=str(workdir), runtime=one_device)
        )
        losses += [
            event["validation_loss"]
            for event in look.events(workdir)
            if "validation_loss" in event
        ]
    with_xla, without = losses
    assert with_xla == pytest.approx(without, rel=tolerance)


class StopAfter(tf.keras.callbacks.Callback):
    """Asks for an early stop, after the step of an epoch with that number."""

    def __init__(self, batch=None):
        super().__init__()
        self.last = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.last in (None, batch)


def test_two_levels_then_one_in_any_layout_and_resumed(
    tiny, one_device, devices, finished, look, tmp_path, monkeypatch
):
    # Far from how often they occur, so that the levels make a difference.
    rates = np.array([0.91, *[0.01] * 9], np.float32)
    monkeypatch.setattr(pretraining, "rare_rates", lambda _: rates)
    early = {"train.full_softmax_rate": 0.25, "train.num_steps": 20}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain.run(Run(tiny(early), workdir=str(whole), runtime=one_device))

    def go_on(changes, layout, *callbacks):
        pretrain.run(
            Run(
                tiny({"train.num_steps": 20, **changes}),
                workdir=str(parts),
                runtime=layout,
                callbacks=callbacks,
            )
        )
        return look.checkpoints(parts)[-1].name

    assert go_on(early, one_device, StopAfter()) == "step-000000005"
    two = {**early, "train.accumulation_steps": 2}
    assert go_on(two, devices(2), StopAfter(14)) == "step-000000015"
    # From here on there is one level, as it is with none before.
    go_on({}, devices(1))
    assert_same_run(look, parts, whole)
    # The rows are those of the run with one level.
    loss, one_level = (
        look.events(workdir)[0]["loss"] for workdir in (whole, finished.workdir)
    )
    assert loss == pytest.approx(one_level, rel=0.1)
    assert loss != pytest.approx(one_level, rel=1e-3)


def test_an_early_stop_is_saved_and_the_same_command_goes_on(
    copied, tiny, one_device, look, caplog
):
    workdir = copied(10)
    with caplog.at_level(logging.INFO):
        pretrain.run(
            Run(
                tiny({"evaluation.every_steps": 7}),  # So the call ends at 14.
                workdir=str(workdir),
                runtime=one_device,
                callbacks=[StopAfter()],
            )
        )
    assert look.checkpoints(workdir)[-1].name == "step-000000014"
    assert f"saved:   step 14 of {END}" in caplog.text
    assert "go on:   the same command again" in caplog.text


def test_the_best_checkpoint_outlives_worse_ones(
    copied, tiny, one_device, look
):
    workdir = copied(END)
    config = tiny(
        {
            "optimizer.learning_rate": 1.0,  # Ruins what was learned.
            "checkpoint.allow_changed": True,
            "checkpoint.keep_last": 1,
            "checkpoint.every_steps": 2,
            "train.num_steps": END + 5,
        }
    )
    pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    best, last = look.checkpoints(workdir)
    assert last.name == f"step-{END + 5:09d}"
    loss = [
        json.loads((path / "state.json").read_text())["validation_loss"]
        for path in (best, last)
    ]
    assert loss[0] < loss[1]


def test_a_loss_that_is_not_finite_ends_the_run(copied, tiny, one_device, look):
    workdir = copied(END)
    config = tiny(
        {
            "optimizer.learning_rate": 1e9,
            "optimizer.clip_norm": 0.0,
            "checkpoint.allow_changed": True,
            "train.num_steps": END + 50,
            "evaluation.every_steps": 0,
            "train.steps_per_epoch": 100,
            "checkpoint.every_steps": 100,
        }
    )
    with pytest.raises(ValueError, match=r"between steps \d+ and \d+"):
        pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    newest = look.checkpoints(workdir)[-1]
    assert newest.name == f"step-{END:09d}"
    storage.verify(newest)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"data.validation_rate": 0.2}, "validation_rate was 0.1, now 0.2"),
        ({"tokenizer.vocabulary_size": 20}, "vocabulary_size was 32, now 20"),
        ({"masking.select_rate": 0.2}, "select_rate was 0.15, now 0.2"),
        ({"model.num_layers": 2}, "model.num_layers was 1, now 2"),
        ({"train.global_batch_size": 16}, "global_batch_size was 8, now 16"),
        ({"optimizer.learning_rate": 0.5}, "allow_changed"),
        ({"optimizer.learning_rate": 0.5}, "learning_rate was 0.01, now 0.5"),
    ],
)
def test_a_workdir_of_another_run_is_refused(
    finished, tiny, one_device, more, message
):
    before = content(finished.workdir)
    with pytest.raises(ValueError, match=message):
        pretrain.run(
            Run(tiny(more), workdir=str(finished.workdir), runtime=one_device)
        )
    assert content(finished.workdir) == before


def test_changed_text_is_refused(copied, tiny, one_device, corpus, tmp_path):
    workdir = copied(20)
    before = content(workdir)
    text = corpus.read_text()
    corpus.write_text(text + "one more line\n")
    try:
        config = tiny({"data.prepared_dir": str(tmp_path / "prepared")})
        with pytest.raises(ValueError, match="the text has changed"):
            pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    finally:
        corpus.write_text(text)
    assert content(workdir) == before


def test_a_second_trainer_is_kept_out(copied, tiny, one_device):
    workdir = copied(END)
    with workdir_lib.locked(str(workdir)):
        with pytest.raises(ValueError, match="Another trainer is at work"):
            pretrain.run(Run(tiny(), workdir=str(workdir), runtime=one_device))


def test_out_of_memory_says_what_helps(copied, tiny, one_device, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(
            None, None, "OOM when allocating"
        )

    monkeypatch.setattr(tasks.Task, "create_train_call", lambda *_: fail)
    with pytest.raises(ValueError, match="Raise train.accumulation_steps"):
        pretrain.run(Run(tiny(), workdir=str(copied(20)), runtime=one_device))


def test_a_full_disk_is_not_called_out_of_memory(
    copied, tiny, one_device, monkeypatch
):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(
            None, None, "/a/b; No space left on device"
        )

    monkeypatch.setattr(tasks.Task, "create_train_call", lambda *_: fail)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        pretrain.run(Run(tiny(), workdir=str(copied(20)), runtime=one_device))


def test_batch_must_suit_the_devices(tiny, devices, tmp_path):
    config = tiny({"train.global_batch_size": 6})
    with pytest.raises(ValueError, match="4 or 8 would do"):
        pretrain.run(
            Run(config, workdir=str(tmp_path / "w"), runtime=devices(4))
        )


@pytest.mark.parametrize(("wanted", "said"), [(2, False), (3, True)])
def test_a_warmup_that_is_cut_is_named(
    tiny, one_device, tmp_path, caplog, wanted, said
):
    config = tiny({"optimizer.warmup_steps": wanted, "train.num_steps": 5})
    with caplog.at_level(logging.INFO):
        pretrain.run(
            Run(config, workdir=str(tmp_path / "run"), runtime=one_device)
        )
    line = "warm-up of 2 steps, half of the run, instead of 3"
    assert caplog.text.count(line) == said


def test_a_run_is_recognised_without_its_config(copied, tiny, one_device):
    workdir = copied(20)
    (workdir / "config.json").unlink()
    for changes, message in (
        ({"seed": 1}, "seed was 0, now 1"),
        ({"masking.select_rate": 0.3}, "masking.select_rate was 0.15"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain.run(
                Run(tiny(changes), workdir=str(workdir), runtime=one_device)
            )
    assert not (workdir / "config.json").exists()


def test_text_that_has_moved_is_the_same_text(
    copied, finished, corpus, tiny, one_device, look, tmp_path
):
    workdir = copied(20)
    moved = tmp_path / "elsewhere.txt"
    shutil.copy(corpus, moved)
    run = Run(
        tiny({"data.path": str(moved)}),
        workdir=str(workdir),
        runtime=one_device,
    )
    pretrain.run(run)
    expected = look.weights(finished.workdir)
    for name, array in look.weights(workdir).items():
        np.testing.assert_array_equal(array, expected[name])


def test_rows_that_vanish_in_the_middle_are_named(
    copied, tiny, one_device, tmp_path
):
    class Vandal(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            shard.unlink()

    run = Run(
        tiny({"data.prepared_dir": str(tmp_path / "prepared")}),
        workdir=str(copied(20)),
        runtime=one_device,
        callbacks=[Vandal()],
    )
    [shard] = run.rows.directory.glob("validation-*.tfrecord")
    with pytest.raises(ValueError, match=f"{shard.name} is missing.*Delete"):
        pretrain.run(run)
