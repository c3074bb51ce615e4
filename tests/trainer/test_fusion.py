"""Tests of trainer/fusion.py."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import fusion


def is_compiled(operation):
    return operation.type.endswith("PartitionedCall")


def operations(function, *specs):
    traced = tf.function(function, autograph=False)
    return traced.get_concrete_function(*specs).graph.get_operations()


@fusion.fused
def scaled(x, y):
    return tf.exp(x) * tf.cast(y, x.dtype)


def test_computes_the_same_eagerly_in_a_graph_and_compiled():
    x, y = tf.constant([[1.0, -2.0]]), tf.constant([3, 4])
    for jit in (None, True):
        graph = tf.function(lambda: scaled(x, y), jit_compile=jit)
        np.testing.assert_allclose(graph(), scaled(x, y), rtol=1e-6)


@pytest.mark.parametrize(("rows", "number"), [(2, 1), (None, 0)])
def test_static_shapes_are_compiled(rows, number):
    found = operations(
        scaled, tf.TensorSpec([rows, 2]), tf.TensorSpec([2], tf.int32)
    )
    assert sum(map(is_compiled, found)) == number


def test_nothing_is_compiled_for_a_tpu(monkeypatch):
    class Strategy(tf.distribute.TPUStrategy):
        def __init__(self):
            pass

    monkeypatch.setattr(tf.distribute, "get_strategy", Strategy)
    found = operations(
        scaled, tf.TensorSpec([1, 2]), tf.TensorSpec([2], tf.int32)
    )
    assert not any(map(is_compiled, found))


def test_nothing_is_compiled_by_the_package_for_tpus(monkeypatch):
    monkeypatch.setattr(fusion, "_PACKAGE_FOR_TPUS", True)
    found = operations(
        scaled, tf.TensorSpec([1, 2]), tf.TensorSpec([2], tf.int32)
    )
    assert not any(map(is_compiled, found))


def cube(x):
    assert x.dtype == tf.float32
    return x * x * x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_recomputed_has_the_gradient_of_the_function(dtype, mode):
    x = tf.constant([0.5, -1.0, 3.0], dtype)
    recomputed = fusion.recomputed(cube)

    def compute():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(x)
        return y, tape.gradient(y, x, tf.constant([1.0, 2.0, 1.0], dtype))

    if mode != "eager":
        compute = tf.function(compute, jit_compile=mode == "xla")
    y, gradient = compute()
    assert y.dtype == gradient.dtype == x.dtype
    np.testing.assert_allclose(tf.cast(y, tf.float32), [0.125, -1.0, 27.0])
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), [0.75, 6.0, 27.0])


def test_recomputed_keeps_its_input_alone():
    recomputed = fusion.recomputed(lambda x: tf.sin(tf.exp(x)))

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(x)
        return tape.gradient(y, x)

    graph = gradient.get_concrete_function(tf.TensorSpec([4])).graph
    calls = [op for op in graph.get_operations() if is_compiled(op)]
    forward, backward = calls
    assert len(forward.outputs) == 1
    assert forward.outputs[0].name not in [x.name for x in backward.inputs]
