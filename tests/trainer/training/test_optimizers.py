"""AdamW is Keras', fused; means are clipped; the schedule."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from tests.trainer.training import conftest as tiny
from trainer.training import optimizers


def _config(**fields):
    return schema.OptimizerConfig(**{"schedule": "constant", **fields})


def _variables():
    random = np.random.default_rng(1)
    return [
        keras.Variable(random.normal(size=shape).astype(np.float32), name=name)
        for name, shape in (
            ("kernel", [3, 5]),
            ("bias", [5]),
            ("gamma", [4]),
            ("embeddings", [7, 2]),
        )
    ]


def _gradients(step):
    random = np.random.default_rng([2, step])
    return [
        tf.constant(random.normal(size=v.shape), tf.float32)
        for v in _variables()
    ]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_five_steps_are_those_of_keras(clip):
    ours, theirs = _variables(), _variables()
    config = _config(learning_rate=0.03, weight_decay=0.2, beta_1=0.8)
    optimizer = optimizers.create(
        config, ours, num_steps=9, precision="float32"
    )
    reference = keras.optimizers.AdamW(
        0.03,
        weight_decay=0.2,
        beta_1=0.8,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=clip,
    )
    reference.exclude_from_weight_decay(var_list=theirs[1:3])
    for step in range(5):
        summed = [7.0 * gradient for gradient in _gradients(step)]
        gradients, _ = optimizers.mean(summed, tf.constant(7.0), clip)
        optimizer.apply_gradients(zip(gradients, ours, strict=True))
        reference.apply_gradients(zip(_gradients(step), theirs, strict=True))
    for a, b, start in zip(ours, theirs, _variables(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
        assert np.abs(a.numpy() - start.numpy()).max() > 0.05


def test_biases_and_norms_do_not_decay():
    variables = _variables()
    optimizer = optimizers.create(
        _config(learning_rate=0.1, weight_decay=0.5),
        variables,
        num_steps=9,
        precision="float32",
    )
    zeros = [tf.zeros(v.shape) for v in variables]
    optimizer.apply_gradients(zip(zeros, variables, strict=True))
    factors = [0.95, 1.0, 1.0, 0.95]
    for factor, after, before in zip(
        factors, variables, _variables(), strict=True
    ):
        np.testing.assert_allclose(
            after.numpy(), factor * before.numpy(), rtol=1e-6
        )


def test_real_model_decays_its_matrices_alone():
    model = tiny.create(tiny.mirrored(1))
    decayed = {
        variable.path.split("/")[-1]
        for variable in model.model.trainable_variables
        if model.optimizer._use_weight_decay(variable)
    }
    assert decayed == {"kernel", "embeddings"}


def test_mean_of_nothing_is_nothing():
    [gradient], norm = optimizers.mean([tf.zeros([3])], tf.constant(0.0), 1.0)
    np.testing.assert_array_equal(gradient, [0, 0, 0])
    assert norm == 0


def _rates(config, num_steps, steps):
    schedule = optimizers.Schedule(config, num_steps)
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


@pytest.mark.parametrize(
    ("kind", "middle", "end"),
    [("linear", 0.6, 0.2), ("cosine", 0.6, 0.2), ("constant", 1.0, 1.0)],
)
def test_schedule(kind, middle, end):
    config = _config(
        schedule=kind, warmup_steps=4, learning_rate=0.5, final_rate=0.2
    )
    rates = _rates(config, 24, [0, 1, 3, 4, 14, 24, 1000])
    expected = [0.25, 0.5, 1.0, 1.0, middle, end, end]
    np.testing.assert_allclose(rates, 0.5 * np.array(expected), rtol=1e-6)


def test_cosine_is_not_linear():
    config = _config(schedule="cosine", learning_rate=1.0)
    [rate] = _rates(config, 100, [25])
    assert rate == pytest.approx((1 + np.cos(np.pi / 4)) / 2, rel=1e-5)


def test_schedule_without_warmup_starts_at_the_top():
    assert _rates(_config(schedule="linear", learning_rate=0.5), 10, [0]) == [
        0.5
    ]


@pytest.mark.parametrize(
    ("num_steps", "warmup_steps"), [(20, 10), (19, 9), (2, 1), (1, 0)]
)
def test_warmup_takes_half_of_a_run_at_most(num_steps, warmup_steps):
    config = _config(warmup_steps=10, schedule="constant", learning_rate=0.5)
    schedule = optimizers.Schedule(config, num_steps)
    assert schedule.warmup_steps == warmup_steps
    below = [rate < 0.5 for rate in _rates(config, num_steps, range(num_steps))]
    # The last step of the warm-up has the whole rate already.
    assert below == [step + 1 < warmup_steps for step in range(num_steps)]


def test_optimizer_follows_the_schedule():
    variable = keras.Variable([1.0], name="bias")
    optimizer = optimizers.create(
        _config(schedule="linear", learning_rate=0.5),
        [variable],
        num_steps=2,
        precision="float32",
    )
    moves = []
    for _ in range(3):
        before = variable.numpy()[0]
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        moves.append(before - variable.numpy()[0])
    np.testing.assert_allclose(moves, [0.5, 0.25, 0.0], rtol=1e-4)


def test_scaled_rates_of_a_variable():
    first, scaled = _variables(), _variables()
    config = _config(learning_rate=0.03, weight_decay=0.0, clip_norm=0.0)
    for variables, scales in ((first, {}), (scaled, {"kernel": 0.25})):
        optimizer = optimizers.create(
            config,
            variables,
            num_steps=9,
            precision="float32",
            rate_scales=scales,
        )
        optimizer.apply_gradients(zip(_gradients(0), variables, strict=True))
    moved = [
        [a.numpy() - b.numpy() for a, b in zip(v, _variables(), strict=True)]
        for v in (first, scaled)
    ]
    np.testing.assert_allclose(0.25 * moved[0][0], moved[1][0], atol=1e-6)
    for a, b in zip(moved[0][1:], moved[1][1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_scales_fall_from_the_head_to_the_embeddings():
    paths = [
        "encoder/token_embedding/embeddings",
        "encoder/embedding_norm/gamma",
        "encoder/transformer_layer_0/attention/query/kernel",
        "encoder/transformer_layer_1/output_dense/bias",
        "encoder/final_norm/gamma",
        "classifier_head/logits/kernel",
    ]
    scales = optimizers.layer_scales(paths, num_layers=2, decay=0.5)
    assert [scales[path] for path in paths] == [
        *(0.125, 0.125, 0.25, 0.5, 0.5, 1.0)
    ]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_averages_are_those_of_the_formula(precision):
    variables = _variables()
    optimizer = optimizers.create(
        _config(learning_rate=0.1),
        variables,
        num_steps=9,
        precision=precision,
        average_decay=0.75,
    )
    expected = None
    for step in range(4):
        gradients = _gradients(step)
        if precision == "float16":
            gradients = [optimizer.scale_loss(g) for g in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        weight = variables[0].numpy()
        expected = (
            weight if expected is None else 0.75 * expected + 0.25 * weight
        )
    averages = optimizers.Averages(optimizer, variables)
    with averages.used():
        np.testing.assert_allclose(variables[0].numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(variables[0].numpy(), weight)


def test_without_averages_nothing_is_swapped():
    variables = _variables()
    optimizer = optimizers.create(
        _config(), variables, num_steps=9, precision="float32"
    )
    with optimizers.Averages(optimizer, variables).used():
        np.testing.assert_array_equal(
            variables[0].numpy(), _variables()[0].numpy()
        )
