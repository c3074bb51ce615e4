"""Students: their labels, their rows, and whether they are kept."""

import json
import logging
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs import runtime
from input_pipeline import classification, manifest, stream
from input_pipeline.documents import Documents
from tests.trainer import conftest as tiny_runs
from tests.trainer.training import conftest as processes
from trainer import checkpoint, trained
from trainer.commands import everything, export, finetune
from trainer.run import Run
from trainer.stages import self_training

ROUND = "finetune_round1"


@pytest.fixture(scope="module")
def create(tiny, tmp_path_factory):
    """A function: more changes -> a config with text that has no labels.

    40 documents have a label, 160 have none.
    """
    path = tiny_runs.write_reviews(
        tmp_path_factory.mktemp("students") / "reviews.jsonl", seed=5
    )
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[40:]:
        del record["label"]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    changes = {
        "data.source": "jsonl",
        "data.path": str(path),
        "data.prepared_dir": str(path.parent / "prepared"),
        "data.validation_rate": 0.3,
        "model.dropout": 0.1,
        "finetune.from_scratch": True,
        "finetune.frozen_epochs": 1,
        "finetune.num_epochs": 2,
        "finetune.global_batch_size": 4,
        "finetune.learning_rate": 0.01,
        "finetune.self_training_rounds": 1,
        "checkpoint.every_steps": 5,
    }
    return lambda more=(): tiny({**changes, **dict(more)})


