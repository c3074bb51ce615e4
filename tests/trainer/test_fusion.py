"""Fused functions compute the same, and what they keep and round."""

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

    specs = tf.TensorSpec([1, 2]), tf.TensorSpec([2], tf.int32)
    with monkeypatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", Strategy)
        assert not any(map(is_compiled, operations(scaled, *specs)))
    # Nor where its package is installed.
    monkeypatch.setattr(fusion, "_PACKAGE_FOR_TPUS", True)
    assert not any(map(is_compiled, operations(scaled, *specs)))
    told = []
    operations(lambda x: told.append(fusion.is_for_cpus(x)), specs[0])
    assert told == [False]


def cube(x):
    assert x.dtype == tf.float32
    return x * x * x


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [("float32", "eager"), ("bfloat16", "graph"), ("float16", "xla")],
)
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


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [("float32", "eager"), ("bfloat16", "graph"), ("float16", "xla")],
)
def test_softmax_rounds_its_result_alone(dtype, mode):
    x = tf.cast(4 * tf.random.stateless_normal([3, 1001], [0, 1]), dtype)
    exact = tf.nn.softmax(tf.cast(x, tf.float64)).numpy()

    def compute():
        return fusion.softmax(x)

    if mode != "eager":
        compute = tf.function(compute, jit_compile=mode == "xla")
    got = compute()
    assert got.dtype == x.dtype
    error = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    smallest = 6.2e-5 if dtype == "float16" else 1e-30
    got, exact = (
        tf.cast(y, tf.float64)[exact > smallest] for y in (got, exact)
    )
    np.testing.assert_allclose(got, exact, rtol=1.01 * error)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("rows", [2, None])
def test_is_for_cpus(jit, rows):
    told = []

    def function(x):
        def body(x):
            told.append(fusion.is_for_cpus(x))
            return (x,)

        return tf.while_loop(lambda x: x[0] > 0, body, (x,))

    tf.function(
        function, jit_compile=jit, autograph=False
    ).get_concrete_function(tf.TensorSpec([rows]))
    fits = tf.config.list_physical_devices("GPU") == []
    assert set(told) == {fits and not jit and rows is not None}
    assert not fusion.is_for_cpus(tf.ones([2]))  # Eagerly.
