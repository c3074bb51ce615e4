"""How good a classifier is, and how sure that is: every number with its range.

Every range is a 95 % interval. N documents, C classes, R resamples.
"""

import dataclasses
import math

import numpy as np

NUM_BINS = 15  # Of confidence, of equal width.
NUM_RESAMPLES = 2_000
# The lowest probability that counts, about the resolution of float32 near 1:
# one document, sure and wrong, costs 16.1 nats and not infinitely many.
MIN_PROBABILITY = 1e-7

_WORST_LOSS = -math.log(MIN_PROBABILITY)
_LEVEL = (0.025, 0.975)
_SEED = 0
_AT_ONCE = 4_000_000  # Resampled documents in memory.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the 95 % interval around it."""

    value: float
    low: float
    high: float

    @classmethod
    def within(cls, value: float, low: float, high: float) -> "Estimate":
        """An estimate whose interval is widened to reach it if need be."""
        return cls(value, min(float(low), value), max(float(high), value))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What the classifier claims and what is true, by confidence.

    Attributes:
      counts: int [15], documents whose highest probability lies in the bin.
      confidence: float [15], the mean of it; 0 in an empty bin.
      accuracy: float [15], the share that is right; 0 in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


@dataclasses.dataclass(frozen=True)
class OfClass:
    """How well one class is told from the others.

    Attributes:
      support: documents with this label.
      errors: those of them with another answer, and those of other classes
        with this answer.
      precision: share of the documents with this answer that have the label,
        with Wilson's range; 0 to 1 where there is none.
      recall: share of the documents with the label that have the answer,
        likewise.
      f1: harmonic mean of both, see `f_measure`; 0 where neither label nor
        answer occurs.
    """

    support: int
    errors: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclasses.dataclass(frozen=True)
