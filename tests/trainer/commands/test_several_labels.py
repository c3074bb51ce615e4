"""Documents with several labels, from text to an evaluated artifact."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import (
    classification,
    cleaning,
    held_out,
    label_sets,
    reading,
)
from trainer.commands import evaluate, everything, predict
from trainer.run import Run
from trainer.stages import combined
from trainer.trained import best

NAMES = ("c", "a", "b, d")


def write(path, number, seed):
    """Documents of 0 to 3 classes, each of which adds two words to a text."""
    rng = random.Random(seed)
    lines = []
    for _ in range(number):
        names = [name for name in NAMES if rng.random() < 0.4]
        words = [f"is{name[0]}" for name in names for _ in range(2)]
        words += [f"w{rng.randrange(20)}" for _ in range(6)]
        rng.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": names}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def create(tiny, one_device, tmp_path):
    """A function: changes -> a run on such documents, some unlabelled."""
    path = write(tmp_path / "a.jsonl", 300, seed=0)
    with path.open("a") as file:
        file.write('\n{"text": "w1 w2 w3 isa"}\n')
    changes = {
        "data.source": "jsonl",
        "data.path": str(path),
        "data.test_path": str(write(tmp_path / "t.jsonl", 80, seed=1)),
        "data.prepared_dir": str(tmp_path / "prepared"),
        "data.near_duplicates": False,
        "data.validation_rate": 0.3,
        "train.num_steps": 10,
        "finetune.num_steps": 10,
        "finetune.min_precision": 0.8,
        "evaluation.sentences": ("isa w1 w2 [MASK]",),
    }
    return lambda more=(): Run(
        tiny({**changes, **dict(more)}),
        workdir=str(tmp_path / "run"),
        runtime=one_device,
    )


@pytest.mark.parametrize(
    "encoder", [False, pytest.param(True, marks=pytest.mark.soak)]
)
def test_from_lists_of_labels_to_decisions(create, capsys, encoder):
    run = create({"finetune.encoder": encoder})
    everything.run(run)
    out = capsys.readouterr().out
    assert "test exact match" in out and "test micro F1" in out
    result = evaluate.read(run.workdir)
    assert result["classifier"]["micro_f1"]["value"] > 0.95
    assert {one["label"] for one in result["classes"]} == {*NAMES}
    assert result["decisions"]["precision"]["value"] > 0.8
    assert ("gain_over_ngrams" in result) == encoder
    saved = np.load(f"{run.workdir}/{evaluate.PREDICTIONS}")
    assert saved["labels"].dtype == bool and saved["labels"].shape == (80, 3)
    assert "any of" in open(f"{run.workdir}/export/README.md").read()

    # The artifact says what the training side says, and decides by it.
    tuned, _ = best(run.workdir)
    classifier, _ = combined.create(tuned, run.labelled_rows, run.workdir)
    answer, expected = combined.create_answer(classifier), []
    for batch in classification.validation_batches(
        run.labelled_rows, run.config
    ):
        documents = classification.documents_of(batch)
        parts = answer(batch, documents)
        expected.append(classifier.probabilities(classifier.mixed(parts)))
    texts = [
        item.text
        for unit in run.corpus.units
        for item in reading.documents(
            run.config, unit, run.corpus.survey.roles, cleaning.Counts()
        )
        if item.role == "validation"
    ]
    exported = run.open_export()
    answers = exported.signatures["classify"](tf.constant(texts))
    rates = answers["probabilities"].numpy()
    gaps = np.abs(np.concatenate(expected)[:, np.newaxis] - rates).max(axis=2)
    assert gaps.shape == (len(texts),) * 2 and len(texts) > 50
    assert max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) < 1e-5
    names = np.array(exported.facts["labels"])
    decided = exported.facts["validation"]["decisions"]["classes"]
    limits = np.array([one["threshold"] or np.inf for one in decided])
    for key, least in (("label", 0.5), ("decision", limits)):
        assert [one.decode() for one in answers[key].numpy()] == [
            label_sets.joined(names[row].tolist()) for row in rates >= least
        ]
    (answer,) = predict.answers(exported, [b"w3 isb isc w1 isb isc"])
    assert answer["label"] == ["b, d", "c"]
    assert {*answer["probabilities"]} == {*NAMES}


def test_what_takes_one_label_is_refused_or_left_out(create, caplog, tmp_path):
    caplog.set_level("INFO")
    run = create({"finetune.encoder": False})
    assert run.unlabelled_rows is None
    assert "classifier does not learn from it" in caplog.text
    with pytest.raises(ValueError, match="self_training_rounds answers text"):
        _ = create({"finetune.self_training_rounds": 1}).unlabelled_rows
    with pytest.raises(ValueError, match="may have several; leave it"):
        everything.run(create({"finetune.class_weights": "balanced"}))
    # A test label has to be a list of known names.
    run = create()
    known = dict(names=["a", "c"], multilabel=True)
    example = held_out.Example(b"x", '["a", "new"]', b"", "test document 1")
    with pytest.raises(ValueError, match="has the label 'new', which"):
        [*held_out.known([example], **known)]
    with pytest.raises(ValueError, match="has one label, 'a', but"):
        [*held_out.known([example._replace(label="a")], **known)]
    [*held_out.known([example._replace(label="[]")], **known)]


def test_a_separator_that_occurs_nowhere_is_said(create, tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text(
        "text,label\n" + "".join(f"w{n} is,{'ab'[n % 2]}\n" for n in range(40))
    )
    rows = create(
        {
            "data.source": "csv",
            "data.path": str(path),
            "data.test_path": "",
            "data.label_separator": ";",
        }
    ).labelled_rows
    assert "data.label_separator=';' occurs in no label" in caplog.text
    assert rows.label_sets == ((0,), (1,))
