"""Tests of trainer/modeling/initial.py."""

import dataclasses

import numpy as np
import pytest

from configs import schema
from trainer import modeling
from trainer.modeling import initial

LENGTH, VOCABULARY, WIDTH = 8, 23, 12
SHAPE = schema.ModelConfig(
    num_layers=1, hidden_size=WIDTH, num_heads=3, intermediate_size=16
)
POSITIONS = "encoder/position_embedding/embeddings"


def _model(length=LENGTH, seed=0):
    return modeling.create_masked_lm(
        SHAPE, vocabulary_size=VOCABULARY, sequence_length=length, seed=seed
    )


def _weights(model):
    arrays = {v.path: v.numpy() for v in model.variables}
    return initial.Weights(arrays, ["pooler"])


def _config(model=SHAPE, length=LENGTH, **tokenizer):
    return schema.Config(
        model=model,
        tokenizer=schema.TokenizerConfig(**{"kind": "word", **tokenizer}),
        data=schema.DataConfig(sequence_length=length),
    )


def _initial(**changes):
    fields = {
        "path": "there",
        "form": "Cloze run",
        "kind": "word",
        "lowercase": True,
        "vocabulary": [],
        "model_config": SHAPE,
        "sequence_length": LENGTH,
        "read_weights": lambda: initial.Weights({}, []),
    }
    return initial.Initial(**fields | changes)


def test_what_fits_is_let_through():
    free = dataclasses.replace(
        SHAPE, dropout=0.3, attention_dropout=0.2, initializer_range=0.5
    )
    _initial().check_fits(_config(free))
    _initial(sequence_length=20).check_fits(_config())
    rotary = dataclasses.replace(SHAPE, positions="rotary")
    _initial(model_config=rotary).check_fits(_config(rotary, length=99))


def test_every_difference_is_shown_with_its_flag():
    other = dataclasses.replace(SHAPE, num_layers=3, token_types=True)
    with pytest.raises(ValueError) as caught:
        _initial().check_fits(
            _config(other, length=9, kind="wordpiece", lowercase=False)
        )
    message = str(caught.value)
    assert "model.num_layers is 1 there, 3 here" in message
    flags = [word for word in message.split() if word.startswith("--")]
    assert flags == [
        "--config.tokenizer.kind=word",
        "--config.tokenizer.lowercase=True",
        "--config.model.num_layers=1",
        "--config.model.token_types=False",
        "--config.data.sequence_length=8",
    ]


def test_a_part_can_be_given_and_positions_that_are_too_many_are_cut():
    source, model = _model(length=LENGTH + 4, seed=1), _model()
    before = model.head.transform[0].kernel.numpy()
    given = _weights(source).assign(model.encoder.variables)
    assert set(given.arrays) == {v.path for v in model.encoder.variables}
    assert given.dropped == ["pooler", f"{POSITIONS} 8 to 11"]
    for theirs, ours in zip(
        source.encoder.variables, model.encoder.variables, strict=True
    ):
        cut = theirs[:LENGTH] if ours.path == POSITIONS else theirs
        np.testing.assert_array_equal(cut, ours)
    np.testing.assert_array_equal(before, model.head.transform[0].kernel)


def test_another_shape_changes_nothing():
    source, model = _model(seed=1), _model()
    weights = _weights(source)
    weights.arrays["masked_lm_head/bias"] = np.ones([VOCABULARY + 1], "f4")
    before = model.encoder.token_embedding.embeddings.numpy()
    with pytest.raises(ValueError, match=r"masked_lm_head/bias has shape \(24"):
        weights.assign(model.variables)
    np.testing.assert_array_equal(
        before, model.encoder.token_embedding.embeddings
    )
