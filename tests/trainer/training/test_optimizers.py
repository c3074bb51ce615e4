"""AdamW is Keras', fused; means are clipped; the schedule."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
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


def _create(
    variables, *, precision="float32", rate_scales=None, decay=0.0, **fields
):
    return optimizers.create(
        _config(**fields),
        variables,
        num_steps=9,
        precision=precision,
        rate_scales=rate_scales,
        average_decay=decay,
    )


@pytest.mark.parametrize("clip", [None, 0.5])
def test_five_steps_are_those_of_keras(clip):
    ours, theirs = _variables(), _variables()
    fields = {"weight_decay": 0.2, "beta_1": 0.8}
    optimizer = _create(
        ours, learning_rate=0.03, schedule="linear", warmup_steps=0, **fields
    )
    reference = keras.optimizers.AdamW(
        keras.optimizers.schedules.PolynomialDecay(0.03, 9, 0.0),
        beta_2=_config().beta_2,
        epsilon=_config().epsilon,
        global_clipnorm=clip,
        **fields,
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
    # A quarter of the way, after no warm-up, the decays differ.
    config = dataclasses.replace(config, warmup_steps=0, final_rate=0.0)
    left = {"linear": 0.75, "cosine": (1 + np.cos(np.pi / 4)) / 2}
    rates = _rates(config, 100, [0, 25])
    np.testing.assert_allclose(rates, [0.5, 0.5 * left.get(kind, 1)], rtol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "warmup_steps"), [(20, 10), (19, 9), (2, 1), (1, 0)]
)
def test_warmup_takes_half_of_a_run_at_most(num_steps, warmup_steps):
    config = _config(warmup_steps=10, schedule="constant", learning_rate=0.5)
    assert optimizers.Schedule(config, num_steps).warmup_steps == warmup_steps
    below = [rate < 0.5 for rate in _rates(config, num_steps, range(num_steps))]
    # The last step of the warm-up has the whole rate already.
    assert below == [step + 1 < warmup_steps for step in range(num_steps)]


def test_scaled_rates_of_a_variable():
    moved = []
    for scales in ({}, {"kernel": 0.25}):
        variables = _variables()
        optimizer = _create(variables, rate_scales=scales, weight_decay=0.0)
        optimizer.apply_gradients(zip(_gradients(0), variables, strict=True))
        pairs = zip(variables, _variables(), strict=True)
        moved.append([a.numpy() - b.numpy() for a, b in pairs])
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


def test_averages_are_those_of_the_formula():
    variables = _variables()
    optimizer = _create(
        variables, precision="float16", decay=0.75, learning_rate=0.1
    )
    weights = []
    for step in range(4):
        gradients = [optimizer.scale_loss(g) for g in _gradients(step)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        weights.append(variables[0].numpy())
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.75 * expected + 0.25 * weight
    with optimizers.Averages(optimizer, variables).used():
        np.testing.assert_allclose(variables[0].numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(variables[0].numpy(), weights[-1])
    # Where none are kept, nothing is swapped.
    with optimizers.Averages(_create(variables), variables).used():
        np.testing.assert_array_equal(variables[0].numpy(), weights[-1])
