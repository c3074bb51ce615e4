"""How good a classifier is, and how sure that is: every number with its range.

Every range is a 95 % interval. N documents, C classes, R resamples. Labels are
int [N]; or bool [N, C] where a document may have several, which are answered
with every class that has a probability of at least 0.5.
"""

import dataclasses
import math

import numpy as np

from trainer.report import f1

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
      loss: cross-entropy in nats, probabilities clipped to 1e-7; of several
        labels the sum over the classes.
      accuracy: share of documents whose likeliest class is right; of several
        labels, whose answer is right in every class ("exact match"). Its range
        is Wilson's, because a bootstrap of no errors at all has no width.
      micro_f1: F1 of all classes together; with one label it is the accuracy.
      macro_f1: mean F1 of the classes that occur among labels or answers.
      balanced_accuracy: mean recall of the classes that occur among labels.
      classes: each of the C classes.
      overconfidence: mean confidence minus accuracy; below 0, the classifier
        is too careful ("calibration in the large", Cox 1958, "Two Further
        Applications of a Model for Binary Regression"). The confidences are
        known, so its range is that of the accuracy. Unlike the expected
        calibration error over bins, it has no bias for a finite number of
        documents, so that its interval holds where there is no error at all.
      confusion: int [C, C], documents by label (row) and answer (column);
        [0, 0] where a document may have several labels.
      reliability: confidence and accuracy in bins of confidence.
    """

    loss: Estimate
    accuracy: Estimate
    micro_f1: Estimate
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
      labels: int [N], or bool [N, C].
      probabilities: float [N, C] of at least 2 classes.
      confidences: float [N], the calibrated probability of the answer, with
        several labels that of all of them; None = that of `probabilities`.

    The ranges of loss, macro F1 and balanced accuracy are percentiles of a
    bootstrap over documents. The interval of a single document is all that is
    possible.
    """
    probabilities = np.asarray(probabilities, np.float64)
    _require_probabilities(labels, probabilities)
    number, num_classes = probabilities.shape
    is_right = right_documents(labels, probabilities)
    accuracy = wilson(int(is_right.sum()), number)
    if confidences is None:
        confidences = np.maximum(probabilities, 1 - probabilities).prod(axis=1)
        if labels.ndim == 1:
            confidences = probabilities.max(axis=1)
    confidence = float(confidences.mean())
    said = answers(labels, probabilities)
    labelled, answered, counts = f1.distinct(labels, said, num_classes)
    confusion = np.zeros([0, 0], np.int64)
    if labels.ndim == 1:
        cells = (
            labelled.T @ answered.multiply(counts[:, np.newaxis])
        ).todense()
        confusion = np.rint(cells).astype(np.int64)
    supports, answer_counts, right = (
        np.rint(counts @ of).astype(int)
        for of in (labelled, answered, labelled.multiply(answered))
    )
    drawn = f1.resampled(
        counts, labelled, answered, number=NUM_RESAMPLES, seed=_SEED
    )
    low, high = np.quantile(drawn, _LEVEL, axis=0)
    if number == 1:  # Every resample is the document itself.
        low, high = np.zeros_like(low), np.ones_like(high)
    values = f1.scores(counts, labelled, answered)
    *_, macro_f1, micro_f1, balanced_accuracy = map(
        Estimate.within, values, low, high
    )
    worst = _WORST_LOSS * (1 if labels.ndim == 1 else num_classes)
    return Results(
        loss=_mean(losses(labels, probabilities), 0.0, worst),
        accuracy=accuracy,
        micro_f1=micro_f1,
        macro_f1=macro_f1,
        balanced_accuracy=balanced_accuracy,
        classes=[
            OfClass(
                support=int(supports[c]),
                errors=int(supports[c] + answer_counts[c] - 2 * right[c]),
                precision=wilson(int(right[c]), int(answer_counts[c])),
                recall=wilson(int(right[c]), int(supports[c])),
                f1=f_measure(
                    int(right[c]),
                    int(supports[c] + answer_counts[c] - right[c]),
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
        reliability=_reliability(is_right, confidences),
    )


def paired_gain(
    labels: np.ndarray, probabilities: np.ndarray, control: np.ndarray
) -> dict[str, Estimate]:
    """How much better than a control on the same documents, in the same order.

    The bootstrap draws documents, not answers, so that what is hard for both
    runs cancels.

    Args:
      labels: int [N], or bool [N, C].
      probabilities: float [N, C].
      control: float [N, C], of the other run.

    Returns:
      `accuracy` (gained; see `Results`) and `loss` (in nats; below 0 is
      better); where a document may have several labels, `micro_f1`, too.
    """
    probabilities = np.asarray(probabilities, np.float64)
    control = np.asarray(control, np.float64)
    _require_probabilities(labels, probabilities)
    _require_probabilities(labels, control)
    right, right_before = (
        right_documents(labels, p).astype(np.float64)
        for p in (probabilities, control)
    )
    gained = losses(labels, probabilities) - losses(labels, control)
    worst = _WORST_LOSS * (1 if labels.ndim == 1 else labels.shape[1])
    gains = {
        "accuracy": _mean(right - right_before, -1.0, 1.0),
        "loss": _mean(gained, -worst, worst),
    }
    if labels.ndim == 2:
        gains["micro_f1"] = _micro_f1_gain(labels, probabilities, control)
    return gains


def _micro_f1_gain(
    labels: np.ndarray, probabilities: np.ndarray, control: np.ndarray
) -> Estimate:
    """The difference of two ratios, with its range by the delta method."""
    value, influence = 0.0, np.zeros(len(labels))
    for sign, rates in ((1, probabilities), (-1, control)):
        answered = answers(labels, rates)
        right = 2 * (labels & answered).sum(axis=1)  # Of each document.
        total = (labels.astype(int) + answered).sum(axis=1)
        f1_of_all = right.sum() / max(total.sum(), 1)
        value += sign * f1_of_all
        influence += (
            sign * (right - f1_of_all * total) / max(total.mean(), 1e-9)
        )
    half = 1.96 * influence.std() / math.sqrt(len(labels))
    return Estimate(value, value - half, value + half)


def right_documents(
    labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """bool [N], whether all that is answered to a document is right."""
    is_right = answers(labels, probabilities) == labels
    return is_right.all(axis=1) if labels.ndim == 2 else is_right


def answers(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What is answered, in the form of the labels."""
    if labels.ndim == 2:
        return probabilities >= 0.5
    return probabilities.argmax(axis=1)


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


def losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Nats, float [N]."""
    true = true_probabilities(labels, probabilities)
    # 1.0 first: -log(1.0) is -0.0.
    return np.log(1.0 / np.clip(true, MIN_PROBABILITY, 1.0)).sum(axis=1)


def true_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Of the label [N, 1]; or of what is true of every class [N, C]."""
    if labels.ndim == 2:
        return np.where(labels, probabilities, 1 - probabilities)
    return probabilities[np.arange(len(labels)), labels, np.newaxis]


def _require_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    number, num_classes = probabilities.shape
    assert number == len(labels) > 0 and num_classes > 1
    if labels.ndim == 2:
        assert labels.dtype == bool and labels.shape == probabilities.shape
        return
    assert 0 <= labels.min() and labels.max() < num_classes
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)


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
