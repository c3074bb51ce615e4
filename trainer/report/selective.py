"""Selective classification: how often it decides, and is right when it does.

Every range is a 95 % interval. N documents, C classes, P answers.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.report import statistics

_NUM_POINTS = 20  # Of a curve, at equal distances.


@dataclasses.dataclass(frozen=True)
class Point:
    """What is right if the surest documents are decided and no others.

    Attributes:
      coverage: share of the documents.
      confidence: of the last of them.
      precision: share of them that is right, with Wilson's range.
    """

    coverage: float
    confidence: float
    precision: statistics.Estimate


class Answered(NamedTuple):
    """Classes that documents are said to have.

    Attributes:
      documents: int [P].
      classes: int [P].
      is_right: bool [P].
    """

    documents: np.ndarray
    classes: np.ndarray
    is_right: np.ndarray


def answered(labels: np.ndarray, probabilities: np.ndarray) -> Answered:
    """One answer a document, the likeliest class, or any number of them.

    Args:
      labels: int [N]; or bool [N, C] where a document may have several: then
        every class with a probability of at least 0.5 is an answer.
      probabilities: float [N, C].
    """
    if labels.ndim == 2:
        documents, classes = np.nonzero(probabilities >= 0.5)
        return Answered(documents, classes, labels[documents, classes])
    classes = probabilities.argmax(axis=1)
    return Answered(np.arange(len(labels)), classes, classes == labels)


def curve(is_right: np.ndarray, confidences: np.ndarray) -> list[Point]:
    """Precision by coverage, in steps of 5 %.

    Args:
      is_right: bool [N], of the answer to a document.
      confidences: float [N], of the same.
    """
    order = np.argsort(-confidences, kind="stable")
    right = np.cumsum(is_right[order])
    shares = np.arange(1, _NUM_POINTS + 1) / _NUM_POINTS
    return [
        Point(
            coverage=number / len(order),
            confidence=float(confidences[order[number - 1]]),
            precision=statistics.wilson(int(right[number - 1]), int(number)),
        )
        for number in np.unique(np.ceil(shares * len(order)).astype(int))
    ]


def decisions(
    is_right: np.ndarray,
    answers: np.ndarray,
    is_decided: np.ndarray,
    *,
    names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Precision and coverage of decisions, JSON-ready.

    Args:
      is_right: bool [P].
      answers: int [P], the class; see `answered`.
      is_decided: bool [P].
      names: of the C classes.
      thresholds: the C confidences from which on a class is decided; inf = it
        never is.

    Returns:
      `precision` (the share of the decided answers that is right) and
      `coverage` (the share that is decided); in `classes` the same for the
      answers of one class, with `label` and `threshold`, which is None
      for inf.
    """

    def of(chosen: np.ndarray) -> dict[str, Any]:
        decided = chosen & is_decided
        right = int((decided & is_right).sum())
        number = int(decided.sum())
        return {
            "precision": dataclasses.asdict(statistics.wilson(right, number)),
            "coverage": dataclasses.asdict(
                statistics.wilson(number, int(chosen.sum()))
            ),
        }

    return {
        **of(np.ones(len(answers), bool)),
        "classes": [
            {
                "label": names[c],
                "threshold": float(limit) if math.isfinite(limit) else None,
                **of(answers == c),
            }
            for c, limit in enumerate(thresholds)
        ],
    }
