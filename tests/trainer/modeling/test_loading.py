"""Tests of trainer/modeling/loading.py."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import checkpoint, modeling, workdir

LENGTH, VOCABULARY = 8, 23


@pytest.fixture(name="run")
def _run(tmp_path):
    """A workdir with two checkpoints; the first is the better one."""
    config = schema.Config(
        data=schema.DataConfig(sequence_length=LENGTH),
        model=schema.ModelConfig(
            num_layers=1, hidden_size=12, num_heads=3, intermediate_size=16
        ),
    )
    workdir.record(tmp_path, config, {"vocabulary_size": VOCABULARY})
    models = {}
    for step, loss in ((10, 1.5), (20, 2.5)):
        models[step] = modeling.create_masked_lm(
            config.model,
            vocabulary_size=VOCABULARY,
            sequence_length=LENGTH,
            seed=step,
        )
        checkpoint.Checkpoints(tmp_path / "checkpoints" / "pretrain").save(
            {"step": step, "validation_loss": loss},
            weights=models[step].variables,
            optimizer=[],
        )
    return tmp_path, models


def test_the_best_checkpoint_gives_the_states(run):
    path, models = run
    encoder = modeling.load_encoder(str(path))
    batch = modeling.features(tf.constant([[5, 7, 9, 2, 0, 0, 0, 0]]))
    np.testing.assert_array_equal(encoder(batch), models[10].encoder(batch))
    # If it is damaged, the next one does.
    directory = path / "checkpoints" / "pretrain" / "step-000000010"
    (directory / "weights.safetensors").write_bytes(b"torn")
    encoder = modeling.load_encoder(str(path), dtype="mixed_bfloat16")
    assert encoder.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(
        encoder.token_embedding.embeddings,
        models[20].encoder.token_embedding.embeddings,
    )


def test_a_run_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        modeling.load_encoder(str(tmp_path))
    workdir.record(tmp_path, schema.Config(), {"vocabulary_size": VOCABULARY})
    with pytest.raises(ValueError, match="--mode=pretrain there first.$"):
        modeling.load_encoder(str(tmp_path))
    config = schema.Config(init_from="runs/other")
    workdir.record(tmp_path, config, {"vocabulary_size": VOCABULARY})
    with pytest.raises(ValueError, match="first, or give runs/other.$"):
        modeling.load_encoder(str(tmp_path))


def _write_vocabulary(directory):
    words = [f"w{number}" for number in range(VOCABULARY)]
    content = {"kind": "word", "vocabulary": words}
    (directory / "vocabulary.json").write_text(json.dumps(content))
    return words


def test_the_best_checkpoint_to_start_from(run):
    path, models = run
    words = _write_vocabulary(path)
    initial = modeling.initial_weights(str(path))
    assert (initial.form, initial.kind) == ("Cloze run", "word")
    assert initial.vocabulary == words
    assert initial.sequence_length == LENGTH
    assert initial.model_config == models[10].encoder.model_config
    weights = initial.read_weights()
    assert weights.dropped == []
    assert set(weights.arrays) == {v.path for v in models[10].variables}
    for variable in models[10].variables:
        np.testing.assert_array_equal(weights.arrays[variable.path], variable)


def test_the_vocabulary_of_the_prepared_data(run):
    path, _ = run
    prepared = path / "prepared"
    prepared.mkdir()
    words = _write_vocabulary(prepared)
    config = schema.Config.from_dict(workdir.read(path)["config"])
    resolved = {"vocabulary_size": VOCABULARY, "prepared": str(prepared)}
    workdir.record(path, config, resolved)
    assert modeling.initial_weights(str(path)).vocabulary == words
    (prepared / "vocabulary.json").unlink()
    with pytest.raises(ValueError, match="vocabulary.json is missing"):
        modeling.initial_weights(str(path))
    (prepared / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no vocabulary"):
        modeling.initial_weights(str(path))


def test_what_is_nothing_to_start_from(tmp_path):
    file = tmp_path / "model.keras"
    file.write_bytes(b"")
    for path, message in (
        (file, "is a file; give the folder"),
        (tmp_path / "typo", "does not exist; give"),
        (tmp_path, r"holds no config\.json; .* above export/"),
    ):
        with pytest.raises(ValueError, match=message):
            modeling.initial_weights(str(path))


def test_a_run_in_a_store(run, bucket):
    path, _ = run
    for file in filter(pathlib.Path.is_file, path.rglob("*")):
        name = f"gs://bucket/run/{file.relative_to(path).as_posix()}"
        bucket.objects[name] = file.read_bytes()
    near, far = map(modeling.load_encoder, (str(path), "gs://bucket/run"))
    for one, other in zip(near.variables, far.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    bucket.objects["gs://bucket/bert/config.json"] = b"{}"
    for name, message in (("gone", "does not exist"), ("bert", "BERT.* disk")):
        with pytest.raises(ValueError, match=f"gs://bucket/{name} .*{message}"):
            modeling.initial_weights(f"gs://bucket/{name}")
