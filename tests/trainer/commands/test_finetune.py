"""Tests of trainer/commands/finetune.py: whole runs, inside this process."""

import json
import logging
import shutil
import types

import numpy as np
import pytest

import storage
from input_pipeline import sources, survey
from tests.trainer import conftest as tiny_runs
from trainer import checkpoint, trained
from trainer import workdir as workdir_lib
from trainer.commands import finetune, pretrain
from trainer.run import Run

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
    accuracies = [
        event["validation_accuracy"]
        for event in tiny_runs.events(tuned.workdir)
        if event["stage"] == "finetune" and "validation_accuracy" in event
    ]
    assert accuracies[-1] > 0.8
    resolved = workdir_lib.read(str(tuned.workdir))["resolved"]
    assert resolved["labels"] == LABELS
    # What pretraining found out stays.
    before = workdir_lib.read(str(tuned.pretrained))["resolved"]
    assert before.items() <= resolved.items()


def test_few_labels_are_learned_and_said_to_be_few(
    labelled, one_device, tmp_path, caplog
):
    path = tmp_path / "few.jsonl"
    records = [
        {"text": f"word{n} film {n}", "label": "rare" if n == 0 else "often"}
        for n in range(12)
    ]
    for number in range(99):  # Until the only one would not train.
        records[0]["text"] = f"number {number}"
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
        config = labelled(
            {
                "data.path": str(path),
                "data.prepared_dir": str(tmp_path / "prepared"),
                "data.validation_rate": -1.0,
            }
        )
        known = survey.of(config.data, sources.list_units(config.data))
        if known.kept_labels:
            break
    with caplog.at_level(logging.WARNING):
        prepared = Run(
            config, workdir=str(tmp_path), runtime=one_device
        ).labelled_rows
    assert prepared.labels == ("often", "rare")
    assert prepared.roles["train"].num_documents >= 6
    assert "so few that validation cannot tell" in caplog.text
    assert "their class has no other document: 'rare'; neither" in caplog.text


def test_no_perplexity_of_labels(tuned):
    for event in tiny_runs.events(tuned.workdir):
        if event["stage"] != "pretrain":
            assert "validation_perplexity" not in event


def test_a_frozen_encoder_keeps_every_bit(tuned):
    frozen = tiny_runs.weights(tuned.workdir, "finetune_frozen")
    best = min(
        tiny_runs.checkpoints(tuned.pretrained),
        key=lambda path: json.loads((path / "state.json").read_text()).get(
            "validation_loss", np.inf
        ),
    )
    start = tiny_runs.safetensors.numpy.load_file(best / "weights.safetensors")
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


def test_a_finished_run_is_left_alone(tuned, labelled, one_device, caplog):
    before = tiny_runs.events(tuned.workdir)
    with caplog.at_level(logging.INFO):
        finetune.run(
            Run(labelled(), workdir=str(tuned.workdir), runtime=one_device)
        )
    assert tiny_runs.events(tuned.workdir) == before
    assert "steps are done already" in caplog.text


@pytest.mark.parametrize(
    ("stage", "step", "num_devices"),
    [
        ("finetune_frozen", 5, 1),
        ("finetune", 10, 2),
        pytest.param("finetune_frozen", 5, 2, marks=pytest.mark.soak),
        pytest.param("finetune", 10, 1, marks=pytest.mark.soak),
    ],
)
def test_resumes_in_either_stage_on_other_devices(
    tuned, labelled, one_device, devices, tmp_path, stage, step, num_devices
):
    workdir = tmp_path / "run"
    shutil.copytree(tuned.workdir, workdir)
    if stage == STAGES[0]:
        shutil.rmtree(workdir / "checkpoints" / STAGES[1])
    for path in tiny_runs.checkpoints(workdir, stage):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    layout = devices(num_devices) if num_devices > 1 else one_device
    more = {"train.accumulation_steps": num_devices}
    finetune.run(Run(labelled(more), workdir=str(workdir), runtime=layout))
    _assert_same_run(workdir, tuned.workdir)


def test_takes_the_encoder_of_another_workdir(
    tuned, labelled, one_device, tmp_path
):
    workdir = tmp_path / "run"
    config = labelled({"init_from": str(tuned.pretrained)})
    finetune.run(Run(config, workdir=str(workdir), runtime=one_device))
    _assert_same_run(workdir, tuned.workdir)


