"""Tests of trainer/modeling/interchange/keras_hub.py."""

import pickle

import keras_hub
import numpy as np
import pytest

from trainer import modeling
from trainer.modeling import interchange


@pytest.fixture(name="preset")
def _preset(create, tmp_path, vocabulary):
    """A model of ours, and the preset folder written from it."""
    model = create()
    interchange.write_keras_hub(tmp_path / "preset", model, vocabulary)
    return model, tmp_path / "preset"


def test_the_preset_gives_the_same_states_and_comes_back(preset, vocabulary):
    model, path = preset
    backbone = keras_hub.models.Backbone.from_preset(str(path))
    assert isinstance(backbone, keras_hub.models.BertBackbone)
    pad = vocabulary.index("[PAD]")
    ids = np.array([[2, 5, 6, 7, 8, 12, 4, pad], [2, 9, 11, 4, *[pad] * 4]])
    batch = modeling.features(ids, pad_id=pad)
    theirs = backbone(
        {
            "token_ids": ids,
            "segment_ids": np.zeros_like(ids),
            "padding_mask": batch["segment_ids"].numpy(),
        }
    )["sequence_output"]
    real = batch["segment_ids"].numpy() > 0
    ours = model.encoder(batch).numpy()
    assert np.abs(ours - theirs.numpy())[real].max() < 1e-5

    tokenizer = keras_hub.models.Tokenizer.from_preset(str(path))
    assert tokenizer.get_vocabulary() == vocabulary
    ids = tokenizer.tokenize("The FILMS")
    assert [vocabulary[i] for i in ids] == ["the", "film", "##s"]

    initial = interchange.read_bert(path)
    assert initial.vocabulary == vocabulary
    assert initial.model_config == model.encoder.model_config
    assert initial.sequence_length == model.encoder.sequence_length
    arrays, dropped = initial.read_weights()
    assert dropped == ["pooled_dense/bias", "pooled_dense/kernel"]
    assert set(arrays) == {v.path for v in model.encoder.variables}
    for variable in model.encoder.variables:
        np.testing.assert_array_equal(arrays[variable.path], variable)


def test_the_head_of_a_task_is_dropped(preset, tmp_path):
    task = keras_hub.models.BertMaskedLM.from_preset(str(preset[1]))
    task.save_to_preset(str(tmp_path / "task"))
    initial = interchange.read_bert(tmp_path / "task")
    assert "task.weights.h5" in initial.read_weights().dropped


def test_what_cannot_be_read_is_refused(preset):
    path = preset[1]
    weights = path / "model.weights.h5"
    weights.write_bytes(pickle.dumps("no weights"))
    with pytest.raises(ValueError, match="model.weights.h5 is missing, dam"):
        interchange.read_bert(path).read_weights()
    for name, old, new, message in (
        ("config", "BertBackbone", "XBackbone", "another arch.*XBackbone"),
    ):
        text = (path / f"{name}.json").read_text()
        assert old in text
        (path / f"{name}.json").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            interchange.read_bert(path)
    for text, message in (
        ("{}", "neither a KerasHub preset nor"),
        ("torn", "config.json is damaged"),
    ):
        (path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            interchange.read_bert(path)
