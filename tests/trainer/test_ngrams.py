"""Tests of trainer/ngrams.py."""

import numpy as np
import pytest
import tensorflow as tf

import storage
from input_pipeline.documents import Documents
from trainer import ngrams
from trainer.stages import ngram_fitting

V = 12
IS_SPECIAL = np.isin(np.arange(V), [0, 1, V - 1])


def documents(texts, labels):
    """One segment a document; texts are lists of ids."""
    owners = np.repeat(np.arange(len(texts)), list(map(len, texts)))
    return Documents(
        np.array([i for text in texts for i in text], np.int32),
        owners.astype(np.int32),
        owners.astype(np.int32),
        np.array(labels, np.int32),
    )


def keys_of(ids, segments):
    keys, places = ngrams.keys_of(
        tf.constant(ids, tf.int32), tf.constant(segments, tf.int32), IS_SPECIAL
    )
    return sorted(zip(keys.numpy(), places.numpy(), strict=True))


def accuracy(found, labels):
    return ngrams.measure(found, labels, np.ones(len(labels)))[1]


def answers(model, text, is_special=IS_SPECIAL):
    """The logits of a model for documents."""
    features = ngrams.features(
        model,
        *text[:3],
        is_special=is_special,
        num_documents=len(text.labels),
    )
    return ngrams.logits(model, features)


def planted(number, num_classes, seed=0):
    """Noise in which the order of two tokens tells the class.

    Classes 0 and 1 have the same words: only a bigram tells them apart.
    """
    random = np.random.default_rng(seed)
    signs = [[2, 3], [3, 2], [4, 4]]
    labels = random.integers(0, num_classes, number)
    texts = [
        [*random.integers(5, 11, 3), *signs[label], *random.integers(5, 11, 2)]
        for label in labels
    ]
    return documents(texts, labels)


def test_keys_are_the_ids_as_digits_of_one_number():
    found = keys_of([2, 3, 4], [0, 0, 0])
    assert found == [
        (2, 0),
        (3, 1),
        (4, 2),
        (2 * V + 3, 0),
        (3 * V + 4, 1),
        ((2 * V + 3) * V + 4, 0),
    ]


@pytest.mark.parametrize(
    ("ids", "segments", "expected"),
    [
        ([], [], 0),
        ([2], [0], 1),
        ([2, 3], [0, 0], 3),
        ([2, 3, 4], [0, 1, 1], 4),  # None crosses a segment ...
        ([2, 1, 4], [0, 0, 0], 2),  # ... or holds a special token.
        ([V - 1, 0, 1], [0, 0, 0], 0),
    ],
)
def test_only_runs_of_ordinary_tokens_are_ngrams(ids, segments, expected):
    assert len(keys_of(ids, segments)) == expected


@pytest.mark.parametrize("num_logits", [1, 3])
def test_contributions_add_up(num_logits):
    random = np.random.default_rng(0)
    # Documents of 0 to 9 tokens in segments of 4, special ones among them.
    texts = [random.integers(0, V, n).tolist() for n in (9, 0, 5, 1, 9)]
    text = documents(texts, [0] * 5)
    segments = np.concatenate([np.arange(len(t)) // 4 for t in texts])
    segments = (3 * text.owners + segments).astype(np.int32)
    keys = [key for key, _ in keys_of(text.token_ids, segments)]
    keys = np.unique([*keys[::2], 2 * V + 2, V**3])
    model = ngrams.NGrams(
        keys,
        random.uniform(1, 2, len(keys)).astype(np.float32),
        random.normal(size=(len(keys), num_logits)).astype(np.float32),
        random.normal(size=num_logits).astype(np.float32),
    )
    directions = random.normal(size=(5, num_logits)).astype(np.float32)
    tokens = (text.token_ids, segments, text.owners)
    features = ngrams.features(
        model, *tokens, is_special=IS_SPECIAL, num_documents=5
    )
    found = ngrams.contributions(model, features, directions)
    logits = ngrams.logits(model, features) - model.bias
    np.testing.assert_allclose(
        np.bincount(text.owners, found, 5),
        tf.reduce_sum(directions * logits, axis=1),
        atol=1e-5,
    )


def test_an_ngram_contributes_to_each_of_its_tokens_alike():
    model = ngrams.NGrams(
        np.array([2, 3 * V + 4, (3 * V + 4) * V + 5]),
        np.array([2, 3, 6], np.float32),
        np.array([[14], [21], [42]], np.float32),
        np.array([100], np.float32),
    )
    ids = np.array([2, 3, 4, 5, 2, 1], np.int32)
    none = np.zeros(len(ids), np.int32)
    features = ngrams.features(
        model, ids, none, none, is_special=IS_SPECIAL, num_documents=1
    )
    found = ngrams.contributions(model, features, np.array([[-1]], np.float32))
    # The features have length 7; the word stands in two places.
    np.testing.assert_allclose(
        found, [-1, -1.5 - 2, -1.5 - 2, -2, -1, 0], atol=1e-6
    )


def test_the_strongest_are_those_that_tell_a_class_from_the_others():
    keys = np.array([11, 12, 13, 14])
    one = np.array([[-2.0], [3.0], [0.0], [1.0]])
    assert ngrams.strongest(keys, one, 2) == [[11], [12, 14]]
    # The first says much for all classes, and so nothing.
    three = np.array([[9, 9, 9], [1, 0, -1], [0, 3, 0], [1, 0, 5]])
    assert ngrams.strongest(keys, three, 3) == [[12], [13], [14]]


def test_repeated_and_unknown_ngrams_change_nothing():
    model, _ = ngram_fitting.fit(
        planted(100, 2),
        planted(20, 2),
        is_special=IS_SPECIAL,
        class_weights=np.ones(2),
    )
    texts = [[5, 6, 1, 5, 6], [5, 6], [1, 1], []]
    found = answers(model, documents(texts, [0] * 4)).numpy()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2:], [model.bias] * 2)