@pytest.fixture(scope="module")
def whole(create, one_device, tmp_path_factory):
    """A workdir with a teacher and a student; nobody changes it."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finetune.run(Run(create(), workdir=str(workdir), runtime=one_device))
    return workdir


def _state(workdir, stage):
    return checkpoint.read_state(checkpoint.of_stage(workdir, stage).best())


def _rows_of(state):
    return state["artifact"]["made_from"]["labelled rows"]


def _student_rows(workdir):
    name = _rows_of(_state(workdir, ROUND))
    return manifest.open_prepared(workdir / "self_training" / name)


def _run(config):
    return Run(config, workdir="", runtime=runtime.Runtime("one_device"))


def _labelled(create, workdir):
    return _run(create()).labelled_rows


def _documents(prepared, config, role):
    """The tokens of each document, as bytes, and its class."""
    found = classification.documents(prepared, config, role)
    return [
        (found.token_ids[found.owners == number].tobytes(), int(label))
        for number, label in enumerate(found.labels)
    ]


def test_a_student_is_a_stage_without_a_frozen_one(whole, create):
    stages = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert stages == ["finetune", "finetune_frozen", ROUND]
    rows = _student_rows(whole)
    epochs = create().finetune.num_epochs
    per_epoch = -(-rows.roles["train"].num_rows // 4)
    assert checkpoint.of_stage(whole, ROUND).last_step() == epochs * per_epoch


def test_the_student_learns_from_both_kinds_of_documents(whole, create):
    config = create()
    before, rows = _labelled(create, whole), _student_rows(whole)
    unlabelled = _run(config).unlabelled_rows
    known = _documents(before, config, "train")
    new = [tokens for tokens, _ in _documents(unlabelled, config, "unlabeled")]
    both = _documents(rows, config, "train")
    repeats = max(1, round(len(new) / 3 / len(known)))
    assert len(both) == len(new) + repeats * len(known)
    assert rows.roles["train"].num_documents == len(both)
    assert sorted(tokens for tokens, _ in both) == sorted(
        new + repeats * [tokens for tokens, _ in known]
    )
    assert all(both.count(document) >= repeats for document in known)
    # What validates has not changed, and is not among them.
    for mine, theirs in zip(
        stream.stored_rows(rows, "validation"),
        stream.stored_rows(before, "validation"),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert rows.labels == before.labels


def test_both_kinds_are_mixed(whole, create):
    """Every third of the shard holds its share of the labelled rows."""
    before, rows = _labelled(create, whole), _student_rows(whole)
    slots = before.sequence_length * create().finetune.pieces_per_row
    known = {
        row.numpy()[:slots].tobytes()
        for row in stream.stored_rows(before, "train")
    }
    is_known = np.array(
        [
            row.numpy()[:slots].tobytes() in known
            for row in stream.stored_rows(rows, "train")
        ]
    )
    for part in np.array_split(is_known, 3):
        assert abs(part.mean() - is_known.mean()) < 0.2


def test_held_out_text_is_never_answered(create, tmp_path, one_device):
    """Not where it stands among the unlabelled documents once more."""
    config = create()
    again = tmp_path / "again.jsonl"
    shutil.copy(config.data.path, again)
    config = create({"data.unlabeled_path": str(again)})
    run = _run(config)
    prepared, unlabelled = run.labelled_rows, run.unlabelled_rows
    held_out = {
        tokens for tokens, _ in _documents(prepared, config, "validation")
    }
    assert held_out
    for tokens, _ in _documents(unlabelled, config, "unlabeled"):
        assert tokens not in held_out


@pytest.mark.parametrize("left", ["none", "some"])
def test_a_student_that_was_killed_goes_on_to_the_same(
    whole, create, devices, tmp_path, caplog, left
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    if left == "none":
        shutil.rmtree(workdir / "self_training")
        shutil.rmtree(workdir / "checkpoints" / ROUND)
    else:
        shutil.rmtree(tiny_runs.checkpoints(workdir, ROUND)[-1])
    with caplog.at_level(logging.INFO):
        finetune.run(Run(create(), workdir=str(workdir), runtime=devices(2)))
    mine, theirs = (tiny_runs.weights(w, ROUND) for w in (workdir, whole))
    assert mine.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5)
    assert "of its teacher" in caplog.text
    drawn, expected = (
        _documents(_student_rows(w), create(), "train")
        for w in (workdir, whole)
    )
    assert drawn == expected


def test_a_student_keeps_its_labels_though_its_teacher_went_on(
    whole, create, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    before = _state(workdir, ROUND)
    config = create({"finetune.num_epochs": 3})
    finetune.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert _rows_of(_state(workdir, ROUND)) == _rows_of(before)


def test_a_round_can_be_added(whole, create, one_device, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    config = create({"finetune.self_training_rounds": 2})
    finetune.run(Run(config, workdir=str(workdir), runtime=one_device))
    first, second = (
        _state(workdir, f"finetune_round{number}") for number in (1, 2)
    )
    assert first == _state(whole, ROUND)
    assert _rows_of(first) != _rows_of(second)


@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_validation_decides(
    whole, create, one_device, tmp_path, caplog, better, by
):
    """It is the student, whatever it is, unless its teacher is better."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for stage in ("finetune", ROUND):
        ahead = (stage == ROUND) == better
        for path in tiny_runs.checkpoints(workdir, stage):
            state = checkpoint.read_state(path)
            # The other one disagrees.
            loss = 0.1 if ahead == (by == "loss") else 0.2
            accuracy = 0.9 if ahead == (by == "accuracy") else 0.8
            state |= {
                "best_by": by,
                "validation_loss": loss,
                "validation_accuracy": accuracy,
            }
            text = json.dumps(state) + "\n"
            checkpoint.storage.replace_file(path, "state.json", text.encode())
    with caplog.at_level(logging.INFO):
        self_training._compare(str(workdir), 1)
        export.run(Run(create(), workdir=str(workdir), runtime=one_device))
    chosen, _ = trained.best(str(workdir))
    assert chosen.checkpoint.parent.name == (ROUND if better else "finetune")
    kept = "kept" if better else "dropped"
    assert f"by validation {by}: the student of round 1 is {kept}" in (
        caplog.text
    )
    facts = json.loads((workdir / "export" / "manifest.json").read_text())
    state = facts["checkpoints"]["finetune"]
    assert state["step"] == checkpoint.read_state(chosen.checkpoint)["step"]


def test_without_text_to_label_nothing_is_trained(create, one_device, tmp_path):
    path = tiny_runs.write_reviews(tmp_path / "reviews.jsonl", seed=3)
    config = create({"data.path": str(path)})
    with pytest.raises(ValueError, match="needs text without labels.*unlabel"):
        finetune.run(
            Run(config, workdir=str(tmp_path / "run"), runtime=one_device)
        )
    with pytest.raises(ValueError, match="needs text without labels"):
        everything.run(
            Run(config, workdir=str(tmp_path / "all"), runtime=one_device)
        )
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "all" / "checkpoints").exists()
    for changes in (
        {"finetune.self_training_rounds": 0},
        {"finetune.encoder": False},
    ):
        config = create({"data.path": str(path), **changes})
        assert _run(config).unlabelled_rows is None


