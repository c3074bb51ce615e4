"""How good a classifier is, and how sure that is: every number with its range.

Every metric is a function of sums over documents, so one set of resampled
sums (a bootstrap over documents) gives the ranges of all.
N documents, C classes, K sums, R resamples.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

NUM_BINS = 15  # Of confidence, of equal width.
NUM_RESAMPLES = 2_000
# The lowest probability that counts, about the resolution of float32 near 1:
# one document, sure and wrong, costs 16.1 nats and not infinitely many.
MIN_PROBABILITY = 1e-7

_WORST_LOSS = -math.log(MIN_PROBABILITY)
_LEVEL = (0.025, 0.975)
_NORMAL = 1.959964  # The same level, in standard deviations.
_AT_ONCE = 4_000_000  # Drawn documents in memory.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the 95 % interval around it."""

    value: float
    low: float
    high: float

    @classmethod
    def within(cls, value: float, low: float, high: float) -> "Estimate":
        """An estimate whose interval reaches to it, if it does not yet."""
        return cls(value, min(float(low), value), max(float(high), value))

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return dataclasses.asdict(self)


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
class Results:
    """A classifier on N documents.

    Attributes:
      num_documents: N.
      loss: cross-entropy in nats, probabilities clipped to 1e-7.
      accuracy: share of documents whose likeliest class is right. Its range
        is Wilson's, because a bootstrap of no errors at all has no width.
      f1: of the second of two classes, else the mean over the classes that
        occur among labels or answers; 0 where there is none.
      calibration_error: mean distance of confidence and accuracy over 15
        equal bins, weighted by documents (Guo et al. 2017, "On Calibration of
        Modern Neural Networks"). Chance makes it too high, and a resample's
        even more so. It misses the truth by no more than the distance of all
        bins from their own truth, whose 95 % quantile over the resamples is
        the range to either side: rather too wide, but right where there is no
        error at all.
      confusion: int [C, C], documents by label (row) and answer (column).
      reliability: the bins of the calibration error.
    """

    num_documents: int
    loss: Estimate
    accuracy: Estimate
    f1: Estimate
    calibration_error: Estimate
    confusion: np.ndarray
    reliability: Reliability


def results(
    labels: np.ndarray, probabilities: np.ndarray, *, seed: int = 0
) -> Results:
    """Every metric, from labels int [N] and probabilities float [N, C].

    The interval of a single document is all that is possible.

    Raises:
      ValueError: no document, a label outside [0, C), or a row that is not a
        distribution over at least two classes.
    """
    labels, probabilities = _checked(labels, probabilities)
    number, num_classes = probabilities.shape
    losses = _losses(labels, probabilities)
    answers = probabilities.argmax(axis=1)
    by_class = 1 + 3 * num_classes
    terms = np.concatenate(
        [
            losses[:, np.newaxis],
            _class_terms(labels, answers, num_classes),
            _gap_terms(labels, probabilities),
        ],
        axis=1,
    )
    bootstrap = _bootstrap(terms, seed)

    def f1(sums: np.ndarray) -> np.ndarray:
        return _f1(sums[..., 1:by_class].reshape(*sums.shape[:-1], 3, -1))

    right = int(np.count_nonzero(answers == labels))
    return Results(
        num_documents=number,
        loss=bootstrap.estimate(lambda sums: sums[..., 0], highest=_WORST_LOSS),
        accuracy=wilson(right, number),
        f1=bootstrap.estimate(f1),
        calibration_error=bootstrap.distance(-NUM_BINS),
        confusion=np.bincount(
            labels * num_classes + answers, minlength=num_classes**2
        ).reshape(num_classes, num_classes),
        reliability=_reliability(labels, probabilities),
    )


