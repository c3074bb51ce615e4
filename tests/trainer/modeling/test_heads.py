"""The masked-LM head, its model, and one step of it under a strategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling

VOCABULARY = 40
SLOTS = 8


def _config(**fields):
    small = {
        "num_layers": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "initializer_range": 0.2,
    }
    return schema.ModelConfig(**{**small, **fields})


def _model(*, seed=0, dtype=None, **fields):
    return modeling.create_masked_lm(
        _config(**fields),
        vocabulary_size=VOCABULARY,
        sequence_length=SLOTS,
        seed=seed,
        dtype=dtype,
    )


def _batch(num_rows=3, seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, VOCABULARY, (num_rows, SLOTS))
    return {
        **modeling.features(tokens),
        "mask_positions": tf.constant([[5, 0], [2, 7], [1, 1]] * 2)[:num_rows],
        "mask_labels": tf.constant(draw.integers(1, VOCABULARY, (num_rows, 2))),
        "mask_weights": tf.ones([num_rows, 2]),
    }


def test_the_keras_example_has_its_parameters():
    config = schema.ModelConfig(
        num_layers=1,
        hidden_size=128,
        num_heads=8,
        intermediate_size=128,
        activation="relu",
        normalization="post",
        dropout=0.1,
        initializer_range=0.0,
        tie_embeddings=False,
        head_transform=False,
        attend_padding=True,
    )
    model = modeling.create_masked_lm(
        config, vocabulary_size=30_000, sequence_length=256
    )
    assert model.count_params() == 7_842_352
    assert model.head.count_params() == 3_870_000


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("head_transform", [False, True])
def test_logits_are_the_explicit_product(tie_embeddings, head_transform):
    model = _model(tie_embeddings=tie_embeddings, head_transform=head_transform)
    model.head.bias.assign(tf.range(VOCABULARY, dtype=tf.float32))
    batch = _batch()
    states = model.encoder(batch).numpy()
    picked = np.stack(
        [
            states[row, slots]
            for row, slots in enumerate(batch["mask_positions"].numpy())
        ]
    )  # [B, P, D]
    for layer in model.head.transform:
        picked = layer(picked)
    kernel = (
        model.encoder.token_embedding.embeddings
        if tie_embeddings
        else model.head.kernel
    )
    expected = picked @ kernel.numpy().T + np.arange(VOCABULARY)
    logits = model(batch)
    assert logits.shape == (3, 2, VOCABULARY)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert len(model.head.transform) == 2 * head_transform
    # What a loss that never holds all logits gets instead.
    hidden, kernel, bias = model.predictions(batch)
    assert hidden.shape == (6, 16)
    assert kernel.shape == (VOCABULARY, 16)
    logits = tf.matmul(hidden, kernel, transpose_b=True) + bias
    np.testing.assert_allclose(
        tf.reshape(logits, [3, 2, -1]), expected, atol=1e-4
    )


def test_bfloat16_gives_float32_logits():
    batch = _batch()
    model = _model(dtype="mixed_bfloat16")
    kernel, bias = model.head.projection()
    assert model(batch).dtype == kernel.dtype == bias.dtype == tf.float32
    assert model.predictions(batch)[0].dtype == tf.bfloat16
    assert {v.dtype for v in model.variables} == {"float32"}
    assert np.abs(model(batch) - _model()(batch)).mean() < 0.05


def test_paths_are_unique_and_tied_weights_counted_once():
    tied, untied = _model(), _model(tie_embeddings=False)
    paths = [variable.path for variable in tied.trainable_variables]
    assert len(set(paths)) == len(paths)
    assert {path.split("/")[0] for path in paths} == {
        "encoder",
        "masked_lm_head",
    }
    assert untied.count_params() == tied.count_params() + VOCABULARY * 16


def test_initial_weights_are_a_function_of_the_seed():
    def drawn(seed):
        model = _model(seed=seed, tie_embeddings=False)
        return {
            v.path: v.numpy()
            for v in model.variables
            if v.path.endswith(("kernel", "embeddings"))
        }

    keras.utils.set_random_seed(1)
    first = drawn(1)
    keras.utils.set_random_seed(2)  # Nothing global counts.
    again, other = drawn(1), drawn(2)
    for path, array in first.items():
        np.testing.assert_array_equal(array, again[path])
        assert (array != other[path]).all()
    assert len({array.tobytes() for array in first.values()}) == len(first)


def test_summary_names_both_parts():
    lines = []
    _model().summary(print_fn=lines.append, line_length=100)
    text = "\n".join(map(str, lines))
    assert "encoder" in text
    assert "(None, None, 40)" in text


def _gradients(model, batch, noise):
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=batch["mask_labels"], logits=model(batch, noise=noise)
        )  # [B, P]
        loss = tf.reduce_sum(losses * batch["mask_weights"])
    values = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _noise(first_row=0):
    return modeling.create_noise(1, step=2, first_row=first_row)


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("normalization", ["pre", "post"])
def test_gradients_reach_every_variable(tie_embeddings, normalization):
    model = _model(
        tie_embeddings=tie_embeddings,
        normalization=normalization,
        embedding_norm=True,
        token_types=True,
        dropout=0.1,
        attention_dropout=0.1,
    )
    gradients = _gradients(model, _batch(), _noise())
    for variable, gradient in zip(
        model.trainable_variables, gradients, strict=True
    ):
        largest = np.abs(gradient).max()
        if variable.path.endswith("attention/key/bias"):
            # It shifts all scores of a query alike, which changes nothing.
            assert largest == 0.0
        else:
            assert largest > 1e-4, variable.path


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_compiled_step_on_two_replicas_sums_to_the_plain_one(dtype):
    # TensorFlow's collectives allow one number of devices in a process, and
    # another test uses four.
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    with strategy.scope():
        model = _model(dropout=0.2, attention_dropout=0.2, dtype=dtype)
    batch = _batch(num_rows=6)
    step = tf.function(
        lambda half, noise: _gradients(model, half, noise), jit_compile=True
    )

    @tf.function
    def run(batch):
        def replica():
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group * 3
            rows = tf.range(3) + first
            half = {name: tf.gather(x, rows) for name, x in batch.items()}
            noise = _noise(first)
            return context.all_reduce("SUM", step(half, noise))

        return [
            strategy.experimental_local_results(gradient)[0]
            for gradient in strategy.run(replica)
        ]

    assert strategy.num_replicas_in_sync == 2
    tolerance = 1e-4 if dtype == "float32" else 0.15
    for ours, plain in zip(
        run(batch), _gradients(model, batch, _noise()), strict=True
    ):
        scale = max(1.0, np.abs(plain).max())
        np.testing.assert_allclose(ours, plain, atol=tolerance * scale)
