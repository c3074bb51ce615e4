"""Tests of trainer/training/cross_entropy.py."""

import re

import numpy as np
import pytest
import tensorflow as tf

from trainer.training import cross_entropy

CHUNKS = {
    dtype: cross_entropy.CHUNK_ROWS[dtype.size]
    for dtype in (tf.float32, tf.bfloat16)
}
CHUNK = CHUNKS[tf.float32]
PART = cross_entropy._PART_ROWS
WIDTH, VOCABULARY = 6, 37
GRADIENTS = {WIDTH, WIDTH + 1}  # Rows of the kernel's, also with the bias'.


def entries(num_entries, used, *, dtype=tf.float32):
    """hidden, kernel, bias, labels, weights; `used` is a share or a list."""
    rng = np.random.default_rng(num_entries)
    if isinstance(used, float):
        used = rng.random(num_entries) < used
    return (
        tf.cast(rng.normal(size=[num_entries, WIDTH]), dtype),
        tf.constant(rng.normal(size=[VOCABULARY, WIDTH]), tf.float32),
        tf.constant(rng.normal(size=[VOCABULARY]), tf.float32),
        tf.constant(rng.integers(VOCABULARY, size=num_entries), tf.int32),
        tf.constant(used, tf.float32),
    )


def dense(hidden, kernel, bias, labels, weights):
    """The same in the plainest way: all logits at once."""
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel, bias])
        kernel_ = tf.cast(kernel, hidden.dtype)
        logits = tf.matmul(hidden, kernel_, transpose_b=True)
        logits = tf.cast(logits, tf.float32) + bias
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        total = tf.reduce_sum(each * weights)
        scaled = 3.0 * total
    used = tf.cast(weights > 0, tf.float32)
    best = tf.argmax(logits, -1, output_type=tf.int32)
    correct = tf.cast(best == labels, tf.float32)
    gradients = tape.gradient(scaled, [hidden, kernel, bias])
    return (total, each * used, correct * used, *gradients)


def derived(hidden, kernel, bias, labels, weights, *rates):
    """The losses that are computed, and the gradients of three times them."""
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel, bias])
        inputs = {"labels": labels, "weights": weights}
        if rates:
            losses = cross_entropy.two_level_cross_entropy(
                hidden, kernel, bias, **inputs, rare_rates=rates[0]
            )
        else:
            losses = cross_entropy.cross_entropy(
                hidden, kernel, bias, **inputs, trains=True
            )
        scaled = 3.0 * losses.total
    gradients = tape.gradient(scaled, [hidden, kernel, bias])
    used = tf.cast(weights > 0, tf.float32)
    return (losses.total, losses.each, losses.correct * used, *gradients)


def assert_equal(got, wanted, *, tolerance):
    for ours, theirs in zip(got, wanted, strict=True):
        theirs = tf.cast(theirs, tf.float32).numpy()
        scale = max(1.0, np.abs(theirs).max())
        ours = tf.cast(ours, tf.float32).numpy()
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)


