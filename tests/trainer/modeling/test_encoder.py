"""The encoder: isolation, positions, layouts, and BERT number by number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling

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


@pytest.mark.parametrize("normalization", ["pre", "post"])
def test_documents_of_a_row_do_not_see_each_other(normalization):
    encoder = _encoder(normalization=normalization)
    batch = _packed([5, 4])
    changed = {**batch, "token_ids": batch["token_ids"].copy()}
    changed["token_ids"][0, :5] = _tokens(seed=1)[0, :5]
    before, after = encoder(batch).numpy(), encoder(changed).numpy()
    np.testing.assert_array_equal(before[0, 5:9], after[0, 5:9])
    assert np.abs(before[0, :5] - after[0, :5]).max() > 0.01


@pytest.mark.parametrize("attend_padding", [False, True])
def test_padding_matters_only_if_it_is_attended_to(attend_padding):
    encoder = _encoder(attend_padding=attend_padding)
    batch = _packed([5, 4])
    changed = {**batch, "token_ids": batch["token_ids"].copy()}
    changed["token_ids"][0, 9:] = 33
    difference = np.abs(encoder(batch) - encoder(changed))[0, :9].max()
    assert difference > 0.01 if attend_padding else difference == 0


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


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_positions_matter(positions):
    encoder = _encoder(positions=positions)
    batch = modeling.features(_tokens())
    moved = {**batch, "position_ids": batch["position_ids"][:, ::-1]}
    assert np.abs(encoder(batch) - encoder(moved)).max() > 0.01


def test_rotary_positions_are_relative_and_have_no_weights():
    encoder = _encoder(positions="rotary")
    assert not [v for v in encoder.variables if "position" in v.path]
    batch = _packed([7])
    moved = {**batch, "position_ids": batch["position_ids"] + 4}
    before, after = encoder(batch), encoder(moved)
    np.testing.assert_allclose(before[0, :7], after[0, :7], atol=1e-5)


def test_features_of_plain_tokens():
    batch = modeling.features(np.array([[7, 8, 9], [7, 9, 9]]), pad_id=9)
    np.testing.assert_array_equal(batch["segment_ids"], [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch["position_ids"], [[0, 1, 2]] * 2)
    assert {tensor.dtype for tensor in batch.values()} == {tf.int32}


@pytest.mark.parametrize(
    "token_ids", [[7, 8], [[[7]]], [[7.0, 8.0]], [["film"]]]
)
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


def test_pre_norm_ends_with_a_norm():
    pre, post = _encoder(), _encoder(normalization="post")
    states = pre(modeling.features(_tokens()))
    np.testing.assert_allclose(
        tf.reduce_mean(states, -1), np.zeros([1, SLOTS]), atol=1e-5
    )
    assert pre.final_norm is not None
    assert post.final_norm is None
    assert pre.count_params() == post.count_params() + 2 * 16


def _noise(*, step=2, first_row=0):
    return modeling.create_noise(1, step=step, first_row=first_row)


def test_dropout_does_not_know_the_layout():
    encoder = _encoder(dropout=0.2, attention_dropout=0.2, embedding_norm=True)
    tokens = _tokens(num_rows=8)
    whole = encoder(modeling.features(tokens), noise=_noise())
    parts = [
        encoder(
            modeling.features(tokens[first : first + 4]),
            noise=_noise(first_row=first),
        )
        for first in (0, 4)
    ]
    np.testing.assert_allclose(whole, tf.concat(parts, 0), atol=1e-6)
    plain = encoder(modeling.features(tokens))
    other_step = encoder(modeling.features(tokens), noise=_noise(step=3))
    assert np.abs(whole - plain).max() > 0.1
    assert np.abs(whole - other_step).max() > 0.1


def test_dropout_indices_are_distinct():
    encoder = _encoder(embedding_norm=True, num_layers=3)
    indices = [
        layer.index
        for layer in encoder._flatten_layers()
        if isinstance(layer, modeling.Dropout)
    ]
    assert sorted(indices) == list(range(10))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_with_dynamic_rows_and_extra_keys(jit_compile):
    encoder = _encoder(dropout=0.2, attention_dropout=0.2)
    spec = tf.TensorSpec([None, SLOTS], tf.int32)

    @tf.function(jit_compile=jit_compile)
    def run(batch, noise):
        return encoder(batch, noise=noise)

    batch = modeling.features(_tokens(num_rows=3))
    batch["mask_weights"] = tf.ones([3, 2])
    noise = _noise()
    concrete = run.get_concrete_function(
        {
            **dict.fromkeys(batch, spec),
            "mask_weights": tf.TensorSpec([None, 2]),
        },
        modeling.Noise(*[tf.TensorSpec([], tf.int64)] * 3),
    )
    assert concrete.structured_outputs.shape == (None, SLOTS, 16)
    np.testing.assert_allclose(
        run(batch, noise), encoder(batch, noise=noise), atol=1e-5
    )


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