def test_more_pretraining_keeps_what_fine_tuning_found_out(
    tuned, labelled, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(tuned.workdir, workdir)
    before = workdir_lib.read(str(workdir))["resolved"]
    config = labelled({"train.num_steps": 21})
    pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert len(tiny_runs.checkpoints(workdir)) > len(
        tiny_runs.checkpoints(tuned.workdir)
    )
    assert workdir_lib.read(str(workdir))["resolved"] == before


def test_an_encoder_trained_further_is_not_put_under_the_old_classifier(
    tuned, labelled, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(tuned.workdir, workdir)
    before = trained.encoder_id(str(workdir))
    shutil.rmtree(checkpoint.of_stage(workdir, "pretrain").best())
    after = trained.encoder_id(str(workdir))  # Another is the best now.
    with pytest.raises(ValueError, match=f"encoder {before}, now {after}"):
        finetune.run(Run(labelled(), workdir=str(workdir), runtime=one_device))
    for stage in STAGES:
        (workdir / "checkpoints" / stage).rename(tmp_path / stage)
    finetune.run(Run(labelled(), workdir=str(workdir), runtime=one_device))
    state = checkpoint.of_stage(workdir, "finetune").last_state()
    assert state["artifact"]["made_from"]["encoder"] == after


def test_from_scratch_is_the_control(tuned, labelled, one_device, tmp_path):
    workdir = tmp_path / "run"
    config = labelled(
        {
            "init_from": str(tuned.pretrained),
            "finetune.from_scratch": True,
            "finetune.frozen_epochs": 0,
            "finetune.num_epochs": 1,
        }
    )
    finetune.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert not tiny_runs.checkpoints(workdir, STAGES[0])
    assert (
        workdir_lib.read(str(workdir))["resolved"]["vocabulary_size"]
        == workdir_lib.read(str(tuned.workdir))["resolved"]["vocabulary_size"]
    )
    name = "vocabulary.json"
    assert (workdir / name).read_text() == (tuned.workdir / name).read_text()


def test_without_an_encoder_it_says_what_to_do(labelled, one_device, tmp_path):
    with pytest.raises(ValueError, match="no pretrained encoder.*pretrain"):
        finetune.run(
            Run(labelled(), workdir=str(tmp_path / "new"), runtime=one_device)
        )
    config = labelled({"init_from": str(tmp_path / "nothing")})
    with pytest.raises(ValueError, match=r"init_from=.*nothing"):
        finetune.run(
            Run(config, workdir=str(tmp_path / "new"), runtime=one_device)
        )


def test_a_batch_that_does_not_divide(labelled, devices, tmp_path):
    config = labelled({"finetune.global_batch_size": 5})
    with pytest.raises(
        ValueError, match=r"finetune.global_batch_size=5 .* 4 or 6 would do"
    ):
        finetune.run(
            Run(config, workdir=str(tmp_path / "new"), runtime=devices(2))
        )


def test_text_without_labels(tiny, one_device, tmp_path):
    config = tiny({"finetune.from_scratch": True})
    with pytest.raises(ValueError, match="data.source=text has no labels"):
        finetune.run(
            Run(config, workdir=str(tmp_path / "new"), runtime=one_device)
        )


def test_the_summary_shows_what_is_trained(tuned, labelled, one_device, caplog):
    with caplog.at_level(logging.INFO):
        finetune.run(
            Run(labelled(), workdir=str(tuned.workdir), runtime=one_device)
        )
    assert "Non-trainable params: 0" in caplog.text


def test_documents_that_would_see_each_other(labelled, one_device, tmp_path):
    config = labelled({"model.attend_padding": True})
    with pytest.raises(ValueError, match="set finetune.packing=document"):
        finetune.run(
            Run(config, workdir=str(tmp_path / "new"), runtime=one_device)
        )


def _last_step(workdir):
    return int(tiny_runs.checkpoints(workdir, "finetune")[-1].name[5:])


def test_patience_ends_fine_tuning_and_a_resumed_run_alike(
    tuned, labelled, one_device, devices, tmp_path, caplog
):
    more = {
        "init_from": str(tuned.pretrained),
        "checkpoint.best_by": "accuracy",
        "finetune.num_epochs": 40,
        "finetune.patience": 1,
        "finetune.frozen_epochs": 0,
    }
    whole = tmp_path / "whole"
    with caplog.at_level(logging.INFO):
        finetune.run(
            Run(labelled(more), workdir=str(whole), runtime=one_device)
        )
    end = _last_step(whole)
    rows = [e for e in tiny_runs.events(whole) if "validation_accuracy" in e]
    accuracies = [row["validation_accuracy"] for row in rows]
    assert accuracies[-1] <= accuracies[-2] and len(accuracies) < 40
    assert f"since step {rows[-2]['step']} (finetune.patience=1)" in caplog.text
    assert "go on:" not in caplog.text
    assert "still rising" not in caplog.text
    # Killed before its last epoch, it ends where it would have.
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for path in tiny_runs.checkpoints(cut, "finetune")[-2:]:
        shutil.rmtree(path)
    finetune.run(Run(labelled(more), workdir=str(cut), runtime=devices(2)))
    assert _losses(cut) == [
        (*row[:3], pytest.approx(row[3], rel=1e-5)) for row in _losses(whole)
    ]
    states = [
        json.loads((path / "state.json").read_text())["best"]
        for workdir in (whole, cut)
        for path in tiny_runs.checkpoints(workdir, "finetune")[-1:]
    ]
    assert states[0]["step"] == states[1]["step"] == rows[-2]["step"]
    # It is done, until there is more patience.
    before = tiny_runs.events(cut)
    finetune.run(Run(labelled(more), workdir=str(cut), runtime=one_device))
    assert tiny_runs.events(cut) == before
    more |= {"finetune.patience": 2}
    finetune.run(Run(labelled(more), workdir=str(cut), runtime=one_device))
    assert _last_step(cut) > end


def test_a_validation_that_a_signal_left_out_is_made_up_for(
    tuned, labelled, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(tuned.workdir, workdir)
    events = tiny_runs.events(workdir)
    *_, first, _ = [
        e["step"]
        for e in events
        if e["stage"] == "finetune" and "validation_loss" in e
    ]
    for path in tiny_runs.checkpoints(workdir, "finetune"):
        step = int(path.name.removeprefix("step-"))
        if step > first:
            shutil.rmtree(path)
    state = workdir / f"checkpoints/finetune/step-{first:09d}/state.json"
    content = json.loads(state.read_text())
    for name in ("best", "validation_loss", "validation_accuracy"):
        del content[name]
    storage.replace_file(state.parent, state.name, json.dumps(content).encode())
    (workdir / "metrics.jsonl").write_text(
        "".join(
            json.dumps(e) + "\n"
            for e in events
            if e["stage"] != "finetune"
            or e["step"] < first
            or (e["step"] == first and "loss" in e)
        )
    )
    finetune.run(Run(labelled(), workdir=str(workdir), runtime=one_device))
    _assert_same_run(workdir, tuned.workdir)
    assert json.loads(state.read_text())["validation_loss"] > 0


@pytest.mark.parametrize(
    ("accuracies", "warns"),
    [
        ([0.5, 0.612, 0.66], True),
        ([0.5, 0.612, 0.625], False),  # No longer rising.
        ([0.5, 0.95, 0.995], False),  # All learned.
        ([0.5, 0.66, 0.612], False),
        ([], False),
    ],
)
def test_undertrained_is_said(
    tuned, labelled, one_device, tmp_path, caplog, accuracies, warns
):
    workdir = tmp_path / "run"
    shutil.copytree(tuned.workdir, workdir)
    end = _last_step(workdir)
    (workdir / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"stage": "finetune", "step": step, "accuracy": a})
            + "\n"
            for step, a in zip(
                (end // 3, 2 * end // 3, end), accuracies, strict=False
            )
        )
    )
    finetune.run(Run(labelled(), workdir=str(workdir), runtime=one_device))
    line = (
        "WARNING: fine-tuning ended while the training accuracy was still"
        " rising (61.2 % -> 66.0 %): raise finetune.num_epochs"
    )
    assert (line in caplog.messages) == warns
    assert ("still rising" in caplog.text) == warns