@pytest.mark.parametrize(
    ("num_entries", "used", "dtype", "jit"),
    [
        (1, 1.0, "float32", False),
        (9, [0.5, 3.0, 0.0] * 3, "float32", False),  # Not only 0 and 1.
        (7, 0.0, "float32", False),
        (PART - 1, 1.0, "float32", False),
        (PART, 1.0, "float32", False),
        (PART + 1, 1.0, "float32", False),
        (CHUNK - 1, 0.5, "float32", False),
        (CHUNK, 1.0, "float32", False),
        (CHUNK + 1, 1.0, "float32", False),
        (2 * CHUNK + PART + 3, 1.0, "float32", False),
        (CHUNKS[tf.bfloat16] + PART + 1, 0.7, "bfloat16", False),
        # XLA compiles for seconds: one and three sizes of chunks.
        (7, 0.0, "float32", True),
        (2 * CHUNK + 3, 0.4, "float32", True),
    ],
)
def test_losses_and_gradients_equal_the_dense_ones(
    num_entries, used, dtype, jit
):
    data = entries(num_entries, used)
    given = (tf.cast(data[0], dtype), *data[1:])

    found = tf.function(derived, jit_compile=jit, autograph=False)(*given)
    assert found[3].dtype == dtype
    assert found[4].dtype == found[5].dtype == tf.float32
    expected, tolerance = dense(*data), 1e-6 if dtype == "float32" else 2e-2
    if dtype == "bfloat16":  # Ties are won by others.
        found, expected = (x[:2] + x[3:] for x in (found, expected))
    assert_equal(found, expected, tolerance=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_label_whose_probability_underflows_has_a_finite_loss(dtype):
    # Entry 0 is certain of tokens 0 and 3; the others are undecided.
    hidden = tf.cast([[1.0], [0.0], [1.0]], dtype)
    kernel = tf.constant([[200.0], [0.0], [0.0], [200.0]])
    function = tf.function(derived, autograph=False)
    _, each, correct, *_ = function(
        hidden, kernel, tf.zeros([4]), tf.constant([2, 2, 0]), tf.ones([3])
    )
    wanted = [200.0 + np.log(2), np.log(4), np.log(2)]
    np.testing.assert_allclose(each, wanted, rtol=1e-6)
    np.testing.assert_array_equal(correct, [0, 0, 1])


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_of_equally_likely_tokens_the_first_is_the_guess(jit):
    # In bfloat16 the logits 8.00 and 8.01 are equal, and larger than 7.
    hidden = tf.cast(tf.ones([4, 1]), tf.bfloat16)
    kernel = tf.constant([[7.0], [8.0], [8.01], [8.0]])
    function = tf.function(derived, jit_compile=jit, autograph=False)
    _, _, correct, *_ = function(
        hidden, kernel, tf.zeros([4]), tf.range(4), tf.ones([4])
    )
    np.testing.assert_array_equal(correct, [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("num_entries", "jit"), [(PART - 1, False), (CHUNK + PART + 1, True)]
)
def test_without_training_the_losses_are_the_same(num_entries, jit):
    """With loops over chunks of one and of three sizes."""
    given = entries(num_entries, 0.9)

    @tf.function(jit_compile=jit, autograph=False)
    def losses(hidden, kernel, bias, labels, weights):
        return cross_entropy.cross_entropy(
            hidden, kernel, bias, labels=labels, weights=weights, trains=False
        )

    assert_equal(losses(*given)[:2], dense(*given)[:2], tolerance=1e-5)


@pytest.mark.parametrize("dtype", CHUNKS, ids=lambda dtype: dtype.name)
def test_xla_for_a_gpu_holds_no_more_than_a_chunk_of_the_vocabulary(dtype):
    function = tf.function(derived, jit_compile=True, autograph=False)
    data = entries(4 * CHUNKS[dtype], 1.0, dtype=dtype)
    # Lowering for a GPU needs none.
    hlo = function.experimental_get_compiler_ir(*data)(
        stage="hlo", platform_name="GPU"
    )
    shapes = {
        tuple(map(int, dimensions.split(",")))
        for dimensions in re.findall(r"\[([\d,]+)\]", hlo)
    }
    large = {shape for shape in shapes if VOCABULARY in shape}
    weights = {(VOCABULARY, WIDTH), (VOCABULARY,), (1, VOCABULARY)}
    weights |= {(rows, VOCABULARY) for rows in GRADIENTS}
    rows = (CHUNKS[dtype], 2 * PART, PART)
    assert large - weights == {(size, VOCABULARY) for size in rows}


def dense_in_two_levels(hidden, kernel, bias, labels, weights, rates):
    """The same with all logits at once."""
    num_frequent = VOCABULARY - len(rates)
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel, bias])
        logits = tf.matmul(hidden, kernel, transpose_b=True) + bias
        frequent, rare = logits[:, :num_frequent], logits[:, num_frequent:]
        cluster = tf.reduce_sum(rates * (rare - tf.math.log(rates)), axis=1)
        first = tf.nn.log_softmax(tf.concat([frequent, cluster[:, None]], 1))
        second = tf.nn.log_softmax(rare) + first[:, -1:]
        all_tokens = tf.concat([first[:, :-1], second], axis=1)
        each = -tf.gather(all_tokens, labels, batch_dims=1) * weights
        total = tf.reduce_sum(each)
        scaled = 3.0 * total
    best = tf.where(
        tf.argmax(first, 1) < num_frequent,
        tf.argmax(first, 1),
        num_frequent + tf.argmax(second, 1),
    )
    correct = tf.cast(tf.cast(best, tf.int32) == labels, tf.float32) * weights
    return (
        total,
        each,
        correct,
        *tape.gradient(scaled, [hidden, kernel, bias]),
    ), all_tokens


@pytest.mark.parametrize(
    ("num_frequent", "num_entries", "used", "jit"),
    [
        (1, 9, [1, 0] * 4 + [1], False),
        (20, PART + 9, 0.5, True),
        (VOCABULARY - 1, 9, [1, 0] * 4 + [1], False),
    ],
)
def test_two_levels_equal_the_dense_ones(num_frequent, num_entries, used, jit):
    data = entries(num_entries, used)
    rates = np.random.default_rng(5).random(VOCABULARY - num_frequent) + 0.1
    rates = tf.constant(rates / rates.sum(), tf.float32)
    function = tf.function(derived, jit_compile=jit, autograph=False)
    got = function(*data, rates)
    wanted, all_tokens = dense_in_two_levels(*data, rates)
    assert_equal(got, wanted, tolerance=2e-6)
    # A distribution over all tokens.
    np.testing.assert_allclose(
        tf.reduce_logsumexp(all_tokens, axis=1), 0.0, atol=1e-5
    )