class Results:
    """A classifier on N documents.

    Attributes:
      loss: cross-entropy in nats, probabilities clipped to 1e-7.
      accuracy: share of documents whose likeliest class is right. Its range
        is Wilson's, because a bootstrap of no errors at all has no width.
      macro_f1: mean F1 of the classes that occur among labels or answers.
      balanced_accuracy: mean recall of the classes that occur among labels.
      classes: each of the C classes.
      overconfidence: mean confidence minus accuracy; below 0, the classifier
        is too careful ("calibration in the large", Cox 1958, "Two Further
        Applications of a Model for Binary Regression"). The confidences are
        known, so its range is that of the accuracy. Unlike the expected
        calibration error over bins, it has no bias for a finite number of
        documents, so that its interval holds where there is no error at all.
      confusion: int [C, C], documents by label (row) and answer (column).
      reliability: confidence and accuracy in bins of confidence.
    """

    loss: Estimate
    accuracy: Estimate
    macro_f1: Estimate
    balanced_accuracy: Estimate
    classes: list[OfClass]
    overconfidence: Estimate
    confusion: np.ndarray
    reliability: Reliability

    @property
    def by_harm(self) -> list[int]:
        """The classes, those with most errors first, then by lower F1."""
        found = self.classes
        return sorted(
            range(len(found)),
            key=lambda c: (-found[c].errors, found[c].f1.value),
        )

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """The commonest errors: (label, answer, number of documents)."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            (int(a), int(b), int(wrong[a, b])) for a, b in pairs if wrong[a, b]
        ]


def results(
    labels: np.ndarray,
    probabilities: np.ndarray,
    confidences: np.ndarray | None = None,
) -> Results:
    """Every metric of at least one document.

    Args:
      labels: int [N].
      probabilities: float [N, C] of at least 2 classes.
      confidences: float [N], the calibrated probability of the likeliest
        class; None = its probability.

    The ranges of loss, macro F1 and balanced accuracy are percentiles of a
    bootstrap over documents. The interval of a single document is all that is
    possible.
    """
    probabilities = np.asarray(probabilities, np.float64)
    _require_distributions(labels, probabilities)
    number, num_classes = probabilities.shape
    answers = probabilities.argmax(axis=1)
    accuracy = wilson(int((answers == labels).sum()), number)
    if confidences is None:
        confidences = probabilities.max(axis=1)
    confidence = float(confidences.mean())
    cells = np.bincount(
        labels * num_classes + answers, minlength=num_classes**2
    )
    confusion = cells.reshape(num_classes, num_classes)
    right, supports, answered = (
        np.diag(confusion),
        confusion.sum(axis=1),
        confusion.sum(axis=0),
    )
    # The scores depend on the counts of the confusion matrix alone, and those
    # of a resample have a multinomial distribution.
    pairs = np.nonzero(confusion)
    drawn = np.random.default_rng(_SEED).multinomial(
        number, confusion[pairs] / number, size=NUM_RESAMPLES
    )
    low, high = np.quantile(_scores(drawn, pairs, num_classes), _LEVEL, axis=0)
    if number == 1:  # Every resample is the document itself.
        low, high = np.zeros_like(low), np.ones_like(high)
    values = _scores(confusion[pairs], pairs, num_classes)
    *_, macro_f1, balanced_accuracy = map(Estimate.within, values, low, high)
    return Results(
        loss=_mean(_losses(labels, probabilities), 0.0, _WORST_LOSS),
        accuracy=accuracy,
        macro_f1=macro_f1,
        balanced_accuracy=balanced_accuracy,
        classes=[
            OfClass(
                support=int(supports[c]),
                errors=int(supports[c] + answered[c] - 2 * right[c]),
                precision=wilson(int(right[c]), int(answered[c])),
                recall=wilson(int(right[c]), int(supports[c])),
                f1=f_measure(
                    int(right[c]), int(supports[c] + answered[c] - right[c])
                ),
            )
            for c in range(num_classes)
        ],
        overconfidence=Estimate.within(
            confidence - accuracy.value,
            confidence - accuracy.high,
            confidence - accuracy.low,
        ),
        confusion=confusion,
        reliability=_reliability(answers == labels, confidences),
    )


def paired_gain(
    labels: np.ndarray, probabilities: np.ndarray, control: np.ndarray
) -> dict[str, Estimate]:
    """How much better than a control on the same documents, in the same order.

    The bootstrap draws documents, not answers, so that what is hard for both
    runs cancels.

    Args:
      labels: int [N].
      probabilities: float [N, C].
      control: float [N, C], of the other run.

    Returns:
      `accuracy` (gained) and `loss` (in nats; below 0 is better).
    """
    probabilities = np.asarray(probabilities, np.float64)
    control = np.asarray(control, np.float64)
    _require_distributions(labels, probabilities)
    _require_distributions(labels, control)
    right, right_before = (
        (p.argmax(axis=1) == labels).astype(np.float64)
        for p in (probabilities, control)
    )
    losses = _losses(labels, probabilities) - _losses(labels, control)
    return {
        "accuracy": _mean(right - right_before, -1.0, 1.0),
        "loss": _mean(losses, -_WORST_LOSS, _WORST_LOSS),
    }


def wilson(right: int, number: int) -> Estimate:
    """The share `right` of `number`, with Wilson's score interval (1927).

    Of no documents at all it is 0, with a range from 0 to 1.
    """
    from scipy import stats  # Takes a second to import.

    if not number:
        return Estimate(0.0, 0.0, 1.0)
    interval = stats.binomtest(right, number).proportion_ci(method="wilson")
    return Estimate.within(right / number, interval.low, interval.high)


def f_measure(right: int, number: int) -> Estimate:
    """F1 of a class that `number` documents have as label or answer or both.

    `right` of them have both. This share is F* (Hand et al., "F*: an
    Interpretable Transformation of the F-measure", 2021), from which F1 is
    2 F* / (1 + F*), and so is its range from Wilson's: a bootstrap of no errors
    at all would have no width.
    """
    share = wilson(right, number)
    return Estimate(
        *(2 * x / (1 + x) for x in (share.value, share.low, share.high))
    )


def _require_distributions(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    number, num_classes = probabilities.shape
    assert number == len(labels) > 0 and num_classes > 1
    assert 0 <= labels.min() and labels.max() < num_classes
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Nats, float [N]."""
    true = probabilities[np.arange(len(labels)), labels]
    # 1.0 first: -log(1.0) is -0.0.
    return np.log(1.0 / np.clip(true, MIN_PROBABILITY, 1.0))


def _mean(values: np.ndarray, lowest: float, highest: float) -> Estimate:
    """The mean of values float [N] between two limits, with its range."""
    from scipy import stats

    value = float(values.mean())
    if len(values) == 1:  # Every resample is the document itself.
        return Estimate.within(value, lowest, highest)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, _AT_ONCE // len(values)),
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return Estimate.within(value, *found.confidence_interval)


def _scores(
    counts: np.ndarray, pairs: tuple[np.ndarray, ...], num_classes: int
) -> np.ndarray:
    """The F1 of each class, their mean, and the mean recall: [..., C + 2].

    Args:
      counts: [..., P], documents of each pair.
      pairs: labels and answers, int [P] each.
      num_classes: C.
    """
    from scipy import sparse

    one_hot = [
        sparse.csr_array(
            (np.ones(len(of)), of, np.arange(len(of) + 1)),
            shape=(len(of), num_classes),
        )
        for of in pairs
    ]  # [P, C] each
    label, answer = (counts @ of for of in one_hot)  # [..., C]
    right = np.where(pairs[0] == pairs[1], counts, 0) @ one_hot[0]
    f1 = 2 * right / np.maximum(label + answer, 1)
    means = [
        score.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
        for score, occurs in (
            (f1, label + answer > 0),
            (right / np.maximum(label, 1), label > 0),
        )
    ]
    return np.concatenate([f1, np.stack(means, axis=-1)], axis=-1)


def _reliability(is_right: np.ndarray, confidences: np.ndarray) -> Reliability:
    """Bin m holds the confidences in (m / 15, (m + 1) / 15]."""
    places = np.ceil(confidences * NUM_BINS).astype(np.int64) - 1
    places = np.clip(places, 0, NUM_BINS - 1)
    counts = np.bincount(places, minlength=NUM_BINS)
    confidence, accuracy = (
        np.bincount(places, weights=values, minlength=NUM_BINS)
        / np.maximum(counts, 1)
        for values in (confidences, is_right)
    )
    return Reliability(counts, confidence, accuracy)
