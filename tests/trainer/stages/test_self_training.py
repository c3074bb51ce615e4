"""Students: what they learn from, and how their labels are drawn."""

import collections
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import classification, manifest, stream
from input_pipeline.documents import Documents
from tests.trainer import conftest as tiny_runs
from trainer import checkpoint, ngrams, trained
from trainer.commands import everything
from trainer.run import Run
from trainer.stages import combined, self_training

ROUND = "finetune_round1"


@pytest.fixture
def open_rows(create, one_device):
    """A function: more changes -> labelled and unlabelled rows."""

    def opened(more=()):
        run = Run(create(more), workdir="", runtime=one_device)
        return run.labelled_rows, run.unlabelled_rows

    return opened


@pytest.fixture
def rows(whole):
    """What the student learns from."""
    state = checkpoint.read_state(checkpoint.of_stage(whole, ROUND).best())
    name = state["artifact"]["made_from"]["labelled rows"]
    return manifest.open_prepared(whole / "self_training" / name)


def _documents(prepared, config, role):
    """The tokens of each document, sorted, and its class."""
    found = classification.documents(prepared, config, role)
    return [
        (tuple(sorted(found.token_ids[found.owners == number])), int(label))
        for number, label in enumerate(found.labels)
    ]


def test_the_student_learns_labels_and_what_its_teacher_answers(
    whole, create, open_rows, rows
):
    config = create()
    before, unlabelled = open_rows()
    teacher = trained.teacher(str(whole), 1)
    classifier, _ = combined.create(teacher, before, str(whole))
    # What the export of the teacher, with its n-grams, would say.
    records = pathlib.Path(config.data.path).read_text().splitlines()
    texts = sorted({json.loads(record)["text"] for record in records})
    answers = dict(
        zip(
            (tuple(sorted(i)) for i in before.tokenizer.encode(texts)),
            classifier(tf.constant(texts)).numpy(),
            strict=True,
        )
    )
    new = classification.documents(unlabelled, config, "unlabeled")
    tokens = [text for text, _ in _documents(unlabelled, config, "unlabeled")]
    probabilities = np.array([answers[text] for text in tokens])
    assert np.ptp(probabilities[:, 0]) > 0.1
    drawn = self_training.draw(probabilities, new, 1)
    known = _documents(before, config, "train")
    repeats = max(1, round(len(new.labels) / 3 / len(known)))
    assert collections.Counter(
        _documents(rows, config, "train")
    ) == collections.Counter(
        [*zip(tokens, drawn.tolist(), strict=True), *known * repeats]
    )
    role = rows.roles["train"]
    assert role.num_documents == len(tokens) + repeats * len(known)
    steps = config.finetune.num_epochs * -(-role.num_rows // 4)
    assert checkpoint.of_stage(whole, ROUND).last_step() == steps
    # What validates has not changed.
    for mine, theirs in zip(
        stream.stored_rows(rows, "validation"),
        stream.stored_rows(before, "validation"),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_both_kinds_are_mixed(create, open_rows, rows):
    """Every third of the shard holds its share of the labelled rows."""
    before, _ = open_rows()
    slots = before.sequence_length * create().finetune.pieces_per_row
    known, found = (
        [
            row.numpy()[:slots].tobytes()
            for row in stream.stored_rows(prepared, "train")
        ]
        for prepared in (before, rows)
    )
    is_known = np.isin(found, known)
    for part in np.array_split(is_known, 3):
        assert abs(part.mean() - is_known.mean()) < 0.2


def test_held_out_text_is_never_answered(create, open_rows, tmp_path):
    """Not where it stands among the unlabelled documents once more."""
    config = create()
    again = tmp_path / "again.jsonl"
    shutil.copy(config.data.path, again)
    prepared, unlabelled = open_rows({"data.unlabeled_path": str(again)})
    held_out, answered = (
        {tokens for tokens, _ in _documents(rows, config, role)}
        for rows, role in ((prepared, "validation"), (unlabelled, "unlabeled"))
    )
    assert held_out and not held_out & answered


def test_without_text_to_label_nothing_is_trained(create, one_device, tmp_path):
    path = tiny_runs.write_reviews(tmp_path / "reviews.jsonl", seed=3)
    more = {"data.path": str(path)}
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match="needs text without labels.*unlabel"):
        everything.run(
            Run(create(more), workdir=str(workdir), runtime=one_device)
        )
    assert not (workdir / "checkpoints").exists()
    for name, value in (("self_training_rounds", 0), ("encoder", False)):
        config = create({**more, f"finetune.{name}": value})
        run = Run(config, workdir="", runtime=one_device)
        assert run.unlabelled_rows is None


def test_few_labels_let_the_ngrams_read_the_other_text(
    create, open_rows, one_device, monkeypatch
):
    still = {"finetune.self_training_rounds": 0}

    def unlabelled(**more):
        changes = {**still, **{f"finetune.{k}": v for k, v in more.items()}}
        return Run(
            create(changes), workdir="", runtime=one_device
        ).unlabelled_rows

    assert unlabelled().directory == open_rows()[1].directory
    assert unlabelled(ngrams=False) is None
    monkeypatch.setattr(ngrams, "MOST_LABELLED", 10)
    assert unlabelled() is None


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
