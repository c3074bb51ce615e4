"""The classifier: pooling by hand, packed as alone, two classes as one."""

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling
from trainer.modeling import classifier, layers

VOCABULARY, LENGTH = 40, 6


def _model(*, num_classes=3, dtype=None, attend_padding=False, **fields):
    return modeling.create_classifier(
        schema.ModelConfig(
            num_layers=2,
            hidden_size=8,
            num_heads=2,
            intermediate_size=12,
            initializer_range=0.3,
            positions="rotary",
            attend_padding=attend_padding,
        ),
        schema.FinetuneConfig(**fields),
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        num_classes=num_classes,
        dtype=dtype,
    )


def _batch(rows, *, chunks=2, num_documents=3):
    """Rows of lists of (document, tokens), one list a chunk."""
    shape = [len(rows), chunks * LENGTH]
    batch = {
        key: np.zeros(shape, np.int32)
        for key in ("token_ids", "segment_ids", "position_ids", "document_ids")
    }
    for row, parts in enumerate(rows):
        segment = 0
        for number, chunk in enumerate(parts):
            place = number * LENGTH
            for document, tokens in chunk:
                segment += 1
                slots = slice(place, place + len(tokens))
                batch["token_ids"][row, slots] = tokens
                batch["segment_ids"][row, slots] = segment
                batch["position_ids"][row, slots] = np.arange(len(tokens))
                batch["document_ids"][row, slots] = document
                place += len(tokens)
    batch["labels"] = np.zeros([len(rows), num_documents], np.int32)
    return {key: tf.constant(value) for key, value in batch.items()}


@pytest.mark.parametrize(
    ("pooling", "hidden_size"), [("mean_max", 0), ("attention", 5)]
)
def test_packed_documents_equal_lonely_ones(pooling, hidden_size):
    model = _model(pooling=pooling, hidden_size=hidden_size)
    long, short, other = [5, 6, 7, 8, 9, 10, 11, 12], [20, 21], [30]
    packed = _batch(
        [
            [[(1, long[:6])], [(2, short), (1, long[6:]), (3, other)]],
            [[(1, other)], []],
        ]
    )
    alone = _batch(
        [
            [[(1, long[:6])], [(1, long[6:])]],
            [[(1, short)], []],
            [[(1, other)], []],
        ],
        num_documents=1,
    )
    together, apart = model(packed).numpy(), model(alone).numpy()
    np.testing.assert_allclose(together[0], apart[:, 0], atol=1e-5)
    np.testing.assert_allclose(together[1, 0], apart[2, 0], atol=1e-5)
    assert np.abs(together[0, 0] - together[0, 1]).max() > 1e-3
    assert np.isfinite(together).all()


def pooling(kind):
    """The layer, for states of width 2 at 3 slots."""
    make = layers.LayerFactory(
        schema.ModelConfig(hidden_size=2, num_heads=1),
        seed=0,
        stream=0,
        dtype=None,
    )
    layer = classifier.DocumentPooling(make, kind)
    layer.build((None, 3, 2))
    return layer


def test_pooling_by_hand():
    states = tf.constant(
        [
            [[1.0, -2.0], [3.0, -4.0], [9.0, 9.0]],
            [[5.0, -9.0], [7.0, 7.0], [8.0, 8.0]],
        ]
    )
    owners = tf.constant([[0, 0, -1], [0, 2, 2]])

    def pool(kind):
        return pooling(kind)(states, owners, num_documents=3).numpy()

    mean = [[3.0, -5.0], [0.0, 0.0], [7.5, 7.5]]
    highest = [[5.0, -2.0], [0.0, 0.0], [8.0, 8.0]]
    np.testing.assert_allclose(pool("mean"), mean)
    np.testing.assert_allclose(pool("max"), highest)
    np.testing.assert_allclose(
        pool("mean_max"), np.concatenate([mean, highest], 1)
    )
    attended = pool("attention")
    assert attended[1].tolist() == [0.0, 0.0]
    assert 7.0 <= attended[2, 0] <= 8.0


