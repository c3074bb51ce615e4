"""Whole fine-tuning runs inside this process: resumed, begun anew, refused."""

import json
import logging
import shutil
import types

import numpy as np
import pytest

import storage
from tests.trainer import conftest as tiny_runs
from trainer import checkpoint, trained
from trainer import workdir as workdir_lib
from trainer.commands import finetune, pretrain
from trainer.run import Run
from trainer.stages import finetuning_task

STAGES = ("finetune_frozen", "finetune")
LABELS = ["bad", "good"]


@pytest.fixture(scope="session")
def tuned(labelled, one_device, tmp_path_factory):
    """Pretrained and fine-tuned workdirs; nobody changes them."""
    pretrained = tmp_path_factory.mktemp("tuned") / "pretrained"
    pretrain.run(Run(labelled(), workdir=str(pretrained), runtime=one_device))
    workdir = pretrained.with_name("run")
    shutil.copytree(pretrained, workdir)
    finetune.run(Run(labelled(), workdir=str(workdir), runtime=one_device))
    return types.SimpleNamespace(pretrained=pretrained, workdir=workdir)


@pytest.fixture
def train(labelled, one_device):
    """A function: workdir, changes, layout -> fine-tunes."""

    def run(workdir, more=(), layout=one_device):
        finetune.run(Run(labelled(more), workdir=str(workdir), runtime=layout))

    return run


@pytest.fixture
def copy(tuned, tmp_path):
    """A copy of the fine-tuned workdir, to be changed."""
    return shutil.copytree(tuned.workdir, tmp_path / "run")


def test_the_learning_rate_rises_for_a_share_of_the_steps(labelled):
    changes = {"finetune.warmup_rate": 0.2, "finetune.learning_rate": 0.01}
    optimizer = finetuning_task.optimizer_section(labelled(changes), 60)
    assert (optimizer.warmup_steps, optimizer.learning_rate) == (12, 0.01)


def _remove_after(workdir, stage, step):
    for path in tiny_runs.checkpoints(workdir, stage):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def _losses(workdir):
    return [
        (event["stage"], event["step"], name, event[name])
        for event in tiny_runs.events(workdir)
        for name in ("loss", "validation_loss")
        if name in event and event["stage"] != "pretrain"
    ]


def _assert_same_run(workdir, other):
    mine, theirs = _losses(workdir), _losses(other)
    assert [row[:3] for row in mine] == [row[:3] for row in theirs]
    np.testing.assert_allclose(
        [row[3] for row in mine], [row[3] for row in theirs], rtol=1e-5
    )
    for stage in STAGES:
        mine = tiny_runs.weights(workdir, stage)
        theirs = tiny_runs.weights(other, stage)
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_allclose(
                mine[name], theirs[name], atol=1e-5, err_msg=name
            )


def test_learns_the_labels(tuned):
    events = [
        event
        for event in tiny_runs.events(tuned.workdir)
        if event["stage"] == "finetune" and "validation_accuracy" in event
    ]
    assert events[-1]["validation_accuracy"] > 0.8
    assert "validation_perplexity" not in events[-1]
    resolved = workdir_lib.read(str(tuned.workdir))["resolved"]
    assert resolved["labels"] == LABELS
    # What pretraining found out stays.
    before = workdir_lib.read(str(tuned.pretrained))["resolved"]
    assert before.items() <= resolved.items()


def test_a_frozen_encoder_keeps_every_bit(tuned):
    frozen = tiny_runs.weights(tuned.workdir, "finetune_frozen")
    start = checkpoint.weights_of(
        checkpoint.of_stage(tuned.pretrained, "pretrain").best()
    )
    encoder = [name for name in start if name.startswith("encoder/")]
    assert encoder
    for name in encoder:
        np.testing.assert_array_equal(
            frozen[f"weights/{name}"], start[name], err_msg=name
        )
    # Its optimizer knows the head alone.
    slots = [name for name in frozen if name.startswith("optimizer/")]
    assert not [name for name in slots if "transformer_layer" in name]
    moved = tiny_runs.weights(tuned.workdir, "finetune")
    for name in encoder:
        if not name.endswith("key/bias"):
            assert (moved[f"weights/{name}"] != start[name]).any(), name


@pytest.mark.soak  # Of one device the test of a signal below.
@pytest.mark.parametrize(("stage", "step"), zip(STAGES, (5, 10), strict=True))
def test_resumes_in_either_stage_on_other_devices(
    tuned, copy, train, devices, stage, step
):
    if stage == STAGES[0]:
        shutil.rmtree(copy / "checkpoints" / STAGES[1])
    _remove_after(copy, stage, step)
    train(copy, {"train.accumulation_steps": 2}, devices(2))
    _assert_same_run(copy, tuned.workdir)


