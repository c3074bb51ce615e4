"""The PNG shows the numbers, for any number of classes."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.report import pictures, statistics


def results(classes, wrong=0.3, number=400):
    random = np.random.default_rng(2)
    labels = random.integers(classes, size=number)
    answers = np.where(
        random.random(number) < wrong, (labels + 1) % classes, labels
    )
    rest = 0.2 / (classes - 1)
    probabilities = np.full([number, classes], rest)
    probabilities[np.arange(number), answers] = 0.8
    return statistics.results(labels, probabilities)


def picture(classes, names=None, **kwargs):
    content = pictures.evaluation_png(
        results(classes, **kwargs),
        names or [f"class {number}" for number in range(classes)],
    )
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_a_perfect_classifier_has_a_full_diagonal_and_no_more():
    image = picture(2, wrong=0.0)
    corner = 20  # From the corner of a cell, where no number is.
    left, right = 120 + corner, 120 + 320 + corner
    assert image.getpixel((left, left)) == pictures._BLUE
    assert image.getpixel((right, right)) == pictures._BLUE
    assert image.getpixel((left, right)) == (255, 255, 255)
    assert image.getpixel((right, left)) == (255, 255, 255)


def test_the_bar_of_a_bin_is_as_high_as_its_accuracy():
    right = results(2).reliability.accuracy[11]  # Confidence 0.8.
    image = picture(2)
    x, bottom = 2 * 120 + 640 + round(11.9 * 640 / 15), 120 + 640
    inside = bottom - round(right * 640) + 3
    assert image.getpixel((x, inside)) == pictures._BLUE
    assert image.getpixel((x, inside - 8)) == (255, 255, 255)


def test_the_same_results_are_the_same_bytes():
    one, two = (pictures.evaluation_png(results(3), "abc") for _ in range(2))
    assert one == two


@pytest.mark.parametrize("classes", [2, 5, 12, 60])
def test_any_number_of_classes_fits(classes):
    assert picture(classes).size == (1640, 880)


def test_long_and_strange_names_fit():
    assert picture(2, ["a" * 300, "很好 <b>"]).size == (1640, 880)
