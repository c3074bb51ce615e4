"""Tests of trainer/ngrams.py."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

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


@pytest.mark.parametrize("num_classes", [2, 3])
def test_word_order_is_learned_and_a_graph_answers_alike(num_classes):
    model, facts = ngram_fitting.fit(
        planted(400, num_classes),
        planted(60, num_classes, seed=1),
        is_special=IS_SPECIAL,
        class_weights=np.ones(num_classes),
    )
    assert facts["accuracy"] == 1.0
    test = planted(80, num_classes, seed=2)

    @tf.function
    def answer(ids, segments, owners):
        return ngrams.logits(
            model,
            ids,
            segments,
            owners,
            is_special=IS_SPECIAL,
            num_documents=80,
        )

    found = answer(*map(tf.constant, test[:3]))
    assert accuracy(found.numpy(), test.labels) == 1.0
    # By hand, from the definition: present or absent, length 1.
    first = test.owners == 0
    keys = {key for key, _ in keys_of(test.token_ids[first], [0] * first.sum())}
    at = np.flatnonzero(np.isin(model.keys, [*keys]))
    length = np.sqrt((model.scales[at].astype(np.float64) ** 2).sum())
    by_hand = model.coefficients[at].sum(axis=0) / length + model.bias
    np.testing.assert_allclose(found[0], by_hand, rtol=1e-5)


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
    shared = {"is_special": IS_SPECIAL, "num_documents": 5}
    found = ngrams.contributions(model, *tokens, directions, **shared)
    logits = ngrams.logits(model, *tokens, **shared) - model.bias
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
    found = ngrams.contributions(
        model,
        *(ids, none, none, np.array([[-1]], np.float32)),
        is_special=IS_SPECIAL,
        num_documents=1,
    )
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


def test_many_rare_words_are_learned():
    """Each of 1,000 words tells the class, and stands in four documents."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 1_000)
    words = 10 + 2 * random.permutation(np.arange(2_000) % 500) + labels
    texts = [[*random.integers(2, 10, 12), word] for word in words]
    text = documents(texts, labels)
    model, facts = ngram_fitting.fit(
        text, text, is_special=np.arange(1_010) < 2, class_weights=np.ones(2)
    )
    assert facts["accuracy"] == 1.0
    assert facts["loss"] < 0.1
    assert facts["strength"] == ngram_fitting.STRENGTHS[-1]


