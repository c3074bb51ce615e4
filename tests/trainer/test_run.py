"""Runs that begin with the weights of another model, and their rows."""

import json
import logging
import pathlib
import shutil

import keras_hub
import numpy as np
import pytest
import safetensors.numpy

from input_pipeline import manifest, strings
from trainer import modeling
from trainer import run as run_module
from trainer import trained as trained_lib
from trainer import workdir as workdir_lib
from trainer.commands import export, pretrain
from trainer.modeling import interchange
from trainer.modeling.interchange import bert
from trainer.run import Run
from trainer.stages import start

LENGTH = 16  # Of the tiny runs.
WORDS = "the movie was good bad and i she we loved hated it . ##s ##d".split()
VOCABULARY = [
    *reversed(strings.PIECES_SPECIAL[1:]),
    strings.PIECES_SPECIAL[0],
    *WORDS,
]
BERT = {
    **{f"model.{name}": value for name, value in bert.SHAPE.items()},
    "model.activation": "gelu_tanh",
    "model.layer_norm_epsilon": 1e-12,
    "tokenizer.kind": "wordpiece",
    "train.num_steps": 0,
}


@pytest.fixture
def pretrained(tiny, tmp_path):
    """A function: form -> (a BERT, the folder that it is written to).

    Its vocabulary does not begin with [PAD], and it knows 4 more positions
    than the tiny runs need.
    """

    def create(form):
        model = modeling.create_masked_lm(
            tiny(BERT).model,
            vocabulary_size=len(VOCABULARY),
            sequence_length=LENGTH + 4,
            seed=5,
        )
        for number, variable in enumerate(model.variables):
            draw = np.random.default_rng(number).normal(0, 0.2, variable.shape)
            variable.assign(draw)
        write = {
            "huggingface": interchange.write_huggingface,
            "keras_hub": interchange.write_keras_hub,
        }[form]
        write(tmp_path / form, model, VOCABULARY)
        return model, tmp_path / form

    return create


@pytest.fixture
def trained(tiny, one_device, tmp_path, caplog):
    """A function: changes -> the first checkpoint's weights, and the log."""

    def run(**changes):
        config = tiny({"train.num_steps": 1, **changes})
        workdir = tmp_path / "run"
        with caplog.at_level(logging.INFO):
            pretrain.run(Run(config, workdir=str(workdir), runtime=one_device))
        (path,) = workdir.glob("checkpoints/pretrain/step-*")
        arrays = safetensors.numpy.load_file(path / "weights.safetensors")
        return arrays, caplog.text

    return run


def _still(changes):
    """So small a rate that a step leaves the weights where they were."""
    return {**BERT, **changes, "train.num_steps": 1} | {
        "optimizer.learning_rate": 1e-30,
        "optimizer.weight_decay": 0.0,
    }


@pytest.mark.parametrize("form", ["huggingface", "keras_hub"])
def test_pretraining_goes_on_from_a_bert(pretrained, trained, form, tmp_path):
    model, path = pretrained(form)
    arrays, log = trained(**_still({"init_from": str(path)}))
    place = VOCABULARY.index("[PAD]")
    order = np.arange(len(VOCABULARY))
    order[[0, place]] = place, 0
    for variable in model.variables:
        expected = variable.numpy()
        if variable.path.endswith("position_embedding/embeddings"):
            expected = expected[:LENGTH]
        if len(expected) == len(VOCABULARY):
            expected = expected[order]
        same = np.array_equal(expected, arrays[variable.path])
        kept = form == "huggingface" or variable.path.startswith("encoder/")
        assert same == kept, variable.path
    prepared = workdir_lib.read(tmp_path / "run")["resolved"]["prepared"]
    vocabulary = manifest.open_prepared(prepared).tokenizer.vocabulary
    assert vocabulary == [VOCABULARY[i] for i in order]
    assert f"{path}: " in log
    assert "position_embedding/embeddings 16 to 19" in log
    assert ("pooled_dense/kernel" in log) == (form == "keras_hub")
    assert ("new, from the seed: masked_lm_head/" in log) == (
        form == "keras_hub"
    )


def test_a_bert_that_is_exported_again_is_bit_equal(
    tiny, one_device, trained, tmp_path
):
    vocabulary = [*strings.PIECES_SPECIAL, *WORDS]
    model = modeling.create_masked_lm(
        tiny(BERT).model,
        vocabulary_size=len(vocabulary),
        sequence_length=LENGTH,
    )
    for number, variable in enumerate(model.variables):
        draw = np.random.default_rng(number).normal(0, 0.2, variable.shape)
        variable.assign(draw)
    theirs, workdir = tmp_path / "theirs", tmp_path / "run"
    interchange.write_huggingface(theirs, model, vocabulary)
    changes = _still({"init_from": str(theirs)})
    trained(**changes)
    export.run(Run(tiny(changes), workdir=str(workdir), runtime=one_device))
    ours = workdir / "export" / "huggingface"
    for name in ("model.safetensors", "vocab.txt", "config.json"):
        assert (theirs / name).read_bytes() == (ours / name).read_bytes()
    assert modeling.initial_weights(str(ours.parent / "keras_hub"))
    text = (ours.parent / "README.md").read_text()
    assert 'from_preset("keras_hub")' in text


