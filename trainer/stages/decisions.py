"""What decides: how much a class counts, and how sure an answer has to be.

N validation documents, C classes.
"""

import logging
import math
from typing import Any

import numpy as np
import tensorflow as tf

from configs import checks, schema
from input_pipeline import manifest
from trainer import modeling
from trainer.report import selective

_log = logging.getLogger(__name__)
# How often a threshold may promise too much.
_RISK = 0.05
_MOST_NAMES = 10


def check(finetune: schema.FinetuneConfig, rows: manifest.Prepared) -> None:
    """Refuses what does not fit the classes; raises ValueError."""
    class_weights(finetune, rows)
    checks.require(
        not finetune.min_precision
        or rows.multilabel
        or modeling.UNSURE not in rows.labels,
        f"finetune.min_precision={finetune.min_precision:g} answers"
        f" {modeling.UNSURE!r} where it does not decide, but a class has that"
        " name; rename the class, or leave finetune.min_precision out.",
    )


def class_weights(
    finetune: schema.FinetuneConfig, rows: manifest.Prepared
) -> np.ndarray:
    """What a document counts in training and validation, by its class.

    Returns:
      float32 [C] with a mean of 1 over the training documents: all 1 for
      "none"; for "balanced" all classes count alike together; else in the
      ratios that `finetune.class_weights` names, 1 for a class without one.

    Raises:
      ValueError: a weight is for a class that there is not, or a document may
        have several classes.
    """
    labels = rows.labels
    checks.require(
        finetune.class_weights == "none" or not rows.multilabel,
        f"finetune.class_weights={finetune.class_weights} says what a document"
        " counts by its class, but here a document may have several; leave it"
        " out, or give one label a document.",
    )
    weights = np.ones(len(labels))
    if finetune.class_weights == "none":
        return weights.astype(np.float32)
    known = rows.report["train"]["labels"]
    counts = np.array([max(1, known.get(label, 0)) for label in labels])
    if finetune.class_weights == "balanced":
        weights = 1 / counts
    for name, weight in finetune.named_class_weights().items():
        checks.require(
            name in labels,
            f"finetune.class_weights={finetune.class_weights!r} names the class"
            f" {name!r}, but the classes are"
            f" {', '.join(map(repr, labels[:_MOST_NAMES]))}"
            f"{', …' if len(labels) > _MOST_NAMES else ''}.",
        )
        weights[labels.index(name)] = weight
    return (weights * counts.sum() / (weights @ counts)).astype(np.float32)


def threshold(
    confidences: np.ndarray, is_right: np.ndarray, min_precision: float
) -> float:
    """The confidence from which on answers are right often enough.

    From the surest document down, the confidence may fall as long as Clopper
    and Pearson's lower bound (1934) of the precision so far, at 95 %, is
    `min_precision` or more. Tests in a fixed order, up to the first that
    fails, share one risk (Angelopoulos et al., "Learn then Test", 2021);
    those before the first success, for which there are too few documents, are
    left out.

    Args:
      confidences: float [n].
      is_right: bool [n].
      min_precision: above 0 and below 1.

    Returns:
      inf if no confidence is high enough.
    """
    from scipy import stats

    order = np.argsort(-confidences, kind="stable")
    right, number = np.cumsum(is_right[order]), np.arange(1, len(order) + 1)
    # What is equally sure is decided together.
    last = np.flatnonzero(np.diff(confidences[order], append=-math.inf))
    right, number = right[last], number[last]
    holds = stats.beta.ppf(_RISK, right, number - right + 1) >= min_precision
    if not holds.any():
        return math.inf
    first = int(holds.argmax())
    end = [*np.flatnonzero(~holds[first:]), len(holds) - first][0]
    return float(confidences[order][last[first + end - 1]])


def thresholds(
    is_right: np.ndarray,
    answers: np.ndarray,
    confidences: np.ndarray,
    *,
    num_classes: int,
    min_precision: float,
) -> np.ndarray:
    """`threshold` for each class, from the answers that name it.

    Classes that are answered too rarely to prove it, were all these answers
    right, share one threshold: the promise is kept for these classes together.

    Args:
      is_right: bool [P].
      answers: int [P], the class; see `selective.answered`.
      confidences: float [P], the calibrated probability of it.
      num_classes: C.
      min_precision: above 0 and below 1.

    Returns:
      float32 [C]; inf for a class that is never decided.
    """
    least = math.log(_RISK) / math.log(min_precision)
    is_small = np.bincount(answers, minlength=num_classes) < least
    groups = np.where(is_small, num_classes, np.arange(num_classes))
    found = np.zeros(num_classes, np.float32)
    for group in np.unique(groups):
        chosen = groups[answers] == group
        found[groups == group] = threshold(
            confidences[chosen], is_right[chosen], min_precision
        )
    return found


def on_validation(
    classifier: modeling.TextClassifier,
    labels: np.ndarray,
    logits: np.ndarray,
) -> dict[str, Any]:
    """Gives the classifier its thresholds; returns how it decides with them.

    The thresholds are fitted on the same documents, so that the test split is
    the better judge.

    Args:
      classifier: with class weights, to be given thresholds.
      labels: int [N], or bool [N, C], of the validation documents.
      logits: float32 [N, K], of all parts together.

    Returns:
      See `selective.decisions`.
    """
    min_precision = classifier.finetune.min_precision
    rates = classifier.probabilities(tf.constant(logits, tf.float32))
    documents, answers, is_right = selective.answered(labels, rates.numpy())
    confidences = classifier.calibrated(rates).numpy()[documents, answers]
    limits = thresholds(
        is_right,
        answers,
        confidences,
        num_classes=len(classifier.labels),
        min_precision=min_precision,
    )
    assert classifier.thresholds is not None
    classifier.thresholds.assign(limits)
    never = [
        repr(name)
        for name, limit in zip(classifier.labels, limits, strict=True)
        if not math.isfinite(limit)
    ]
    if never:
        _log.warning(
            "WARNING: nothing is decided for %s%s: no confidence on validation"
            " is surely right in %g of 1 (finetune.min_precision); more"
            " validation documents or a lower precision may help",
            ", ".join(never[:_MOST_NAMES]),
            f" and {len(never) - _MOST_NAMES} more classes"
            if len(never) > _MOST_NAMES
            else "",
            min_precision,
        )
    found = selective.decisions(
        is_right,
        answers,
        confidences >= limits[answers],
        names=classifier.labels,
        thresholds=limits.tolist(),
    )
    _log.info(
        "validation, decisions: %.1f %% of %s %s, of which %.2f %% are right",
        100 * found["coverage"]["value"],
        f"{len(answers):,}",
        "answered labels" if classifier.multilabel else "documents",
        100 * found["precision"]["value"],
    )
    return {"min_precision": min_precision, **found}
