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

STAGES = ("finetune_frozen", "finetune")
LABELS = ["bad", "good"]


@pytest.fixture(scope="session")
def labelled(tiny, tmp_path_factory):
    """A function: more changes -> a config on 200 labelled documents."""
    path = tiny_runs.write_reviews(
        tmp_path_factory.mktemp("labelled") / "reviews.jsonl", seed=3
    )
    changes = {
        "data.source": "jsonl",
        "data.path": str(path),
        "data.prepared_dir": str(path.parent / "prepared"),
        "train.num_steps": 20,
        "model.dropout": 0.1,
        "finetune.frozen_epochs": 1,
        "finetune.num_epochs": 2,
        "finetune.global_batch_size": 4,
        "finetune.learning_rate": 0.01,
        "finetune.average_decay": 0.5,
        "finetune.layer_decay": 0.9,
        "finetune.word_dropout": 0.1,
        "checkpoint.every_steps": 5,
    }
    return lambda more=(): tiny({**changes, **dict(more)})


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


@pytest.mark.parametrize(
    ("stage", "step", "num_devices"),
    [
        ("finetune_frozen", 5, 1),
        pytest.param("finetune", 10, 2, marks=pytest.mark.soak),
    ],
)
def test_resumes_in_either_stage_on_other_devices(
    tuned, copy, train, one_device, devices, stage, step, num_devices
):
    if stage == STAGES[0]:
        shutil.rmtree(copy / "checkpoints" / STAGES[1])
    _remove_after(copy, stage, step)
    layout = devices(num_devices) if num_devices > 1 else one_device
    train(copy, {"train.accumulation_steps": num_devices}, layout)
    _assert_same_run(copy, tuned.workdir)


def test_an_encoder_trained_further_is_not_put_under_the_old_classifier(
    copy, train
):
    before = trained.encoder_id(str(copy))
    shutil.rmtree(checkpoint.of_stage(copy, "pretrain").best())
    after = trained.encoder_id(str(copy))  # Another is the best now.
    with pytest.raises(ValueError, match=f"encoder {before}, now {after}"):
        train(copy)


def test_from_scratch_is_the_control(tuned, train, tmp_path):
    workdir = tmp_path / "run"
    more = {
        "init_from": str(tuned.pretrained),
        "finetune.from_scratch": True,
        "finetune.frozen_epochs": 0,
        "finetune.num_steps": 1,
        "finetune.learning_rate": 1e-30,
    }
    train(workdir, more)
    assert not tiny_runs.checkpoints(workdir, STAGES[0])
    name = "vocabulary.json"
    assert (workdir / name).read_text() == (tuned.workdir / name).read_text()
    before = tiny_runs.weights(tuned.pretrained)
    after = tiny_runs.weights(workdir, "finetune")
    tables = [
        n for n in after if n.startswith("weights/") and "embeddings" in n
    ]
    assert tables
    for name in tables:
        assert np.abs(before[name] - after[name]).max() > 0.01


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


def test_patience_ends_fine_tuning_for_good(tuned, train, tmp_path, caplog):
    workdir = tmp_path / "run"
    more = {
        "init_from": str(tuned.pretrained),
        "checkpoint.best_by": "accuracy",
        "finetune.num_epochs": 40,
        "finetune.patience": 1,
        "finetune.frozen_epochs": 0,
    }
    with caplog.at_level(logging.INFO):
        train(workdir, more)
    events = tiny_runs.events(workdir)
    rows = [e for e in events if "validation_accuracy" in e]
    assert rows[-1]["validation_accuracy"] <= rows[-2]["validation_accuracy"]
    assert len(rows) < 40
    assert f"since step {rows[-2]['step']} (finetune.patience=1)" in caplog.text
    assert "go on:" not in caplog.text
    assert "still rising" not in caplog.text
    state = checkpoint.of_stage(workdir, "finetune").last_state()
    encoder = trained.encoder_id(str(tuned.pretrained))
    assert state["artifact"]["made_from"]["encoder"] == encoder
    train(workdir, more)
    assert tiny_runs.events(workdir) == events


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