def _random_documents(number, seed=0):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9, number)
    owners = np.repeat(np.arange(number), sizes).astype(np.int32)
    tokens = random.integers(2, 9_999, sizes.sum()).astype(np.int32)
    none = np.zeros([number], np.int32)
    return Documents(tokens, owners, owners, none)


def test_labels_are_drawn_as_probable_as_they_are():
    documents = _random_documents(20_000)
    probabilities = np.random.default_rng(1).dirichlet([1, 2, 0.5], 20_000)
    drawn = self_training.draw(probabilities, documents, 1)
    is_drawn = drawn[:, np.newaxis] == np.arange(3)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (probabilities >= low) & (probabilities < low + 0.2)
        error = (is_drawn - probabilities)[inside]
        assert abs(error.mean()) < 4 * 0.5 / np.sqrt(error.size)
    certain = np.eye(3)[drawn]
    again = self_training.draw(certain, documents, 7)
    np.testing.assert_array_equal(again, drawn)


def test_a_drawn_label_depends_on_the_document_and_the_round_alone():
    documents = _random_documents(200)
    even = np.full([200, 2], 0.5)
    drawn = self_training.draw(even, documents, 1)
    other = self_training.draw(even, documents, 2)
    assert 50 < np.count_nonzero(drawn != other) < 150
    for number in range(200):
        mine = documents.owners == number
        alone = Documents(
            documents.token_ids[mine],
            documents.segments[mine],
            np.zeros([mine.sum()], np.int32),
            np.zeros([1], np.int32),
        )
        assert self_training.draw(even[:1], alone, 1) == drawn[number]
        turned = alone._replace(token_ids=alone.token_ids[::-1])
        assert self_training.draw(even[:1], turned, 1) == drawn[number]


def test_the_teacher_is_encoder_and_ngrams(whole, create, monkeypatch):
    """The labels are drawn from what an export of it would say."""
    config, before = create(), _labelled(create, whole)
    seen = []
    draw = self_training.draw

    def spy(probabilities, documents, number):
        seen.append(probabilities)
        return draw(probabilities, documents, number)

    monkeypatch.setattr(self_training, "draw", spy)
    teacher = trained.teacher(str(whole), 1)
    unlabelled = _run(config).unlabelled_rows
    folder = whole.parent / "again"
    folder.mkdir()
    self_training._write(teacher, str(whole), before, unlabelled, 1, folder)
    classifier, _ = self_training.combined.create(teacher, before, str(whole))
    path = pathlib.Path(config.data.path)
    records = map(json.loads, path.read_text().splitlines())
    texts = {r["text"] for r in records if "label" not in r}
    # In a row, documents have another order.
    expected = np.unique(classifier(tf.constant(sorted(texts)))[:, 0])
    found = np.unique(np.concatenate(seen)[:, 0])
    for value in found:
        assert np.abs(expected - value).min() < 1e-5
    assert found.max() - found.min() > 0.1


@pytest.mark.soak  # Two processes.
def test_two_workers_do_what_one_device_does(whole, create, tmp_path):
    together = tmp_path / "together"
    code = "import sys; from trainer import main; sys.exit(main.main())"
    workers = processes.start_cluster(
        code,
        f"--config={whole / 'config.json'}",
        f"--workdir={together}",
        "--mode=finetune",
        "--strategy=multi_worker",
    )
    try:
        for process in workers:
            _, err = process.communicate(timeout=400)
            assert process.returncode == 0, err
    finally:
        for process in workers:
            process.kill()
    drawn, expected = (
        _documents(_student_rows(workdir), create(), "train")
        for workdir in (together, whole)
    )
    assert drawn == expected
    for stage in ("finetune", ROUND):
        mine, theirs = (_state(w, stage) for w in (together, whole))
        for name in ("step", "best"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4)
