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