def paired_gain(
    labels: np.ndarray,
    probabilities: np.ndarray,
    control: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How much better than a control on the same documents, in the same order.

    Args:
      labels: int [N].
      probabilities: float [N, C].
      control: float [N, C], of the other run.
      seed: of the bootstrap, which draws documents, not answers: what is hard
        for both runs cancels.

    Returns:
      `accuracy` (gained) and `loss` (in nats; below 0 is better).
    """
    labels, probabilities = _checked(labels, probabilities)
    _, control = _checked(labels, control)
    if control.shape != probabilities.shape:
        raise ValueError(
            f"The control has probabilities {[*control.shape]}, the run"
            f" {[*probabilities.shape]}; compare runs on the same documents"
            " and labels."
        )
    right, right_before = (
        (p.argmax(axis=1) == labels).astype(np.float64)
        for p in (probabilities, control)
    )
    terms = np.stack(
        [
            right - right_before,
            _losses(labels, probabilities) - _losses(labels, control),
        ],
        axis=1,
    )
    bootstrap = _bootstrap(terms, seed)
    return {
        "accuracy": bootstrap.estimate(
            lambda sums: sums[..., 0], lowest=-1.0, highest=1.0
        ),
        "loss": bootstrap.estimate(
            lambda sums: sums[..., 1],
            lowest=-_WORST_LOSS,
            highest=_WORST_LOSS,
        ),
    }


def wilson(right: int, number: int) -> Estimate:
    """The share right / number with Wilson's 95 % score interval."""
    share, z2 = right / number, _NORMAL**2
    middle = (share + z2 / (2 * number)) / (1 + z2 / number)
    spread = (
        _NORMAL
        * math.sqrt(share * (1 - share) / number + z2 / (4 * number**2))
        / (1 + z2 / number)
    )
    low, high = max(0.0, middle - spread), min(1.0, middle + spread)
    return Estimate.within(share, low, high)


def label_of_f1(names: Sequence[str]) -> str:
    """What the F1 of these classes is the F1 of."""
    return f"“{names[1]}”" if len(names) == 2 else "mean over classes"


def _checked(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(
            f"Labels have shape {[*labels.shape]}; a list of at least one is"
            " needed to evaluate."
        )
    if (
        probabilities.ndim != 2
        or len(probabilities) != len(labels)
        or probabilities.shape[1] < 2
    ):
        raise ValueError(
            f"Probabilities have shape {[*probabilities.shape]}; with"
            f" {len(labels)} labels it must be [{len(labels)}, classes], two"
            " classes at least."
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"Labels reach from {labels.min()} to {labels.max()}; with"
            f" {probabilities.shape[1]} classes they must lie between 0 and"
            f" {probabilities.shape[1] - 1}."
        )
    is_good = (probabilities >= 0).all(axis=1)
    is_good &= np.abs(probabilities.sum(axis=1) - 1) < 1e-3
    if not is_good.all():
        row = int(np.argmin(is_good))
        raise ValueError(
            f"The probabilities of document {row} are {probabilities[row]};"
            " they must be at least 0 and sum to 1."
        )
    return labels.astype(np.int64), probabilities


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Nats, float [N]."""
    true = probabilities[np.arange(len(labels)), labels]
    # 1.0 first: -log(1.0) is -0.0.
    return np.log(1.0 / np.clip(true, MIN_PROBABILITY, 1.0))


def _class_terms(
    labels: np.ndarray, answers: np.ndarray, num_classes: int
) -> np.ndarray:
    """Float [N, 3 * C]: for every class whether right, a label, an answer."""
    classes = np.arange(num_classes)
    is_label = labels[:, np.newaxis] == classes
    is_answer = answers[:, np.newaxis] == classes
    return np.concatenate(
        [is_label & is_answer, is_label, is_answer], axis=1
    ).astype(np.float64)


def _f1(means: np.ndarray) -> np.ndarray:
    """From [..., 3, C], in the order of `_class_terms`, to [...]."""
    right, label, answer = np.moveaxis(means, -2, 0)
    total = label + answer
    scores = 2 * right / np.where(total > 0, total, 1.0)
    if scores.shape[-1] == 2:
        return scores[..., 1]
    return scores.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1)


def _bins(probabilities: np.ndarray) -> np.ndarray:
    """Int [N]: which of ((m - 1) / 15, m / 15] the confidence lies in."""
    place = np.ceil(probabilities.max(axis=1) * NUM_BINS).astype(np.int64) - 1
    return np.clip(place, 0, NUM_BINS - 1)


def _gap_terms(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Float [N, 15]: confidence less correctness, in the document's bin."""
    is_right = probabilities.argmax(axis=1) == labels
    gaps = np.zeros([len(labels), NUM_BINS])
    rows = np.arange(len(labels))
    gaps[rows, _bins(probabilities)] = probabilities.max(axis=1) - is_right
    return gaps


def _reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    places = _bins(probabilities)
    counts = np.bincount(places, minlength=NUM_BINS)
    confidence, accuracy = (
        np.bincount(places, weights=values, minlength=NUM_BINS)
        / np.maximum(counts, 1)
        for values in (
            probabilities.max(axis=1),
            probabilities.argmax(axis=1) == labels,
        )
    )
    return Reliability(counts, confidence, accuracy)


@dataclasses.dataclass(frozen=True)
class _Bootstrap:
    """Means of terms [N, K], and of N documents drawn from them, R times."""

    number: int
    means: np.ndarray  # [K]
    drawn: np.ndarray  # [R, K]

    def estimate(
        self,
        metric: Callable[[np.ndarray], np.ndarray],
        *,
        lowest: float = 0.0,
        highest: float = 1.0,
    ) -> Estimate:
        """A metric, from [..., K] to [...], with its range."""
        value = float(metric(self.means))
        if self.number == 1:  # Every resample is the document itself.
            return Estimate.within(value, lowest, highest)
        low, high = np.quantile(metric(self.drawn), _LEVEL)
        low, high = np.clip([low, high], lowest, highest)
        return Estimate.within(value, low, high)

    def distance(self, first: int) -> Estimate:
        """The sum of |terms| from a place on, with its range."""
        value = float(np.abs(self.means[first:]).sum())
        if self.number == 1:
            return Estimate.within(value, 0.0, 1.0)
        off = np.abs(self.drawn[:, first:] - self.means[first:]).sum(axis=1)
        # A resample varies less than a sample: Bessel's correction.
        used = int(np.count_nonzero(self.means[first:]))
        off *= math.sqrt(self.number / max(1, self.number - used))
        width = np.quantile(off, _LEVEL[1] - _LEVEL[0])
        low, high = np.clip([value - width, value + width], 0.0, 1.0)
        return Estimate.within(value, low, high)


def _bootstrap(terms: np.ndarray, seed: int) -> _Bootstrap:
    number = len(terms)
    random = np.random.default_rng(seed)
    most = max(1, _AT_ONCE // number)
    means = []
    for first in range(0, NUM_RESAMPLES, most):
        size = min(most, NUM_RESAMPLES - first)
        drawn = random.integers(number, size=(size, number))
        drawn += number * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=size * number)
        means.append(times.reshape(size, number) @ terms / number)
    return _Bootstrap(number, terms.mean(axis=0), np.concatenate(means))
