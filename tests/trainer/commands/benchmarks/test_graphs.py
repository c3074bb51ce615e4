"""Tests of trainer/commands/benchmarks/graphs.py."""

import tensorflow as tf

from trainer.commands.benchmarks import graphs


def test_finds_the_largest_tensor_in_a_loop_inside_a_function():
    @tf.function(jit_compile=True)
    def inner(x):
        large = tf.zeros([7, 11, 13], tf.bfloat16)
        return x + tf.cast(tf.reduce_sum(large), tf.float32)

    @tf.function(autograph=False)
    def outer(x):
        return tf.while_loop(
            lambda n, _: n < 3, lambda n, x: (n + 1, inner(x)), (0, x)
        )[1]

    largest = graphs.largest_tensor(
        outer.get_concrete_function(tf.TensorSpec([100]))
    )
    assert largest.shape == (7, 11, 13)
    assert largest.num_bytes == 2 * 7 * 11 * 13


def test_shapes_that_are_not_known_are_left_out():
    @tf.function
    def function(x):
        return tf.concat([x, x], axis=0)

    spec = tf.TensorSpec([None, 100])
    concrete = function.get_concrete_function(spec)
    assert all(
        tensor.shape.is_fully_defined() == (tensor.shape.rank == 0)
        for tensor in graphs.tensors(concrete.graph)
        if tensor.dtype == tf.float32
    )
    assert graphs.largest_tensor(concrete).num_bytes == 4  # The axis.
