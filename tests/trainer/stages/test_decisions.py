"""Class weights, and thresholds that keep their promise on new text."""

import math
import types

import numpy as np
import pytest

from configs import schema
from trainer.stages import decisions

INF = math.inf


def rows(*, multilabel=False, **counts):
    """Prepared rows with so many training documents of each class."""
    return types.SimpleNamespace(
        labels=[*counts],
        multilabel=multilabel,
        report={"train": {"labels": counts}},
    )


def finetune(**changes):
    return schema.FinetuneConfig(**changes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none", [1, 1, 1]),
        # Together, 4 documents of each class: 12 / 3.
        ("balanced", [4, 4 / 2, 4 / 9]),
        # 5 * 1 + 1 * 2 + 3 * 9 = 34 becomes 12.
        ("a:5,c:3", [5 * 12 / 34, 12 / 34, 3 * 12 / 34]),
    ],
)
def test_class_weights_have_a_mean_of_one(given, expected):
    found = decisions.class_weights(
        finetune(class_weights=given), rows(a=1, b=2, c=9)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_what_does_not_fit_the_classes_is_refused():
    with pytest.raises(ValueError, match="names the class 'd', but .*'a', 'b'"):
        decisions.check(finetune(class_weights="d:5"), rows(a=1, b=2))
    with pytest.raises(ValueError, match="a class has that name"):
        decisions.check(finetune(min_precision=0.9), rows(a=1, unsure=2))
    decisions.check(finetune(), rows(a=1, unsure=2))
    several = rows(multilabel=True, a=1, unsure=2)
    decisions.check(finetune(min_precision=0.9), several)
    with pytest.raises(ValueError, match="class_weights=balanced .* several"):
        decisions.check(finetune(class_weights="balanced"), several)


@pytest.mark.parametrize(
    ("is_right", "expected"),
    [
        ([], INF),
        ([1] * 58, INF),  # 0.95 ** 58 > 0.05 ...
        ([1] * 59, 0.942),  # ... > 0.95 ** 59.
        ([1] * 60 + [0] * 20, 0.941),
        # One error needs 93 documents (binomial distribution).
        ([0] + [1] * 91, INF),
        ([0] + [1] * 92, 0.908),
        # What comes behind the first failure does not count.
        ([1] * 59 + [0] + [1] * 500, 0.942),
    ],
)
def test_a_threshold_is_as_low_as_can_be_proved(is_right, expected):
    number = len(is_right)
    confidences = 1 - np.arange(number) / 1_000
    order = np.random.default_rng(0).permutation(number)
    found = decisions.threshold(
        confidences[order], np.array(is_right, bool)[order], 0.95
    )
    assert found == pytest.approx(expected)


def test_what_is_equally_sure_is_decided_together():
    confidences = np.repeat([0.9, 0.8], [59, 20])
    is_right = np.arange(79) != 58
    # Without the wrong one among the first it would be 0.9.
    assert decisions.threshold(confidences, is_right, 0.95) == INF
    assert decisions.threshold(confidences, is_right | True, 0.95) == 0.8


def test_classes_with_few_answers_share_a_threshold():
    # Of classes 0 to 3: many right, many wrong, few and few; 4 is nowhere.
    answers = np.repeat([0, 1, 2, 3], [100, 100, 30, 31])
    confidences = np.linspace(1, 0.5, len(answers))
    found = decisions.thresholds(
        answers != 1,
        answers,
        confidences,
        num_classes=5,
        min_precision=0.95,
    )
    assert found.tolist() == pytest.approx(
        [confidences[99], INF, 0.5, 0.5, 0.5]
    )


def test_what_is_decided_is_right_that_often_on_new_text():
    random, kept, coverage = np.random.default_rng(1), [], []
    for _ in range(200):
        chances = 1 / (1 + np.exp(-np.abs(random.normal(0, 4, [2, 600]))))
        is_right = random.random([2, 600]) < chances
        limit = decisions.threshold(chances[0], is_right[0], 0.95)
        decided = chances[1] >= limit
        coverage.append(decided.mean())
        kept.append(chances[1][decided].mean() >= 0.95)
    assert np.mean(coverage) > 0.5  # Of 0.73 that would be possible.
    # 95 % of 200, less three standard deviations.
    assert sum(kept) >= 181
