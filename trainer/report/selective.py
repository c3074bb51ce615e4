"""Selective classification: how often it decides, and is right when it does.

Every range is a 95 % interval. N documents, C classes.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

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


def curve(is_right: np.ndarray, confidences: np.ndarray) -> list[Point]:
    """Precision by coverage, in steps of 5 %.

    Args:
      is_right: bool [N], of the likeliest class.
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
    labels: np.ndarray,
    answers: np.ndarray,
    is_decided: np.ndarray,
    *,
    names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Precision and coverage of decisions, JSON-ready.

    Args:
      labels: int [N].
      answers: int [N], the likeliest class.
      is_decided: bool [N].
      names: of the C classes.
      thresholds: the C confidences from which on a class is decided; inf = it
        never is.

    Returns:
      `precision` (the share of the decided documents whose answer is right)
      and `coverage` (the share that is decided); in `classes` the same for the
      documents with one answer, with `label` and `threshold`, which is None
      for inf.
    """

    def of(chosen: np.ndarray) -> dict[str, Any]:
        decided = chosen & is_decided
        right = int((decided & (answers == labels)).sum())
        number = int(decided.sum())
        return {
            "precision": dataclasses.asdict(statistics.wilson(right, number)),
            "coverage": dataclasses.asdict(
                statistics.wilson(number, int(chosen.sum()))
            ),
        }

    return {
        **of(np.ones(len(labels), bool)),
        "classes": [
            {
                "label": names[c],
                "threshold": float(limit) if math.isfinite(limit) else None,
                **of(answers == c),
            }
            for c, limit in enumerate(thresholds)
        ],
    }
