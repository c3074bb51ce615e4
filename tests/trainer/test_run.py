"""Runs that begin with the weights of another model, and their rows."""

import json
import logging
import shutil

import numpy as np
import pytest

from input_pipeline import manifest, strings
from trainer import checkpoint, modeling
from trainer import run as run_module
from trainer import trained as trained_lib
from trainer import workdir as workdir_lib
from trainer.commands import export, pretrain
from trainer.modeling import interchange
from trainer.modeling.interchange import bert
from trainer.run import Run

LENGTH = 16  # Of the tiny runs.
WORDS = "the movie was good bad and i she we loved hated it . ##s ##d".split()
BERT = {
    **{f"model.{name}": value for name, value in bert.SHAPE.items()},
    "model.activation": "gelu_tanh",
    "model.layer_norm_epsilon": 1e-12,
    "tokenizer.kind": "wordpiece",
    # So small a rate that a step leaves the weights where they were.
    "train.num_steps": 1,
    "optimizer.learning_rate": 1e-30,
    "optimizer.weight_decay": 0.0,
}


@pytest.fixture
def run_of(tiny, one_device, tmp_path):
    """A function: changes of the config -> a run, always in one workdir."""
    return lambda changes=(): Run(
        tiny(changes), workdir=str(tmp_path / "run"), runtime=one_device
    )


def test_a_bert_that_is_exported_again_is_bit_equal(run_of, tmp_path):
    vocabulary = [*strings.PIECES_SPECIAL, *WORDS]
    theirs, ours = tmp_path / "theirs", tmp_path / "run/export/huggingface"
    changes = {**BERT, "init_from": str(theirs)}
    model = modeling.create_masked_lm(
        run_of(changes).config.model,
        vocabulary_size=len(vocabulary),
        sequence_length=LENGTH,
    )
    for number, variable in enumerate(model.variables):
        draw = np.random.default_rng(number).normal(0, 0.2, variable.shape)
        variable.assign(draw)
    interchange.write_huggingface(theirs, model, vocabulary)
    with pytest.raises(ValueError, match="--config.model.activation=gelu_tanh"):
        pretrain.run(run_of({**changes, "model.activation": "gelu"}))
    assert not (tmp_path / "run" / "config.json").exists()
    pretrain.run(run_of(changes))
    export.run(run_of(changes))
    for name in ("model.safetensors", "vocab.txt", "config.json"):
        assert (theirs / name).read_bytes() == (ours / name).read_bytes()
    assert modeling.initial_weights(str(ours.with_name("keras_hub")))
    text = ours.with_name("README.md").read_text()
    assert 'from_preset("keras_hub")' in text


def test_pretraining_goes_on_from_a_run_and_then_from_its_own_checkpoint(
    finished, run_of, tmp_path, look, caplog
):
    source = str(finished.workdir)
    still = {
        "init_from": source,
        "train.num_steps": 1,
        "optimizer.learning_rate": 1e-30,
        "optimizer.weight_decay": 0.0,
    }
    with caplog.at_level(logging.INFO):
        pretrain.run(run_of(still))
    assert "starting from Cloze run" in caplog.text
    assert "dropped:" not in caplog.text and "new," not in caplog.text
    (path,) = look.checkpoints(tmp_path / "run")
    arrays = checkpoint.weights_of(path)
    expected = modeling.initial_weights(source).read_weights().arrays
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        pretrain.run(run_of(still))
    assert "starting from" not in caplog.text
    assert look.checkpoints(tmp_path / "run") == [path]
    with pytest.raises(
        ValueError, match="init_from holds other weights .*, now none"
    ):
        pretrain.run(run_of({**still, "init_from": ""}))


def test_what_init_from_holds_decides_and_not_where_it_or_its_rows_lie(
    finished, run_of, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(finished.workdir, copy)
    content = json.loads((copy / "config.json").read_text())
    content["resolved"]["prepared"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(content))
    one, two = (
        run_of({"init_from": str(place)}) for place in (finished.workdir, copy)
    )
    encoder = trained_lib.encoder_id(str(copy))
    assert one.initial_id == two.initial_id == encoder
    recorded = workdir_lib.read(str(finished.workdir))["resolved"]["prepared"]
    tokenizer = manifest.open_prepared(recorded).tokenizer
    assert two.tokenizer.vocabulary == tokenizer.vocabulary
    assert two.tokenizer.kind == tokenizer.kind
    assert run_of().initial_id == ""
    assert run_of().initial is None


def test_the_lock_of_a_run_may_be_nested(run_of):
    run, other = run_of(), run_of()
    with run.locked():
        with run.locked():
            pass
        with pytest.raises(ValueError, match="Another trainer is at work"):
            with other.locked():
                pass
    with other.locked():
        pass


def test_all_workers_must_have_the_same_config_rows_and_arithmetic(
    run_of, monkeypatch
):
    compared = []
    monkeypatch.setattr(
        run_module.workers,
        "require_equal",
        lambda strategy, facts, *, remedy: compared.append(facts),
    )
    run = run_of()
    run.require_same_rows_on_workers(run.rows)
    config, rows = compared
    expected = {**run.config.to_dict(), "versions": workdir_lib.versions()}
    del expected["data"]["prepared_dir"], expected["data"]["num_processes"]
    assert config == expected
    assert rows == {
        "data": run.rows.fingerprint,
        "precision": "float32",
        "XLA": False,
        "devices": 1,
    }
