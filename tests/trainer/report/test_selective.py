"""Precision and coverage by hand."""

import math

import numpy as np
import pytest

from trainer.report import selective, statistics

LABELS = np.array([0, 1, 1, 0, 2])
ANSWERS = np.array([0, 1, 0, 0, 2])
DECIDED = np.array([1, 1, 1, 0, 0], bool)


def test_decisions_by_hand():
    found = selective.decisions(
        ANSWERS == LABELS,
        ANSWERS,
        DECIDED,
        names=["a", "b", "c"],
        thresholds=[0.5, 0.25, math.inf],
    )
    assert found["precision"]["value"] == pytest.approx(2 / 3)
    assert found["coverage"]["value"] == 3 / 5
    expected = statistics.wilson(2, 3)
    assert found["precision"]["high"] == expected.high
    a, b, c = found["classes"]
    assert (a["label"], a["threshold"], c["threshold"]) == ("a", 0.5, None)
    assert a["precision"]["value"] == 1 / 2
    assert a["coverage"]["value"] == pytest.approx(2 / 3)
    assert b["coverage"]["value"] == 1
    # Nothing is known where nothing is decided.
    assert c["precision"] == {"value": 0, "low": 0, "high": 1}


@pytest.mark.parametrize(("number", "points"), [(1, 1), (7, 7), (1_000, 20)])
def test_a_curve_goes_from_the_surest_to_all(number, points):
    confidences = np.random.default_rng(number).random(number)
    found = selective.curve(confidences > 0.5, confidences)
    assert len(found) == points
    assert found[-1].coverage == 1
    assert found[-1].confidence == confidences.min()
    assert found[-1].precision.value == (confidences > 0.5).mean()
    tenth = found[0]
    assert (confidences >= tenth.confidence).mean() == tenth.coverage


def test_a_document_has_one_answer_or_any_number():
    probabilities = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    one = selective.answered(np.array([0, 2]), probabilities)
    assert [a.tolist() for a in one] == [[0, 1], [0, 1], [True, False]]
    labels = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    several = selective.answered(
        labels, np.array([[0.5, 0.2, 0.9], [0.1, 0.8, 0.499], [0, 0, 0]])
    )
    assert [a.tolist() for a in several] == [
        [0, 0, 1], [0, 2, 1], [False, True, True]
    ]  # fmt: skip
