"""Dropout is a function; attention and the layer are what they say."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer.modeling import attention, layers


def _noise(*, seed=7, step=3, first_row=0):
    return layers.create_noise(seed, step=step, first_row=first_row)


def _factory(seed=0, stream=0, **fields):
    fields = {
        "hidden_size": 12,
        "num_heads": 3,
        "intermediate_size": 20,
        **fields,
    }
    return layers.LayerFactory(
        schema.ModelConfig(**fields),
        seed=seed,
        stream=stream,
        dtype=keras.DTypePolicy("float32"),
    )


def _words(noise, *, index=2, num_rows=8, shape=(24,)):
    keys = layers.row_keys(noise, index=index, num_rows=num_rows)
    return layers.random_words(keys, shape)


def _dropout(rate=0.25, index=2):
    return layers.Dropout(rate, index, name="dropout")


@pytest.mark.parametrize("shape", [(), (9,), (3, 4, 5)])
def test_words_do_not_know_the_layout_or_the_compiler(shape):
    @tf.function(jit_compile=True)
    def compiled(noise):
        return _words(noise, shape=shape)

    far = {"step": 3 * 10**12, "first_row": 5 * 10**12}
    whole = _words(_noise(**far), shape=shape)
    assert whole.shape == (8, *shape)
    assert whole.dtype == tf.uint32
    np.testing.assert_array_equal(compiled(_noise(**far)), whole)
    parts = []
    for first, rows in ((0, 4), (4, 3), (7, 1)):
        noise = _noise(step=3 * 10**12, first_row=5 * 10**12 + first)
        parts.append(_words(noise, num_rows=rows, shape=shape))
    np.testing.assert_array_equal(whole, tf.concat(parts, 0))


def _pcg3d(*entries):
    """The function of the paper, in integers of any size."""
    x, y, z = ((v * 1664525 + 1013904223) % 2**32 for v in entries)
    for last in (False, True):
        x = (x + y * z) % 2**32
        y = (y + z * x) % 2**32
        z = (z + x * y) % 2**32
        if not last:
            x, y, z = (v ^ v >> 16 for v in (x, y, z))
    return x, y, z


def test_words_are_those_of_the_paper():
    keys = [[2**32 - 1, 7], [12345, 2**31]]
    words = layers.random_words(tf.constant(keys, tf.uint32), (2, 3))
    expected = [[_pcg3d(i, *key)[0] for i in range(6)] for key in keys]
    np.testing.assert_array_equal(np.reshape(words, [2, 6]), expected)


PINNED = [3801743430, 2290823446, 3071235130, 3420027411]


def test_words_are_pinned():
    # A run resumed on another device or version must draw the same.
    words = _words(_noise(), num_rows=1, shape=(4,))
    np.testing.assert_array_equal(words, [PINNED])


def test_dropout_keeps_from_its_threshold_on():
    assert layers.threshold(0.0) == 0
    assert layers.threshold(1 - 1e-12) == 2**32 - 1
    x = tf.ones([1, 4])
    for word in PINNED:
        for least, kept in ((word, True), (word + 1, False)):
            y = _dropout(least / 2**32)(x, noise=_noise())
            assert np.count_nonzero(y) == sum(w >= least for w in PINNED)
            assert bool(y[0, PINNED.index(word)] != 0) is kept


def test_words_differ_in_every_argument():
    draws = [
        _words(_noise()),
        _words(_noise(seed=8)),
        _words(_noise(step=4)),
        _words(_noise(), index=3),
        _words(_noise(seed=3, step=7)),
        _words(_noise(step=2), index=3),
    ]
    assert len({draw.numpy().tobytes() for draw in draws}) == len(draws)
    rows = {row.tobytes() for draw in draws for row in draw.numpy()}
    assert len(rows) == 8 * len(draws)


def test_words_are_uniform():
    words = _words(_noise(), num_rows=64, shape=(4, 256)).numpy()
    for shift in (0, 28):
        counts = np.bincount(words.ravel() >> shift & 15, minlength=16)
        # 4096 are expected of each; 15 degrees of freedom: p = 0.0005.
        assert ((counts - 4096) ** 2 / 4096).sum() < 40


@pytest.mark.parametrize("distance", [1, 128, 4096])
def test_words_do_not_know_their_neighbours(distance):
    words = _words(_noise(), num_rows=64, shape=(64, 128)).numpy()
    dropped = (words < layers.threshold(0.1)).reshape(64, -1) - 0.1
    across = (dropped[1:] * dropped[:-1]).mean() / 0.09
    along = (dropped[:, distance:] * dropped[:, :-distance]).mean() / 0.09
    # Standard deviation 1 / sqrt(entries): 5 of them.
    assert abs(across) < 5 * (63 * 8192) ** -0.5
    assert abs(along) < 5 * (64 * (8192 - distance)) ** -0.5


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.999])
def test_dropout_realises_its_rate(rate):
    x = tf.ones([64, 8, 128])
    y = _dropout(rate)(x, noise=_noise()).numpy()
    assert (y == 0).mean() == pytest.approx(rate, abs=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=0.01)


def test_compiled_dropout_keeps_no_words_in_memory():
    layer = _dropout(0.25)
    x = tf.ones([4, 32, 48])

    @tf.function(jit_compile=True, autograph=False)
    def gradient(x, step):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, noise=_noise(step=step))
        return y, tape.gradient(y, x)

    args = (x, tf.constant(3, tf.int64))
    y, dy = gradient(*args)
    np.testing.assert_array_equal(y, layer(x, noise=_noise()))
    np.testing.assert_array_equal(dy, y)  # Kept and scaled alike.
    hlo = gradient.experimental_get_compiler_ir(*args)(stage="optimized_hlo")
    # What the entry computation names is a buffer; the rest is inside a loop.
    entry = hlo[hlo.index("ENTRY") :]
    assert entry.count("f32[4,32,48]") >= 2
    sizes = [
        math.prod(map(int, dimensions.split(",")))
        for dimensions in re.findall(r"[us](?:8|16|32|64)\[([\d,]+)\]", entry)
    ]
    assert sizes
    assert max(sizes) <= 4 * 4  # The keys of the rows.


def test_dropout_of_attention_does_not_know_the_groups(monkeypatch):
    # Its weights are dropped a few rows at a time on a CPU.
    layer = layers.SelfAttention(
        _factory(attention_dropout=0.5), dropout_index=4, name="attention"
    )
    x = tf.random.stateless_normal([6, 5, 12], [0, 1])
    noise = _noise(first_row=3)
    monkeypatch.setattr(attention, "_GROUP_BYTES", 2 * 3 * 5 * 5 * 4)

    @tf.function
    def by_groups(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, noise=noise)
        return y, tape.gradient(y, x)

    with tf.GradientTape() as tape:  # Eagerly, the whole at once.
        tape.watch(x)
        expected = layer(x, noise=noise)
    found, gradient = by_groups(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(gradient, tape.gradient(expected, x), atol=1e-6)


def test_attention_is_multi_head_attention():
    ours = layers.SelfAttention(_factory(), dropout_index=0, name="ours")
    ours.build((None, 5, 12))
    theirs = keras.layers.MultiHeadAttention(num_heads=3, key_dim=4)
    theirs.build((None, 5, 12), (None, 5, 12))
    for variable in theirs.variables:
        variable.assign(keras.random.normal(variable.shape, seed=1))
    names = {"/".join(v.path.split("/")[-2:]): v for v in theirs.variables}
    for variable in ours.variables:
        variable.assign(names["/".join(variable.path.split("/")[-2:])])
    x = tf.random.stateless_normal([2, 5, 12], [0, 1])
    segments = tf.constant([[1, 1, 2, 2, 3], [1, 1, 1, 1, 1]])
    mask = segments[:, :, None] == segments[:, None]
    np.testing.assert_allclose(
        ours(x, segment_ids=segments),
        theirs(x, x, attention_mask=mask),
        atol=1e-5,
    )
    np.testing.assert_allclose(ours(x), theirs(x, x), atol=1e-5)


@pytest.mark.parametrize("normalization", ["pre", "post"])
def test_a_layer_normalizes_before_its_parts_or_after_each_sum(normalization):
    make = _factory(normalization=normalization, initializer_range=0.5)
    layer = layers.TransformerLayer(make, dropout_index=0, name="layer")
    x = 3 + tf.random.stateless_normal([2, 5, 12], [0, 1])
    y = layer(x)

    def feed(x):
        return layer.output_dense(layer.intermediate(x))

    if normalization == "pre":
        h = x + layer.attention(layer.attention_norm(x))
        expected = h + feed(layer.feedforward_norm(h))
    else:
        h = layer.attention_norm(x + layer.attention(x))
        expected = layer.feedforward_norm(h + feed(h))
        means = tf.reduce_mean(y, -1)
        np.testing.assert_allclose(means, np.zeros([2, 5]), atol=1e-5)
    np.testing.assert_allclose(y, expected)


def test_initializer_range_chooses_the_distribution():
    for scale, expected in ((0.0, "RandomUniform"), (0.02, "TruncatedNormal")):
        table = _factory(initializer_range=scale).embedding(6, "table")
        assert type(table.embeddings_initializer).__name__ == expected


@pytest.mark.parametrize(
    ("name", "expected", "slope"),
    [
        ("relu", 1.0, 1.0),
        ("gelu", 0.8413447, 1.0833155),
        ("gelu_tanh", 0.8411920, 1.0829641),
    ],
)
def test_activations(name, expected, slope):
    x = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = layers.ACTIVATIONS[name](x)
    assert float(found) == pytest.approx(expected, abs=1e-6)
    assert float(tape.gradient(found, x)) == pytest.approx(slope, abs=1e-6)
