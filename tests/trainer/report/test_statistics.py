"""Every metric by hand, every range against theory or a second way."""

import math

import numpy as np
import pytest
from sklearn import metrics

from trainer.report import f1, statistics

LABELS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])


def many(number=4_000, classes=3, seed=1):
    """Labels drawn from the very probabilities: perfectly calibrated."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), size=number)
    places = probabilities.cumsum(axis=1) < random.random([number, 1])
    return np.minimum(places.sum(axis=1), classes - 1), probabilities


def test_four_documents_by_hand():
    # 0.9 right, 0.6 wrong, 0.8 right, 0.7 right: 0.75 claimed, 0.75 true.
    results = statistics.results(LABELS, PROBABILITIES)
    assert results.loss.value == pytest.approx(
        -(math.log(0.9) + math.log(0.4) + math.log(0.8) + math.log(0.7)) / 4
    )
    assert results.accuracy.value == 0.75
    # Of class 1: two right, none missed, one false: 2 * 2 / (2 + 3).
    second = results.classes[1]
    assert second.f1.value == pytest.approx(0.8)
    assert (second.support, second.errors) == (2, 1)
    assert second.precision == statistics.wilson(2, 3)
    assert second.recall == statistics.wilson(2, 2)
    # Of class 0: one right, one missed.
    assert results.micro_f1.value == pytest.approx(results.accuracy.value)
    assert results.macro_f1.value == pytest.approx((0.8 + 2 / 3) / 2)
    assert results.balanced_accuracy.value == 0.75
    assert results.confusion.tolist() == [[1, 1], [0, 2]]
    assert results.overconfidence.value == pytest.approx(0)
    bins = results.reliability
    assert [*np.flatnonzero(bins.counts)] == [8, 10, 11, 13]
    assert bins.confidence[8] == pytest.approx(0.6)
    assert bins.accuracy[[8, 10, 11, 13]].tolist() == [0, 1, 1, 1]
    sure = statistics.results(LABELS, np.eye(2)[[0, 1, 1, 1]]).overconfidence
    # 1 less the range of 3 of 4.
    accuracy = statistics.wilson(3, 4)
    assert (sure.value, sure.low, sure.high) == pytest.approx(
        (0.25, 1 - accuracy.high, 1 - accuracy.low)
    )


@pytest.mark.parametrize(
    ("confidence", "place"), [(0.5, 7), (0.6, 8), (0.61, 9), (1.0, 14)]
)
def test_a_bin_ends_at_its_upper_edge(confidence, place):
    probabilities = np.array([[confidence, 1 - confidence]])
    results = statistics.results(np.array([0]), probabilities)
    assert results.reliability.counts[place] == 1


def test_scores_by_class_are_those_of_scikit_learn():
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 300)  # Class 4 has no document,
    answers = random.choice([0, 1, 3, 4], 300)  # class 2 no answer,
    results = statistics.results(labels, np.eye(6)[answers])  # 5 is nowhere.
    expected = metrics.precision_recall_fscore_support(
        labels, answers, labels=range(6), zero_division=0
    )
    for found, *values in zip(results.classes, *expected, strict=True):
        assert values == pytest.approx(
            [
                found.precision.value,
                found.recall.value,
                found.f1.value,
                found.support,
            ]
        )
    assert results.macro_f1.value == pytest.approx(
        metrics.f1_score(labels, answers, average="macro")
    )
    assert results.balanced_accuracy.value == pytest.approx(
        metrics.recall_score(labels, answers, labels=range(4), average="macro")
    )
    nowhere = results.classes[5]
    assert (nowhere.precision.low, nowhere.precision.high) == (0, 1)


def test_what_is_confused_most_comes_first():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    answers = np.array([1, 1, 0, 0, 1, 2, 2, 2, 0])
    found = statistics.results(labels, np.eye(3)[answers])
    assert found.confused(2) == [(0, 1, 2), (1, 0, 1)]
    assert len(found.confused(9)) == 3
    assert found.by_harm == [0, 1, 2]
    assert [c.errors for c in found.classes] == [4, 3, 1]


def test_sure_and_wrong_costs_what_the_clip_says():
    results = statistics.results(np.array([0, 1]), np.eye(2)[[0, 0]])
    assert results.loss.value == pytest.approx(-math.log(1e-7) / 2)
    right = statistics.results(np.array([0]), np.eye(2)[[0]]).loss.value
    assert math.copysign(1, right) == 1  # Not -0.0.


def test_one_document_says_nothing_about_others():
    results = statistics.results(LABELS[:1], PROBABILITIES[:1])
    assert (results.macro_f1.low, results.macro_f1.high) == (0, 1)
    assert results.loss.low == 0
    assert results.accuracy.low == pytest.approx(0.2065, abs=1e-4)
    assert results.accuracy.high == 1


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    # Newcombe (1998), table I.
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_as_in_the_books(right, number, low, high):
    found = statistics.wilson(right, number)
    assert found.value == right / number
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_the_range_of_a_mean_is_that_of_theory():
    labels, probabilities = many()
    loss = statistics.results(labels, probabilities).loss
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    spread = 1.96 * losses.std() / math.sqrt(len(labels))
    assert loss.low == pytest.approx(loss.value - spread, abs=0.1 * spread)
    assert loss.high == pytest.approx(loss.value + spread, abs=0.1 * spread)


def test_the_range_of_f1_is_that_of_resampling_one_by_one():
    labels, probabilities = many(300, classes=2)
    answers = probabilities.argmax(axis=1)
    random, scores = np.random.default_rng(5), []
    for _ in range(2_000):
        drawn = random.integers(300, size=300)
        a, b = answers[drawn], labels[drawn]
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    low, high = np.quantile(scores, [0.025, 0.975])
    found = statistics.results(labels, probabilities).classes[1].f1
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)
    assert found.low < found.value < found.high


def test_a_class_without_errors_is_not_sure_to_have_none():
    labels = np.repeat([0, 1], [100, 5])
    many, few = statistics.results(labels, np.eye(2)[labels]).classes
    assert many.f1.value == few.f1.value == few.f1.high == 1
    # What 5 of 5 show is in the books; 2 F* / (1 + F*).
    assert few.precision.low == pytest.approx(0.5655, abs=1e-4)
    assert few.f1.low == pytest.approx(2 * 0.5655 / 1.5655, abs=1e-4)
    assert few.f1.low < 0.95 < many.f1.low < 0.99


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_the_range_of_f1_covers_the_truth(rate):
    random, hits = np.random.default_rng(8), 0
    for _ in range(400):
        labels = random.random(60) < 0.5
        answers = labels ^ (random.random(60) < rate)
        f1 = statistics.f_measure(
            int((labels & answers).sum()), int((labels | answers).sum())
        )
        hits += f1.low <= 1 - rate <= f1.high
    # 95 % of 400 are 380, with a standard deviation of 4.
    assert hits >= 372


@pytest.mark.parametrize(("number", "exponent"), [(30, 1.0), (1_000, 1.3)])
def test_the_range_of_overconfidence_covers_the_truth(
    number, exponent, monkeypatch
):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 2)  # Not needed here.

    def sharpened(number, seed):
        labels, probabilities = many(number, classes=2, seed=seed)
        probabilities = probabilities**exponent
        return statistics.results(
            labels, probabilities / probabilities.sum(axis=1, keepdims=True)
        ).overconfidence

    # What is perfectly calibrated has no error at all.
    truth = 0.0 if exponent == 1 else sharpened(1_000_000, 999).value
    found = [sharpened(number, seed) for seed in range(200)]
    hits = sum(error.low <= truth <= error.high for error in found)
    # 95 % of 200 are 190, with a standard deviation of 3.
    assert hits >= 184
    assert exponent == 1 or truth > 0.02


@pytest.mark.parametrize("seed", range(10))
def test_every_interval_contains_its_estimate(seed):
    random = np.random.default_rng(seed)
    number, classes = random.integers(1, 30), random.integers(2, 6)
    sharpness = random.choice([0.01, 0.1, 1.0, 10.0])
    probabilities, control = random.dirichlet(
        np.full(classes, sharpness), size=[2, number]
    )
    answers = probabilities.argmax(axis=1)
    labels = np.where(
        random.random(number) < random.choice([0, 0.5, 0.9, 1]),
        answers,
        random.integers(classes, size=number),
    )
    found = statistics.results(labels, probabilities)
    gains = statistics.paired_gain(labels, probabilities, control)
    for estimate in (
        found.loss,
        found.accuracy,
        found.macro_f1,
        found.balanced_accuracy,
        *(c.f1 for c in found.classes),
        found.overconfidence,
        *gains.values(),
    ):
        assert estimate.low <= estimate.value <= estimate.high
    assert 0 <= found.macro_f1.low <= found.macro_f1.high <= 1
    assert 0 <= found.loss.low


def test_a_gain_on_the_same_documents_is_surer_than_on_others():
    labels, control = many(2_000, classes=2)
    better = control.copy()
    wrong = np.flatnonzero(control.argmax(axis=1) != labels)[:40]
    better[wrong] = better[wrong, ::-1]
    gain = statistics.paired_gain(labels, better, control)
    assert gain["accuracy"].value == pytest.approx(40 / 2_000)
    # Forty gains and no loss: sqrt(40) / 2000 is their standard error.
    width = 2 * 1.96 * math.sqrt(40) / 2_000
    found = gain["accuracy"].high - gain["accuracy"].low
    assert found == pytest.approx(width, rel=0.1)
    assert gain["accuracy"].low > 0
    assert gain["loss"].high < 0


def several(number, seed=0):
    random = np.random.default_rng(seed)
    labels = random.random([number, 4]) < [0.6, 0.3, 0.1, 0.0]
    noise = random.normal(size=labels.shape)
    return labels, 1 / (1 + np.exp(noise - 3 * (labels - 0.5)))


def test_several_labels_as_scikit_learn_counts_them():
    labels, probabilities = several(300)
    answers = probabilities >= 0.5
    results = statistics.results(labels, probabilities)
    assert results.accuracy.value == metrics.accuracy_score(labels, answers)
    for average, found in (
        ("micro", results.micro_f1),
        # Class 3 is in no label, but answered.
        ("macro", results.macro_f1),
    ):
        expected = metrics.f1_score(labels, answers, average=average)
        assert found.value == pytest.approx(expected)
        assert found.low < expected < found.high
    columns = metrics.precision_recall_fscore_support(
        labels, answers, zero_division=0
    )
    for one, (precision, recall, f1_, support) in zip(
        results.classes, zip(*columns, strict=True), strict=True
    ):
        assert one.support == support
        assert one.precision.value == pytest.approx(precision)
        assert one.recall.value == pytest.approx(recall)
        assert one.f1.value == pytest.approx(f1_)
    errors = (labels != answers).sum(axis=0)
    assert [one.errors for one in results.classes] == errors.tolist()
    assert errors[results.by_harm[0]] == errors.max()
    assert results.loss.value == pytest.approx(
        4 * metrics.log_loss(labels.ravel(), probabilities.ravel())
    )
    assert results.confused(5) == []
    sure = np.maximum(probabilities, 1 - probabilities).prod(axis=1)
    assert results.overconfidence.value == pytest.approx(
        sure.mean() - results.accuracy.value
    )


def test_resamples_in_parts_are_the_same(monkeypatch):
    labels, probabilities = several(40)
    whole = statistics.results(labels, probabilities).micro_f1
    monkeypatch.setattr(f1, "_AT_ONCE", 100)
    assert statistics.results(labels, probabilities).micro_f1 == whole


def test_gains_with_several_labels_are_of_exact_matches_and_of_micro_f1():
    labels, control = several(400)
    better = np.where(np.arange(400)[:, np.newaxis] < 20, labels, control)
    gain = statistics.paired_gain(labels, better, control)
    wrong = ((control >= 0.5) != labels).any(axis=1)[:20]
    assert gain["accuracy"].value == pytest.approx(wrong.sum() / 400)
    assert gain["loss"].value < 0

    def difference(rows):
        return np.subtract(
            *(
                metrics.f1_score(labels[rows], p[rows] >= 0.5, average="micro")
                for p in (better, control)
            )
        )

    found = gain["micro_f1"]
    assert found.value == pytest.approx(difference(np.arange(400)))
    random = np.random.default_rng(0)
    drawn = [difference(random.integers(0, 400, 400)) for _ in range(300)]
    # As wide as a bootstrap of the documents finds it.
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(
        np.std(drawn), rel=0.15
    )
    nothing = statistics.paired_gain(labels, control, control)["micro_f1"]
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_a_micro_f1_of_no_labels_at_all_gains_nothing():
    none = np.zeros([3, 2], bool)
    found = statistics.paired_gain(none, none * 0.1, none * 0.2)["micro_f1"]
    assert (found.value, found.low, found.high) == (0, 0, 0)
