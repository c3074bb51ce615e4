"""Fitting n-grams to labels, and to text without labels as well."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from input_pipeline.documents import Documents
from tests.trainer.test_ngrams import (
    IS_SPECIAL,
    V,
    accuracy,
    answers,
    documents,
    keys_of,
    planted,
)
from trainer import ngrams
from trainer.stages import ngram_fitting


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
        return answers(model, Documents(ids, segments, owners, test.labels))

    found = answer(*map(tf.constant, test[:3]))
    assert accuracy(found.numpy(), test.labels) == 1.0
    # By hand, from the definition: present or absent, length 1.
    first = test.owners == 0
    keys = {key for key, _ in keys_of(test.token_ids[first], [0] * first.sum())}
    at = np.flatnonzero(np.isin(model.keys, [*keys]))
    length = np.sqrt((model.scales[at].astype(np.float64) ** 2).sum())
    by_hand = model.coefficients[at].sum(axis=0) / length + model.bias
    np.testing.assert_allclose(found[0], by_hand, rtol=1e-5)


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
    found = answers(model, test, known["is_special"])
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
        found = answers(model, test, np.arange(70) < 2)
        # As in the classifier.
        (slope,), bias = ngrams.combine(
            [model.validation],
            validation.labels,
            class_weights[validation.labels],
        )
        said = slope * found.numpy()[:, 0] + bias[0] > 0
        scores.append(metrics.f1_score(test.labels, said, average="macro"))
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
    found = answers(model, test).numpy()
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


def test_a_document_of_several_labels_is_one_document():
    """The scales by hand: its n-grams count once outside of each class."""
    text = documents([[2], [2], [3], [3]], [0] * 4)
    labels = np.array([[1, 1], [1, 0], [1, 0], [0, 1]], bool)
    text = text._replace(labels=labels)
    model, _ = ngram_fitting.fit(
        text, text, is_special=IS_SPECIAL, class_weights=np.ones(2)
    )
    # Each text is learned twice, because it is the validation, too. Of class 0,
    # with one added to each count: 5 and 3 inside, 1 and 3 outside.
    ratios = np.log([(5 / 8) / (1 / 4), (3 / 4) / (3 / 8)])
    expected = np.sqrt(ratios * (1 + np.log(9 / 5)))
    np.testing.assert_allclose(model.scales, expected, rtol=1e-6)
