"""A hand-made artifact is measured on raw test strings; so is a pretraining."""

import json
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

import storage
from input_pipeline import held_out
from input_pipeline.corpus import Corpus
from trainer import chain
from trainer.commands import evaluate
from trainer.run import Run
from trainer.serving import loading
from trainer.stages import asking


class Classifier(tf.Module):
    """Knows "good"; says what it is told by the number of letters "!"."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def classify(self, text):
        is_good = tf.strings.regex_full_match(text, "(?s).*good.*")
        sure = 0.6 + 0.1 * tf.cast(
            tf.strings.length(tf.strings.regex_replace(text, "[^!]", "")),
            tf.float32,
        )
        good = tf.where(is_good, sure, 1 - sure)
        return {
            "probabilities": tf.stack([1 - good, good], axis=1),
            "label": tf.where(is_good, "pos", "neg"),
        }


def export(workdir, labels=("neg", "pos")):
    facts = {
        "format": loading.FORMAT,
        "tokenizer": "word",
        "signatures": ["classify"],
        "labels": [*labels],
        "checkpoints": {},
        **chain.Artifact("export", {}, {}).to_dict(),
    }
    with storage.new_directory(workdir / "export", facts=facts) as directory:
        model = Classifier()
        tf.saved_model.save(
            model, str(directory / "saved_model"), {"classify": model.classify}
        )


RECORDS = [
    {"text": "a good film!", "label": "pos"},
    {"text": "a bad film, though long and with\x00 many words", "label": "neg"},
    {"text": "   ", "label": "neg"},
    {"text": "good? <b>no</b>!!!", "label": "neg"},
    {"text": "dull", "label": "neg"},
    {"text": "nobody says what this is"},
    {"text": "fine, I say", "label": "pos"},
]


@pytest.fixture
def create(tmp_path, tiny):
    """A function: test records and changes -> config."""

    def config(records=RECORDS, **changes):
        paths = {}
        for name, content in (("path", RECORDS), ("test_path", records)):
            paths[name] = tmp_path / f"{name}.jsonl"
            paths[name].write_text(
                "".join(json.dumps(record) + "\n" for record in content)
            )
        return tiny(
            {
                "data.source": "jsonl",
                "data.path": str(paths["path"]),
                "data.test_path": str(paths["test_path"]),
                "predict.batch_size": 2,
                **{k.replace("__", "."): v for k, v in changes.items()},
            }
        )

    return config


@pytest.fixture(autouse=True)
def cards(monkeypatch):
    """What the model card would be written from."""
    found = []
    monkeypatch.setattr(
        evaluate.card, "rewrite_card", lambda *args: found.append(args)
    )
    return found


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def ask(one_device):
    """A function: config, workdir -> the content of evaluation.json."""

    def run(config, workdir):
        evaluate.run(Run(config, workdir=str(workdir), runtime=one_device))
        return evaluate.read(str(workdir))

    return run


def test_every_labelled_document_is_measured_in_order(
    create, workdir, ask, capsys, cards, monkeypatch
):
    monkeypatch.setattr(asking, "_SORTED_BATCHES", 1)
    export(workdir)
    result = ask(create(), workdir)
    assert result["documents"] == {
        "evaluated": 5,
        "empty": 1,
        "without_label": 1,
        "split": 0,
        "own_split": True,
    }
    found = result["classifier"]
    assert found["accuracy"]["value"] == 3 / 5
    assert found["confusion"] == [[2, 1], [1, 1]]
    assert found["macro_f1"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["balanced_accuracy"]["value"] == pytest.approx(7 / 12)
    # Both have two errors; "pos" has the lower F1.
    pos, neg = result["classes"]
    assert (pos["label"], pos["support"], pos["errors"]) == ("pos", 2, 2)
    assert neg["precision"]["value"] == pytest.approx(2 / 3)
    assert result["confused"] == [
        {"label": "neg", "answer": "pos", "documents": 1},
        {"label": "pos", "answer": "neg", "documents": 1},
    ]
    true = [0.7, 0.6, 0.1, 0.6, 0.4]
    assert found["loss"]["value"] == pytest.approx(
        -np.log(true).mean(), rel=1e-6
    )
    assert result["masked_lm"] == {}
    assert "decisions" not in result  # As of an older version.
    assert result["curve"][0]["precision"]["value"] == 0  # 0.9 and wrong.
    assert result["curve"][-1]["precision"]["value"] == 3 / 5
    ((directory, metrics, tables),) = cards
    assert directory == workdir / "export"
    (rows,) = tables.values()
    assert [row[0] for row in rows] == ["class", "pos", "neg"]
    shown = "0.6000 (0.2307 to 0.8824)"
    assert metrics["test"]["test accuracy"].startswith(shown)
    assert shown in capsys.readouterr().out
    assert (workdir / evaluate.PICTURE).read_bytes().startswith(b"\x89PNG")

    saved = np.load(workdir / evaluate.PREDICTIONS)
    assert saved["labels"].tolist() == [1, 0, 0, 0, 1]
    np.testing.assert_allclose(
        saved["probabilities"][:, 1], [0.7, 0.4, 0.9, 0.4, 0.4], rtol=1e-6
    )
    assert saved["names"].tolist() == ["neg", "pos"]
    examples = held_out.examples(Corpus(create().data), held_out.Counts())
    assert saved["digests"].tolist() == [
        int.from_bytes(example.digest) for example in examples
    ]

    first, second = result["most_wrong"]
    assert first == {
        "document": 3,  # Of those that are evaluated.
        "text": "good? <b>no</b>!!!",
        "label": "neg",
        "answer": "pos",
        "probability": pytest.approx(0.9),
    }
    assert second["label"] == "pos"


def test_a_control_has_the_same_documents(create, workdir, ask, tmp_path):
    export(workdir)
    ask(create(), workdir)
    control = shutil.copytree(workdir, tmp_path / "control")
    config = create(evaluation__control=str(control))
    gain = ask(config, workdir)["gain_over_control"]["accuracy"]
    assert gain == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(ValueError, match="other documents"):
        ask(create(RECORDS[:3], evaluation__control=str(control)), workdir)
    with pytest.raises(ValueError, match=r"holds no predictions\.npz"):
        ask(create(evaluation__control=str(tmp_path)), workdir)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [*RECORDS[:4], {"text": "new", "label": "mixed"}],
            r"test document 5, in .*test_path\.jsonl has the label 'mixed'",
        ),
        (
            [{"text": "new"}, {"text": "newer", "label": ""}],
            "no labelled document: 2 have no",
        ),
    ],
)
def test_labels_that_are_not_known_are_refused(
    create, workdir, ask, records, message
):
    export(workdir)
    with pytest.raises(ValueError, match=message):
        ask(create(records), workdir)
    assert not (workdir / evaluate.RESULT).exists()


def test_nothing_to_evaluate(create, workdir, ask):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        ask(create(), workdir)


def test_other_documents_than_those_of_the_run_are_refused(
    tuned, tiny, create, ask
):
    workdir = tuned(with_pretraining=False)
    with pytest.raises(ValueError, match="holds another run: data.source was"):
        ask(create(), workdir)


def test_without_labels_the_masked_lm_half(copied, tiny, ask, look, caplog):
    workdir = copied(33)
    caplog.set_level(logging.INFO)
    result = ask(tiny(), workdir)
    assert [*result] == ["masked_lm", "artifact"]
    assert "masked-LM half alone" in caplog.text
    validations = [e for e in look.events(workdir) if "validation_loss" in e]
    best = min(validations, key=lambda event: event["validation_loss"])
    found = result["masked_lm"]
    assert found["checkpoint"] == f"step-{best['step']:09d}"
    assert found["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    with pytest.raises(ValueError, match="masking.select_rate was 0.15"):
        ask(tiny({"masking.select_rate": 0.3}), workdir)


def test_other_workers_write_nothing(create, workdir, one_device):
    export(workdir)
    run = Run(create(), workdir=str(workdir), runtime=one_device)
    run.is_chief = False
    evaluate.run(run)
    assert evaluate.read(str(workdir)) == {}