def rare_words(number, seed):
    """Five of the 100 words that a class has to itself, in each document."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    words = (
        2 + 100 * labels[:, np.newaxis] + random.integers(0, 100, (number, 5))
    )
    return documents([*words], labels)


@pytest.mark.parametrize(
    ("alone", "value", "way"),
    [("_ROUNDS", 0, "naive_bayes"), ("_EM_ROUNDS", 1, "rounds")],
)
def test_text_without_labels_teaches_what_labels_do_not_cover(
    monkeypatch, alone, value, way
):
    """Twelve documents show a part of the words; others tell what goes along.

    Each of the two ways can do that without the other. What the documents
    without a label have as labels is not looked at.
    """
    monkeypatch.setattr(ngram_fitting, alone, value)
    known = {"is_special": np.arange(202) < 2, "class_weights": np.ones(2)}
    train, validation = rare_words(12, 0), rare_words(300, 1)
    unlabelled = rare_words(3_000, 2)
    _, before = ngram_fitting.fit(train, validation, **known)
    model, facts = ngram_fitting.fit(
        train, validation, unlabelled=unlabelled, **known
    )
    assert before["accuracy"] < 0.95
    assert facts["accuracy"] > 0.98
    assert way in facts
    test = rare_words(200, 3)
    found = ngrams.logits(
        model,
        *test[:3],
        is_special=known["is_special"],
        num_documents=200,
    )
    assert accuracy(found.numpy(), test.labels) > 0.95
    wrong = unlabelled._replace(labels=1 - unlabelled.labels)
    again, _ = ngram_fitting.fit(train, validation, unlabelled=wrong, **known)
    np.testing.assert_array_equal(model.coefficients, again.coefficients)


def test_a_class_may_have_no_ngram_that_counts():
    """Its words occur once: among so many documents they are left out."""
    alone = documents([[*range(202, 207)]], [2])
    train = Documents.joined([rare_words(12, 0), alone])
    with np.errstate(divide="raise", invalid="raise"):
        model, facts = ngram_fitting.fit(
            train,
            rare_words(100, 1),
            unlabelled=rare_words(3_000, 2),
            is_special=np.arange(210) < 2,
            class_weights=np.ones(3),
        )
    assert facts["accuracy"] > 0.9
    assert np.isfinite(model.coefficients).all()


def test_repeated_and_unknown_ngrams_change_nothing():
    model, _ = ngram_fitting.fit(
        planted(100, 2),
        planted(20, 2),
        is_special=IS_SPECIAL,
        class_weights=np.ones(2),
    )
    texts = [[5, 6, 1, 5, 6], [5, 6], [1, 1], []]
    found = ngrams.logits(
        model,
        *documents(texts, [0] * 4)[:3],
        is_special=IS_SPECIAL,
        num_documents=4,
    ).numpy()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2:], [model.bias] * 2)


def test_text_of_unknown_words_gives_the_bias():
    nothing = documents([[1], [1], [1]], [0, 1, 1])
    model, facts = ngram_fitting.fit(
        nothing, nothing, is_special=IS_SPECIAL, class_weights=np.ones(2)
    )
    assert facts["accuracy"] == pytest.approx(2 / 3)
    assert model.coefficients.shape == (1, 1)


@pytest.mark.parametrize(("number", "again"), [(9, False), (11, True)])
def test_many_validation_documents_are_learned_too(number, again):
    train, words = planted(100, 2), [[2, 2]] * number
    validation = documents(words, [0, 1] * (number // 2) + [1])
    model, _ = ngram_fitting.fit(
        train, validation, is_special=IS_SPECIAL, class_weights=np.ones(2)
    )
    before, _ = ngram_fitting.fit(
        train, planted(9, 2), is_special=IS_SPECIAL, class_weights=np.ones(2)
    )
    key = 2 * V + 2
    assert key not in before.keys
    assert (key in model.keys) == again
    # What they are judged by has not seen them.
    assert model.validation.shape == (number, 1)
    assert len(np.unique(model.validation)) == 1


def test_the_commonest_are_kept(monkeypatch):
    monkeypatch.setattr(ngram_fitting, "MAX_NGRAMS", 2)
    train = documents([[2, 3], [2, 3], [4, 2], [2]], [0, 0, 1, 1])
    model, _ = ngram_fitting.fit(
        train, train, is_special=IS_SPECIAL, class_weights=np.ones(2)
    )
    # Four documents have 2 and two have 3; the bigram (2, 3) comes behind.
    assert list(model.keys) == [2, 3]


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="finetune.ngrams=False"):
        ngram_fitting.fit(
            planted(4, 2),
            planted(4, 2),
            is_special=np.zeros(2**21 + 1, bool),
            class_weights=np.ones(2),
        )


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


def test_balanced_classes_have_the_higher_macro_f1():
    """One document of the rare class in 20, and words that only hint at it."""

    def imbalanced(number, seed):
        random = np.random.default_rng(seed)
        labels = (np.arange(number) % 21 == 0).astype(np.int64)
        words = random.integers(2, 62, [number, 12])
        hints = np.flatnonzero(random.random(number) < 0.05 + 0.85 * labels)
        words[hints, 0] = 62 + random.integers(0, 8, len(hints))
        return documents([*words], labels)

    train, validation, test = map(imbalanced, (2_100, 420, 2_100), (0, 1, 2))
    scores = []
    for weights in ([1, 1], [21 / 40, 21 / 2]):
        class_weights = np.array(weights, np.float32)
        model, _ = ngram_fitting.fit(
            train,
            validation,
            is_special=np.arange(70) < 2,
            class_weights=class_weights,
        )
        found = ngrams.logits(
            model,
            *map(tf.constant, test[:3]),
            is_special=np.arange(70) < 2,
            num_documents=2_100,
        )
        # As in the classifier.
        (slope,), bias = ngrams.combine(
            [model.validation],
            validation.labels,
            class_weights[validation.labels],
        )
        answers = slope * found.numpy()[:, 0] + bias[0] > 0
        scores.append(metrics.f1_score(test.labels, answers, average="macro"))
    none, balanced = scores
    assert balanced > none + 0.1


def several(number, seed):
    """Bigrams tell classes 0 to 2, of which a document has any; all have 3."""
    random = np.random.default_rng(seed)
    labels = random.random([number, 4]) < [0.5, 0.4, 0.3, 1.0]
    texts = []
    for row in labels:
        signs = [np.array([[2, 3], [3, 2], [4, 4]][c]) for c in range(3)
                 if row[c]]  # fmt: skip
        parts = [random.integers(5, 11, 2), *signs, random.integers(5, 11, 2)]
        texts.append(np.concatenate(parts))
    return documents(texts, [0] * number)._replace(labels=labels)


def test_several_labels_are_learned_class_by_class():
    train, validation, test = several(800, 0), several(60, 1), several(200, 2)
    alike = np.ones(4, np.float32)
    model, facts = ngram_fitting.fit(
        train, validation, is_special=IS_SPECIAL, class_weights=alike
    )
    assert model.bias.shape == (4,) and not model.coefficients[:, 3].any()
    found = ngrams.logits(
        model,
        *map(tf.constant, test[:3]),
        is_special=IS_SPECIAL,
        num_documents=200,
    ).numpy()
    loss, exact = ngrams.measure(found, test.labels, np.ones(200))
    assert exact == ((found >= 0) == test.labels).all(axis=1).mean() > 0.9
    assert loss == pytest.approx(
        4
        * metrics.log_loss(
            test.labels.ravel(), 1 / (1 + np.exp(-found.ravel()))
        ),
        rel=1e-5,
    )
    # Only three regressions can be right where their regularisation is.
    assert facts["loss"] < 1


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