def test_joined_groups_keep_documents_apart():
    a, b = documents([[2, 3], [4]], [0, 1]), documents([[5]], [1])
    both = Documents.joined([a, b])
    whole = documents([[2, 3], [4], [5]], [0, 1, 1])
    for found, expected in zip(both, whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not len(Documents.joined([]).labels)


def test_it_is_saved_whole(tmp_path):
    model, facts = ngram_fitting.fit(
        planted(50, 3),
        planted(9, 3),
        is_special=IS_SPECIAL,
        class_weights=np.ones(3),
    )
    assert ngrams.read_facts(str(tmp_path)) == {}
    model.save(str(tmp_path), {**facts, "fingerprint": "abc"})
    loaded = ngrams.NGrams.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.coefficients, model.coefficients)
    assert ngrams.read_facts(str(tmp_path))["fingerprint"] == "abc"
    file = tmp_path / ngrams.DIRECTORY / "ngrams.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(storage.DamagedError):
        ngrams.NGrams.load(str(tmp_path))


@pytest.mark.parametrize("width", [1, 3])
def test_a_useless_part_gets_no_weight_and_the_sum_is_calibrated(width):
    random = np.random.default_rng(0)
    labels = random.integers(0, max(2, width), 4_000)
    wanted = labels[:, np.newaxis] == np.arange(max(2, width))
    # Of two classes the logit of the second; the truth is half as sure.
    logits = random.normal(size=wanted.shape) + 2 * wanted
    true = (logits - logits[:, :1])[:, 1:] if width == 1 else logits
    noise = random.normal(size=true.shape)
    alike = np.ones(len(labels))
    weights, bias = ngrams.combine([4 * true, noise], labels, alike)
    assert weights[1] < 0.1
    mixed = np.tensordot(weights, [4 * true, noise], 1) + bias
    before, _ = ngrams.measure(4 * true, labels, alike)
    after, _ = ngrams.measure(mixed, labels, alike)
    best, _ = ngrams.measure(2 * true, labels, alike)
    assert after < before and after < best + 0.01


def test_without_documents_the_parts_count_alike():
    weights, bias = ngrams.combine(
        [np.zeros([0, 3])] * 2, np.zeros([0], np.int64), np.zeros([0])
    )
    np.testing.assert_allclose(weights, 0.5, atol=1e-6)
    np.testing.assert_allclose(bias, 0.0, atol=1e-6)


def test_a_document_counts_as_many_as_its_weight_says():
    random = np.random.default_rng(2)
    labels, logits = random.integers(0, 3, 300), random.normal(size=[300, 3])
    often = random.integers(1, 4, 300)
    repeated = [np.repeat(logits, often, axis=0)], np.repeat(labels, often)
    for found, expected in (
        (
            ngrams.combine([logits], labels, often),
            ngrams.combine(*repeated, np.ones(often.sum())),
        ),
        (
            ngrams.measure(logits, labels, often),
            ngrams.measure(*repeated[0], repeated[1], np.ones(often.sum())),
        ),
    ):
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-3)


def test_parts_with_several_labels_are_calibrated():
    random = np.random.default_rng(0)
    logits = random.normal(size=[4_000, 3]) * 3 - [0, 1, 2]
    labels = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    alike = np.ones(len(labels))
    noise = random.normal(size=logits.shape)
    weights, bias = ngrams.combine(
        [2 * logits + [1, 0, -1], noise], labels, alike
    )
    np.testing.assert_allclose(weights, [0.5, 0], atol=0.05)
    np.testing.assert_allclose(bias, [-0.5, 0, 0.5], atol=0.15)
