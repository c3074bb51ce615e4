"""The encoder: isolation, positions, layouts, and BERT number by number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling
from trainer.modeling import layers

VOCABULARY = 50
SLOTS = 12


def _config(**fields):
    small = {
        "num_layers": 2,
        "hidden_size": 16,
        "num_heads": 4,
        "intermediate_size": 24,
        "initializer_range": 0.2,  # Large, so that differences are seen.
    }
    return schema.ModelConfig(**{**small, **fields})


def _encoder(*, seed=0, dtype=None, **fields):
    encoder = modeling.Encoder.from_model_config(
        _config(**fields),
        vocabulary_size=VOCABULARY,
        sequence_length=SLOTS,
        seed=seed,
        dtype=dtype,
    )
    encoder.build(None)
    return encoder


def _tokens(*, num_rows=1, seed=0):
    draw = np.random.default_rng(seed).integers(
        5, VOCABULARY, (num_rows, SLOTS)
    )
    return draw.astype(np.int32)


def _packed(lengths, *, seed=0):
    """One row that holds documents of these lengths, then padding."""
    segments = np.zeros([1, SLOTS], np.int32)
    positions = np.zeros([1, SLOTS], np.int32)
    start = 0
    for number, length in enumerate(lengths, 1):
        segments[0, start : start + length] = number
        positions[0, start : start + length] = np.arange(length)
        start += length
    return {
        "token_ids": np.where(segments, _tokens(seed=seed), 0),
        "segment_ids": segments,
        "position_ids": positions,
    }


def test_a_row_of_padding_is_finite():
    encoder = _encoder(dtype="mixed_float16")
    batch = modeling.features(np.zeros([2, SLOTS], np.int32))
    with tf.GradientTape() as tape:
        states = encoder(batch)
    assert np.isfinite(states.numpy()).all()
    gradient = tape.gradient(states, encoder.trainable_variables[3])
    assert np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_packed_row_equals_separate_rows(positions):
    encoder = _encoder(
        embedding_norm=True, token_types=True, positions=positions
    )
    packed = _packed([7, 5])
    token_ids = np.zeros([2, SLOTS], np.int32)
    token_ids[0, :7] = packed["token_ids"][0, :7]
    token_ids[1, :5] = packed["token_ids"][0, 7:]
    alone = modeling.features(token_ids)
    together, apart = encoder(packed), encoder(alone)
    np.testing.assert_allclose(together[0, :7], apart[0, :7], atol=1e-5)
    np.testing.assert_allclose(together[0, 7:], apart[1, :5], atol=1e-5)


def test_rotary_positions_matter_are_relative_and_have_no_weights():
    encoder = _encoder(positions="rotary")
    assert not [v for v in encoder.variables if "position" in v.path]
    batch = _packed([7])
    before, positions = encoder(batch), batch["position_ids"]
    moved = encoder({**batch, "position_ids": positions + 4})
    turned = encoder({**batch, "position_ids": positions[:, ::-1]})
    np.testing.assert_allclose(before[0, :7], moved[0, :7], atol=1e-5)
    assert np.abs(before - turned).max() > 0.01


def test_features_of_plain_tokens():
    batch = modeling.features(np.array([[7, 8, 9], [7, 9, 9]]), pad_id=9)
    np.testing.assert_array_equal(batch["segment_ids"], [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch["position_ids"], [[0, 1, 2]] * 2)
    assert {tensor.dtype for tensor in batch.values()} == {tf.int32}


@pytest.mark.parametrize("token_ids", [[7, 8], [[7.0, 8.0]], [["film"]]])
def test_features_of_anything_else_are_refused(token_ids):
    with pytest.raises(ValueError, match=r"must be integers \[texts, slots\]"):
        modeling.features(token_ids)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_rows_longer_than_those_seen_are_refused(positions):
    encoder = _encoder(positions=positions)
    longest = np.full([2, SLOTS], 7)
    assert encoder(modeling.features(longest)).shape[1] == SLOTS
    longer = np.full([2, SLOTS + 1], 7)
    with pytest.raises(ValueError, match="Rows of 13 slots .* rows of 12"):
        encoder(modeling.features(longer))


def test_dropout_indices_are_distinct():
    encoder = _encoder(embedding_norm=True, num_layers=3)
    indices = [
        layer.index
        for layer in encoder._flatten_layers()
        if isinstance(layer, layers.Dropout)
    ]
    assert sorted(indices) == list(range(10))


# Keras 3.15 converts to NumPy in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")
def test_config_rebuilds_the_encoder(tmp_path):
    encoder = _encoder(token_types=True, dtype="mixed_bfloat16", seed=3)
    clone = modeling.Encoder.from_config(encoder.get_config())
    assert clone.get_config() == encoder.get_config()
    encoder.variables[0].assign_add(tf.ones_like(encoder.variables[0]))
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    for ours, theirs in zip(encoder.variables, loaded.variables, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


# Attention alone always computes its weights again for the gradient.
@pytest.mark.parametrize(("rematerialize", "times"), [(False, 2), (True, 3)])
def test_a_rematerialized_layer_is_computed_again(rematerialize, times):
    encoder = _encoder()
    encoder.rematerialize = rematerialize
    batch = modeling.features(_tokens(num_rows=2))

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            states = encoder(batch)
        weights = encoder.transformer_layers[0].trainable_variables
        return tape.gradient(states, [weight.value for weight in weights][0])

    graph = gradient.get_concrete_function().graph
    # On a CPU, softmax is in the body of a loop.
    graphs = [graph, *(f.graph for f in graph._functions.values())]
    kinds = [op.type for part in graphs for op in part.get_operations()]
    assert kinds.count("Softmax") == 2 * times  # There are two layers.
