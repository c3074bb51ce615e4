"""Elementwise work in one pass over memory."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

_PACKAGE_FOR_TPUS = importlib.util.find_spec("libtpu") is not None
_Function = TypeVar("_Function", bound=Callable[..., Any])


def fused(function: _Function) -> _Function:
    """The same function of tensors, compiled by XLA wherever it is traced.

    TensorFlow writes the result of every operation to memory; XLA computes
    them all while the numbers are at hand. Inside what XLA compiles as a whole
    this changes nothing. Left as it is: an eager call and a shape that is not
    static, which would be compiled again and again, and what runs on a TPU or
    its host, where TensorFlow has no XLA for the host.

    Args:
      function: takes and returns tensors, has no variables; matrix products
        are faster outside, where oneDNN multiplies bfloat16.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments: tf.Tensor) -> Any:
        plain = _is_dynamic(arguments) or _is_for_tpus()
        return (function if plain else compiled)(*arguments)

    return call  # type: ignore[return-value]


def is_for_cpus(*arguments: tf.Tensor) -> bool:
    """Whether TensorFlow runs what is being traced on a CPU, op by op."""
    return not (
        _is_dynamic(arguments)
        or _is_compiled()
        or tf.config.list_physical_devices("GPU")
    )


def _is_dynamic(arguments: tuple[tf.Tensor, ...]) -> bool:
    return tf.executing_eagerly() or not all(
        x.shape.is_fully_defined() for x in arguments
    )


def _is_for_tpus() -> bool:
    strategy = tf.distribute.get_strategy()
    return _PACKAGE_FOR_TPUS or isinstance(strategy, tf.distribute.TPUStrategy)


def recomputed(
    function: Callable[[tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor], tf.Tensor]:
    """An elementwise function, fused, with float32 inside.

    Nothing but its input is kept for the gradient, which is fused as well and
    computes the rest again.
    """

    @fused
    def forward(x: tf.Tensor) -> tf.Tensor:
        return tf.cast(function(tf.cast(x, tf.float32)), x.dtype)

    @fused
    def backward(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        x32 = tf.cast(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x32)
            y = function(x32)
        gradient = tape.gradient(y, x32, tf.cast(upstream, tf.float32))
        return tf.cast(gradient, x.dtype)

    @tf.custom_gradient
    def call(
        x: tf.Tensor,
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return forward(x), lambda upstream: backward(x, upstream)

    return call


def softmax(x: tf.Tensor) -> tf.Tensor:
    """Over the last axis; computed in float32, and of the dtype of `x`.

    oneDNN reads and writes bfloat16 and is exact in between, in one pass;
    everybody else rounds in between, up to 14 % of a probability.
    """
    if x.dtype == tf.bfloat16 and _rounds_once() and not _is_compiled():
        return tf.nn.softmax(x)
    return tf.cast(tf.nn.softmax(tf.cast(x, tf.float32)), x.dtype)


@functools.cache
def _rounds_once() -> bool:
    """Whether TensorFlow's softmax of bfloat16 computes in float32 here."""
    with tf.init_scope():
        x = tf.cast(tf.linspace(-20.0, 0.0, 1000), tf.bfloat16)
        exact = tf.nn.softmax(tf.cast(x, tf.float32))
        error = tf.cast(tf.nn.softmax(x), tf.float32) / exact - 1
        return bool(tf.reduce_max(tf.abs(error)) < 2**-7)


def _is_compiled() -> bool:
    """Whether XLA compiles, as a whole, what is being traced."""
    graph = tf.compat.v1.get_default_graph()
    return _is_for_tpus() or control_flow_util.GraphOrParentsInXlaContext(graph)