def test_an_encoder_trained_further_is_not_put_under_the_old_classifier(
    copy, train
):
    before = trained.encoder_id(str(copy))
    shutil.rmtree(checkpoint.of_stage(copy, "pretrain").best())
    after = trained.encoder_id(str(copy))  # Another is the best now.
    with pytest.raises(ValueError, match=f"encoder {before}, now {after}"):
        train(copy)


def test_from_scratch_is_the_control_and_patience_ends_it_for_good(
    tuned, train, tmp_path, caplog
):
    workdir = tmp_path / "run"
    more = {
        "init_from": str(tuned.pretrained),
        "finetune.from_scratch": True,
        "finetune.frozen_epochs": 0,
        "finetune.num_epochs": 40,
        "finetune.learning_rate": 1e-30,  # Nothing gets better.
        "finetune.patience": 1,
    }
    with caplog.at_level(logging.INFO):
        train(workdir, more)
    assert not tiny_runs.checkpoints(workdir, STAGES[0])
    name = "vocabulary.json"
    assert (workdir / name).read_text() == (tuned.workdir / name).read_text()
    state = checkpoint.of_stage(workdir, "finetune").last_state()
    assert state["artifact"]["made_from"]["encoder"] == "scratch"
    before = tiny_runs.weights(tuned.pretrained)
    after = tiny_runs.weights(workdir, "finetune")
    tables = [n for n in after if "weights/encoder/" in n and "embed" in n]
    assert tables
    for name in tables:
        assert np.abs(before[name] - after[name]).max() > 0.01

    events = tiny_runs.events(workdir)
    first, *_ = [e["step"] for e in events if "validation_loss" in e]
    assert events[-1]["step"] == 2 * first
    assert f"since step {first} (finetune.patience=1)" in caplog.text
    assert "go on:" not in caplog.text
    train(workdir, more)
    assert tiny_runs.events(workdir) == events


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "no pretrained encoder.*pretrain"),
        ({"init_from": "/none"}, "init_from=/none"),
        (
            {"data.source": "text", "finetune.from_scratch": True},
            "data.source=text has no labels",
        ),
        ({"model.attend_padding": True}, "set finetune.packing=document"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(train, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "new", more)


def _last_step(workdir):
    return int(tiny_runs.checkpoints(workdir, "finetune")[-1].name[5:])


def test_a_validation_that_a_signal_left_out_is_made_up_for(tuned, copy, train):
    events = tiny_runs.events(copy)
    *_, first, _ = [
        e["step"]
        for e in events
        if e["stage"] == "finetune" and "validation_loss" in e
    ]
    _remove_after(copy, "finetune", first)
    state = copy / f"checkpoints/finetune/step-{first:09d}/state.json"
    content = json.loads(state.read_text())
    for name in ("best", "validation_loss", "validation_accuracy"):
        del content[name]
    storage.replace_file(state.parent, state.name, json.dumps(content).encode())
    (copy / "metrics.jsonl").write_text(
        "".join(
            json.dumps(e) + "\n"
            for e in events
            if e["stage"] != "finetune"
            or e["step"] < first
            or (e["step"] == first and "loss" in e)
        )
    )
    train(copy)
    _assert_same_run(copy, tuned.workdir)
    assert json.loads(state.read_text())["validation_loss"] > 0


@pytest.mark.parametrize(
    ("accuracies", "warns"),
    [
        ([0.5, 0.612, 0.66], True),
        ([0.5, 0.612, 0.625], False),  # No longer rising.
        ([0.5, 0.95, 0.995], False),  # All learned.
    ],
)
def test_a_finished_run_is_left_alone_and_called_undertrained_if_it_is(
    copy, train, caplog, accuracies, warns
):
    end = _last_step(copy)
    events = [
        {"stage": "finetune", "step": step, "accuracy": accuracy}
        for step, accuracy in zip(
            (end // 3, 2 * end // 3, end), accuracies, strict=True
        )
    ]
    text = "".join(json.dumps(event) + "\n" for event in events)
    (copy / "metrics.jsonl").write_text(text)
    with caplog.at_level(logging.INFO):
        train(copy)
    assert tiny_runs.events(copy) == events
    assert "steps are done already" in caplog.text
    assert "Non-trainable params: 0" in caplog.text
    line = (
        "WARNING: fine-tuning ended while the training accuracy was still"
        " rising (61.2 % -> 66.0 %): raise finetune.num_epochs"
    )
    assert (line in caplog.messages) == warns
    assert ("still rising" in caplog.text) == warns
