"""Pictures show any numbers and any names, and are the same every time."""

import math
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from trainer.report import pictures, selective, statistics

SVG = "{http://www.w3.org/2000/svg}"
NAMES = {"loss": "training", "validation_loss": "validation"}


def events(*points, key="loss"):
    return [{"step": step, key: value} for step, value in points]


def texts(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_finite_numbers_are_drawn_and_the_legend_tells_the_last():
    svg = pictures.curves_svg(
        "loss, nats",
        NAMES,
        [
            *events((50, 6.0), (100, 2.25), (150, math.nan)),
            *events((100, 5.5), key="validation_loss"),
            {"step": 100, "event": "fill_ins", "loss": "no number"},
        ],
    )
    found = texts(svg)
    assert {"loss, nats", "training 2.25", "validation 5.5"} <= {*found}


@pytest.mark.parametrize(
    "points",
    [
        [(5, 7)],
        [(0, -1e9), (1, 1e9)],
        [(0, 1e-9), (10**12, 2e-9)],
    ],
)
def test_any_numbers_can_be_drawn(points):
    assert texts(pictures.curves_svg("$t_{", NAMES, events(*points)))


def test_nothing_to_draw_is_no_picture():
    assert pictures.curves_svg("loss", NAMES, events(key="other")) == b""


def test_a_long_run_is_thinned_and_keeps_its_end():
    short, long = (
        pictures.curves_svg(
            "loss", NAMES, events(*((n, n % 7) for n in range(number)))
        )
        for number in (500, 100_001)
    )
    assert len(long) < 2 * len(short)
    assert f"training {100_000 % 7}" in texts(long)


def results(classes):
    random = np.random.default_rng(2)
    labels = random.integers(classes, size=400)
    answers = np.where(random.random(400) < 0.3, (labels + 1) % classes, labels)
    probabilities = np.full([400, classes], 0.2 / (classes - 1))
    probabilities[np.arange(400), answers] = 0.8
    return statistics.results(labels, probabilities)


@pytest.mark.parametrize("classes", [2, 12, 60])
def test_any_number_of_classes_with_any_name_can_be_drawn(classes):
    names = ["a$x_{" * 60, "很好 <b>", *map(str, range(2, classes))]
    found = results(classes)
    curve = selective.curve(np.arange(7) < 5, np.linspace(0.9, 0.5, 7))
    one, two = (pictures.evaluation_png(found, names, curve) for _ in range(2))
    assert one.startswith(b"\x89PNG")
    assert one == two


def test_only_what_draws_imports_matplotlib():
    program = (
        "import sys; from trainer.report import page;"
        " sys.exit({'matplotlib', 'scipy.stats'} & {*sys.modules} != set())"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
