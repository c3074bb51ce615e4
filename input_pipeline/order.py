"""A keyed permutation: which item comes at place i, without a list of all.

`tf.random.experimental.index_shuffle` is not used: it is no permutation at
65,537 and other sizes, and neighbouring seeds give nearly the same order.
"""

import numpy as np
import tensorflow as tf

_ROUNDS = 8


def keys(seed: tf.Tensor | int, epoch: tf.Tensor | int) -> tf.Tensor:
    """Round keys for `permute`, uint32 [rounds], from two int64 numbers."""
    return tf.random.stateless_uniform(
        [_ROUNDS],
        seed=tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)]),
        minval=None,
        maxval=None,
        dtype=tf.uint32,
        alg="philox",
    )


def permute(index: tf.Tensor, size: int, round_keys: tf.Tensor) -> tf.Tensor:
    """The items at places `index` of a shuffled list of `size` items.

    An unbalanced Feistel network over the bits of `size - 1`, walked until it
    lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002); its round function is the finaliser of MurmurHash3.

    Args:
      index: int64 [...], each in [0, size).
      size: number of items, at least 1.
      round_keys: uint32 [rounds], from `keys`.

    Returns:
      int64 [...] in [0, size); a bijection of `index`.
    """
    bits = max(2, (size - 1).bit_length())
    low_bits = bits - bits // 2

    def encrypt(value: tf.Tensor) -> tf.Tensor:
        high = tf.cast(tf.bitwise.right_shift(value, low_bits), tf.uint32)
        low = tf.cast(value & ((1 << low_bits) - 1), tf.uint32)
        high_mask = tf.constant((1 << (bits // 2)) - 1, tf.uint32)
        low_mask = tf.constant((1 << low_bits) - 1, tf.uint32)
        for number in range(_ROUNDS):
            key = round_keys[number]
            if number % 2 == 0:
                high ^= mix(low + key) & high_mask
            else:
                low ^= mix(high + key) & low_mask
        return tf.bitwise.left_shift(
            tf.cast(high, tf.int64), tf.constant(low_bits, tf.int64)
        ) | tf.cast(low, tf.int64)

    (result,) = tf.while_loop(
        lambda value: tf.reduce_any(value >= size),
        lambda value: (tf.where(value >= size, encrypt(value), value),),
        (encrypt(index),),
    )
    return result


def shuffled(size: int, number: int) -> np.ndarray:
    """The numbers from 0 to `size` - 1 in the order of a number's keys."""
    index = tf.range(size, dtype=tf.int64)
    return permute(index, max(1, size), keys(0, number)).numpy()


def mix(value: tf.Tensor) -> tf.Tensor:
    """Scatters the bits of uint32 values (MurmurHash3's finaliser)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value ^= tf.bitwise.right_shift(value, tf.constant(shift, tf.uint32))
        value *= tf.constant(factor, tf.uint32)
    return value ^ tf.bitwise.right_shift(value, tf.constant(16, tf.uint32))