def test_pretraining_goes_on_from_a_run(finished, trained):
    still = {
        "optimizer.learning_rate": 1e-30,
        "optimizer.weight_decay": 0.0,
        "init_from": str(finished.workdir),
    }
    arrays, log = trained(**still)
    expected = modeling.initial_weights(str(finished.workdir)).read_weights()
    assert set(arrays) == set(expected.arrays)
    for path, array in expected.arrays.items():
        np.testing.assert_array_equal(arrays[path], array)
    assert "starting from Cloze run" in log
    assert "dropped" not in log


def test_the_own_checkpoint_comes_first(
    finished, tiny, one_device, tmp_path, look
):
    copy = tmp_path / "start"
    shutil.copytree(finished.workdir, copy)
    config = {"init_from": str(copy), "train.num_steps": 3}
    workdir = tmp_path / "run"
    pretrain.run(Run(tiny(config), workdir=str(workdir), runtime=one_device))
    before = look.weights(workdir)
    pretrain.run(Run(tiny(config), workdir=str(workdir), runtime=one_device))
    for name, array in look.weights(workdir).items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(
        ValueError, match="init_from holds other weights .*, now none"
    ):
        pretrain.run(
            Run(
                tiny({"train.num_steps": 3}),
                workdir=str(workdir),
                runtime=one_device,
            )
        )


def test_a_run_is_whole_without_its_prepared_data(
    finished, tiny, one_device, tmp_path, changes
):
    copy = tmp_path / "start"
    shutil.copytree(finished.workdir, copy)
    content = json.loads((copy / "config.json").read_text())
    content["resolved"]["prepared"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(content))
    kept = pathlib.Path(changes["data.prepared_dir"])
    tokenizer = Run(
        tiny({"init_from": str(copy)}), workdir="", runtime=one_device
    ).tokenizer
    recorded = workdir_lib.read(finished.workdir)["resolved"]["prepared"]
    prepared = manifest.open_prepared(recorded)
    assert prepared.directory.parent == kept
    assert tokenizer.vocabulary == prepared.tokenizer.vocabulary
    assert tokenizer.kind == "unicode_word"


def test_an_encoder_alone_takes_what_is_its_own(pretrained, tiny):
    model, path = pretrained("huggingface")
    encoder = modeling.Encoder.from_model_config(
        tiny(BERT).model,
        vocabulary_size=len(VOCABULARY),
        sequence_length=LENGTH,
    )
    encoder.build(None)
    start.load(modeling.initial_weights(str(path)), encoder.variables)
    np.testing.assert_array_equal(
        encoder.transformer_layers[0].attention.key.bias,
        model.encoder.transformer_layers[0].attention.key.bias,
    )


def test_what_does_not_fit_is_refused_before_anything_is_made(
    pretrained, trained, tmp_path
):
    _, path = pretrained("huggingface")
    changes = _still({"init_from": str(path), "model.activation": "gelu"})
    with pytest.raises(ValueError, match="--config.model.activation=gelu_tanh"):
        trained(**changes)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_preset_of_another_architecture(trained, tmp_path):
    keras_hub.models.DistilBertBackbone(
        vocabulary_size=9,
        num_layers=1,
        num_heads=2,
        hidden_dim=4,
        intermediate_dim=4,
    ).save_to_preset(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="keras_hub>DistilBertBackbone"):
        trained(**_still({"init_from": str(tmp_path / "other")}))


def test_what_init_from_holds_decides_and_not_where_it_lies(
    finished, tiny, one_device, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(finished.workdir, copy)
    ids = [
        Run(
            tiny({"init_from": str(place)}), workdir="", runtime=one_device
        ).initial_id
        for place in (finished.workdir, copy)
    ]
    assert ids[0] == ids[1] == trained_lib.encoder_id(str(copy))
    none = Run(tiny(), workdir="", runtime=one_device)
    assert none.initial_id == ""
    assert none.initial is None


def test_the_lock_of_a_run_may_be_nested(tiny, one_device, tmp_path):
    run, other = (
        Run(tiny(), workdir=str(tmp_path), runtime=one_device) for _ in range(2)
    )
    with run.locked():
        with run.locked():
            pass
        with pytest.raises(ValueError, match="Another trainer is at work"):
            with other.locked():
                pass
    with other.locked():
        pass


def test_all_workers_must_have_the_same_config_rows_and_arithmetic(
    tiny, one_device, tmp_path, monkeypatch
):
    compared = []
    monkeypatch.setattr(
        run_module.workers,
        "require_equal",
        lambda strategy, facts, *, remedy: compared.append(facts),
    )
    run = Run(tiny(), workdir=str(tmp_path), runtime=one_device)
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