def test_the_gradient_of_the_maximum_goes_to_the_slots_that_have_it():
    states = tf.constant(
        [
            [[1.0, 5.0], [3.0, 5.0], [9.0, 9.0]],
            [[2.0, 4.0], [7.0, 8.0], [8.0, 0.0]],
        ]
    )
    owners = tf.constant([[0, 0, -1], [0, 2, 2]])
    pool = pooling("max")
    with tf.GradientTape() as tape:
        tape.watch(states)
        found = pool(states, owners, num_documents=3)
    upstream = tf.constant([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    gradient = tape.gradient(found, states, upstream)
    # Two slots of the first document are equal; the second has none.
    assert gradient.numpy().tolist() == [
        [[0.0, 10.0], [10.0, 10.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 60.0], [50.0, 0.0]],
    ]


def test_xla_finds_the_gradient_of_the_maximum():
    # It may compute a slot twice, and then the two differ in the last bit.
    model = _model(pooling="mean_max", num_classes=2)
    tokens = np.random.default_rng(5).integers(5, VOCABULARY, [8, 2, LENGTH])
    batch = _batch(
        [[[(1, row[0]), (2, row[1][:3])], [(3, row[1])]] for row in tokens],
        num_documents=5,
    )

    def gradients(batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(batch)))
        sources = [variable.value for variable in model.trainable_variables]
        found = tape.gradient(
            loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [tf.convert_to_tensor(gradient) for gradient in found]

    plain = tf.function(gradients)(batch)
    compiled = tf.function(gradients, jit_compile=True)(batch)
    for mine, theirs in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert max(np.abs(gradient).max() for gradient in plain) > 0.1


@pytest.mark.parametrize(("num_classes", "logits"), [(2, 1), (3, 3)])
def test_logits_and_probabilities(num_classes, logits):
    found = _model(num_classes=num_classes)(_batch([[[(1, [5, 6])], []]]))
    assert found.shape == (1, 3, logits)
    assert found.dtype == tf.float32
    shares = modeling.probabilities(found).numpy()
    assert shares.shape == (1, 3, num_classes)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)


def test_one_logit_is_that_of_the_second_class():
    shares = modeling.probabilities(tf.constant([[40.0], [-40.0]])).numpy()
    assert shares[0, 1] == 1
    assert 0 < shares[0, 0] < 1e-16  # Not rounded away.
    assert 0 < shares[1, 1] < 1e-16


def test_the_keras_example_has_its_number_of_weights():
    example = schema.ModelConfig(
        num_layers=1,
        hidden_size=128,
        num_heads=8,
        intermediate_size=128,
        activation="relu",
        normalization="post",
        initializer_range=0.0,
        tie_embeddings=False,
        head_transform=False,
    )
    sizes = {"vocabulary_size": 30_000, "sequence_length": 256}
    model = modeling.create_masked_lm(example, **sizes)
    assert model.head.count_params() == 3_870_000
    # It prints 7,809,584 and 3,947,905, and counts no table of positions.
    assert model.count_params() == 7_809_584 + 256 * 128
    model = modeling.create_classifier(
        example,
        schema.FinetuneConfig(pooling="max", hidden_size=64),
        num_classes=2,
        **sizes,
    )
    assert model.count_params() == 3_947_905 + 256 * 128
    assert model.head.count_params() == 8_321


def test_dropout_does_not_know_the_layout():
    model = _model(dropout=0.5)
    rows = [[[(1, [5 + n, 6]), (2, [7, 8 + n])], [(1, [9])]] for n in range(4)]
    noise = modeling.create_noise(3, step=2)
    whole = model(_batch(rows), noise=noise).numpy()
    noise = modeling.create_noise(3, step=2, first_row=2)
    half = model(_batch(rows[2:]), noise=noise).numpy()
    np.testing.assert_allclose(whole[2:], half, atol=1e-6)
    assert np.abs(whole - model(_batch(rows)).numpy()).max() > 0.01


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_words_are_dropped_at_their_rate(rate):
    is_special = np.zeros(VOCABULARY, bool)
    is_special[:3] = True
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, [50, 200])
    tokens = tokens.astype(np.int32)
    shown = modeling.drop_words(
        tf.constant(tokens),
        modeling.create_noise(1, step=4),
        rate=rate,
        is_special=is_special,
        unknown_id=1,
    ).numpy()
    ordinary = tokens >= 3
    np.testing.assert_array_equal(shown[~ordinary], tokens[~ordinary])
    dropped = (shown != tokens)[ordinary]
    assert abs(dropped.mean() - rate) < 0.02
    assert set(shown[ordinary & (shown != tokens)]) <= {1}


def test_padding_is_pooled_only_where_it_is_attended():
    def logits(attend_padding, tokens):
        model = _model(
            pooling="max",
            attend_padding=attend_padding,
            packing="document",
            pieces_per_row=1,
        )
        batch = _batch([[[(1, [5, 6])]]], chunks=1, num_documents=1)
        shown = batch["token_ids"].numpy()
        shown[0, 2:] = tokens
        return model({**batch, "token_ids": tf.constant(shown)}).numpy()

    np.testing.assert_array_equal(logits(False, 0), logits(False, 33))
    assert np.abs(logits(True, 0) - logits(True, 33)).max() > 1e-3
