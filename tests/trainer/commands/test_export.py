"""What is exported is what was best, in every form, or nothing."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import storage
from input_pipeline import manifest
from trainer import checkpoint, modeling
from trainer import workdir as workdir_lib
from trainer.commands import export
from trainer.run import Run
from trainer.serving import card, loading, saved_model
from trainer.stages import fill_ins

TEXTS = ["the movie was good", "", "she hated it " * 20]
PROMPT = "the movie was [MASK] and i [MASK] it"


@pytest.fixture(scope="module")
def loaded(exported):
    return loading.load(exported / "export")


@pytest.fixture
def export_run(tiny, one_device):
    """A function: workdir, changes -> exports."""
    return lambda workdir, more=(): export.run(
        Run(tiny(more), workdir=str(workdir), runtime=one_device)
    )


def test_the_best_classifier_is_exported(exported, loaded, tiny):
    recorded = workdir_lib.read(exported)
    prepared = manifest.open_prepared(recorded["resolved"]["prepared"])
    config = tiny()
    model = modeling.create_classifier(
        config.model,
        config.finetune,
        vocabulary_size=prepared.tokenizer.vocabulary_size,
        sequence_length=16,
        num_classes=3,
    )
    best = exported / "checkpoints" / "finetune" / "step-000000010"
    checkpoint.read_weights(best, model.variables)
    found = loaded.signatures["classify"](tf.constant(TEXTS))
    (ids,) = prepared.tokenizer.encode(TEXTS[:1])
    states = model.encoder(modeling.features(ids[np.newaxis]))
    logits = model.head(
        states, tf.zeros(states.shape[:2], tf.int32), num_documents=1
    )
    expected = modeling.probabilities(logits)[0]
    np.testing.assert_allclose(found["probabilities"][0], expected, atol=1e-5)
    label = recorded["resolved"]["labels"][int(tf.argmax(expected))]
    assert found["label"][0] == label.encode()
    assert np.isfinite(found["probabilities"]).all()


def test_the_best_masked_lm_is_exported(exported, loaded, tiny):
    recorded = workdir_lib.read(exported)
    tokenizer = manifest.open_prepared(
        recorded["resolved"]["prepared"]
    ).tokenizer
    model = modeling.create_masked_lm(
        tiny().model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=16,
    )
    pretrained = checkpoint.Checkpoints(exported / "checkpoints" / "pretrain")
    checkpoint.read_weights(pretrained.best(), model.variables)
    expected = fill_ins.fill_in(model, tokenizer, PROMPT, top_k=5)
    found = loaded.signatures["fill_mask"](tf.constant([PROMPT]))
    for n, pairs in enumerate(expected):
        words = [word.decode() for word in found["tokens"][0, n].numpy()]
        assert words == [word for word, _ in pairs]
        np.testing.assert_allclose(
            found["probabilities"][0, n], [rate for _, rate in pairs], atol=1e-5
        )


def test_the_keras_models_agree(exported, loaded):
    classifier, masked_lm = (
        keras.saving.load_model(exported / "export" / name)
        for name in ("model.keras", "masked_lm.keras")
    )
    texts = tf.constant([*TEXTS, PROMPT])
    found = loaded.signatures["classify"](texts)
    np.testing.assert_allclose(
        classifier(texts), found["probabilities"], atol=1e-5
    )
    filled = loaded.signatures["fill_mask"](texts)
    again = masked_lm(texts)
    np.testing.assert_array_equal(again["tokens"], filled["tokens"])


def test_facts_and_card_say_what_it_is(exported, loaded):
    facts = loaded.facts
    assert facts["signatures"] == [
        "classify",
        "embed",
        "explain",
        "fill_mask",
    ]
    assert facts["labels"] == ["bad", "good", "so so"]
    best = {"step": 10, "validation_loss": 0.5}
    assert facts["checkpoints"]["finetune"] == best
    assert set(facts["folders"]) == {"huggingface", "keras_hub"}
    for name, why in facts["folders"].items():
        assert why.startswith("tokenizer.kind=unicode_word (BERT: wordpiece),")
        assert not (exported / "export" / name).exists()
    text = (exported / "export" / card.FILE).read_text()
    last = export.last_validation(str(exported))["pretrain"]
    assert f"validation_loss | {last['validation_loss']:.6g} |" in text
    assert "Stage `finetune`" in text


def test_an_older_export_stays_if_the_new_one_fails(
    exported, export_run, tmp_path, monkeypatch
):
    workdir = shutil.copytree(exported, tmp_path / "run")
    before = storage.verify(workdir / "export")

    def fail(directory, **_):
        (directory / "half").write_text("")
        raise OSError("no space")

    monkeypatch.setattr(saved_model, "save", fail)
    with pytest.raises(OSError, match="no space"):
        export_run(workdir)
    assert storage.verify(workdir / "export") == before
    assert not list(workdir.glob("export.*"))


def test_a_run_without_checkpoint_is_refused(finished, export_run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        export_run(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "run").mkdir()
    shutil.copy(finished.workdir / "config.json", tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint to export"):
        export_run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("export*"))


def test_text_that_changed_is_refused(copied, export_run):
    workdir = copied(33)
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["resolved"]["prepared"] = str(workdir / "gone")
    storage.write_json(workdir / "config.json", recorded)
    with pytest.raises(ValueError, match="are gone, and the source now gives"):
        export_run(workdir)
