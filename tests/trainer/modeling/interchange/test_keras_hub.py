"""Tests of trainer/modeling/interchange/keras_hub.py."""

import json
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


def test_the_preset_gives_the_same_states(preset, vocabulary):
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
    difference = np.abs(ours - theirs.numpy())[real].max()
    print(f"largest difference of the states {difference:.1e}")
    assert difference < 1e-5


def test_the_tokenizer_comes_along(preset, vocabulary):
    tokenizer = keras_hub.models.Tokenizer.from_preset(str(preset[1]))
    assert tokenizer.get_vocabulary() == vocabulary
    ids = tokenizer.tokenize("The FILMS")
    assert [vocabulary[i] for i in ids] == ["the", "film", "##s"]


def test_the_round_trip_is_bit_equal(preset, vocabulary):
    model, path = preset
    initial = interchange.read_bert(path)
    assert initial.vocabulary == vocabulary
    assert initial.model_config == model.encoder.model_config
    assert initial.sequence_length == model.encoder.sequence_length
    arrays, dropped = initial.read_weights()
    assert dropped == ["pooled_dense/bias", "pooled_dense/kernel"]
    assert set(arrays) == {v.path for v in model.encoder.variables}
    for variable in model.encoder.variables:
        np.testing.assert_array_equal(arrays[variable.path], variable)


def test_the_head_of_a_task_is_dropped(create, tmp_path, vocabulary):
    interchange.write_keras_hub(tmp_path / "preset", create(), vocabulary)
    task = keras_hub.models.BertMaskedLM.from_preset(str(tmp_path / "preset"))
    task.save_to_preset(str(tmp_path / "task"))
    initial = interchange.read_bert(tmp_path / "task")
    assert "task.weights.h5" in initial.read_weights().dropped


def test_what_keras_hub_cannot_compute_is_not_written(
    create, tmp_path, vocabulary
):
    model = create(activation="gelu", layer_norm_epsilon=1e-6)
    message = r"model.activation=gelu .*model.layer_norm_epsilon=1e-06"
    with pytest.raises(ValueError, match=message):
        interchange.write_keras_hub(tmp_path / "preset", model, vocabulary)
    assert not (tmp_path / "preset").exists()


def _change(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_another_preset_is_refused(preset):
    path = preset[1] / "config.json"
    _change(path, lambda c: c.update(registered_name="keras_hub>XBackbone"))
    with pytest.raises(ValueError, match="another architecture, .*XBackbone"):
        interchange.read_bert(preset[1])
    path.write_text("{}")
    with pytest.raises(ValueError, match="neither a KerasHub preset nor"):
        interchange.read_bert(preset[1])
    path.write_text("torn")
    with pytest.raises(ValueError, match="config.json is damaged"):
        interchange.read_bert(preset[1])


def test_an_upper_case_vocabulary_is_refused(preset):
    path = preset[1] / "tokenizer.json"
    _change(path, lambda c: c["config"].update(lowercase=False))
    with pytest.raises(ValueError, match="keeps upper case"):
        interchange.read_bert(preset[1])


def test_damaged_weights_are_refused(preset):
    weights = preset[1] / "model.weights.h5"
    weights.write_bytes(pickle.dumps("no weights"))
    with pytest.raises(ValueError, match="model.weights.h5 is missing, dam"):
        interchange.read_bert(preset[1]).read_weights()
    weights.unlink()
    with pytest.raises(ValueError, match="model.weights.h5 is missing"):
        interchange.read_bert(preset[1]).read_weights()
