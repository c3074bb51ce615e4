"""The SVG is well-formed, whatever the numbers and the names."""

import math
from xml.etree import ElementTree

import pytest

from trainer.report import curves

EVENTS = [
    {"step": 50, "loss": 6.0},
    {"step": 100, "loss": 5.0},
    {"step": 100, "validation_loss": 5.5},
    {"step": 100, "event": "fill_ins", "loss": "no number"},
    {"step": 150, "loss": math.nan},
    {"step": 200, "loss": 4.0},
]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(*points_of_curves, title="loss", name="training"):
    """The root of the picture of these points."""
    text = curves.svg(
        title,
        [curves.Curve(name, tuple(points)) for points in points_of_curves],
    )
    return ElementTree.fromstring(text)


def lines(root):
    """The points of every curve: [(x, y), ...]."""
    paths = [p.get("d") for p in root.iter(f"{SVG}path") if p.get("fill")]
    return [
        [tuple(map(float, pair.split())) for pair in path[1:].split("L")]
        for path in paths
    ]


def test_finite_numbers_of_a_key_are_the_points():
    curve = curves.curve(EVENTS, "loss", "training")
    assert curve.points == ((50, 6), (100, 5), (200, 4))
    assert curves.curve(EVENTS, "accuracy", "x").points == ()


def test_higher_values_lie_higher_inside_the_picture():
    ((first, second, third),) = lines(drawn([(0, 1), (10, 3), (20, 2)]))
    assert first[0] < second[0] < third[0]
    assert second[1] < third[1] < first[1]
    for x, y in (first, second, third):
        assert 0 <= x <= 480
        assert 0 <= y <= 250


def test_curves_share_the_axes_and_differ_in_colour():
    root = drawn([(0, 1), (10, 2)], [(0, 1), (10, 3)])
    one, two = lines(root)
    assert one[0] == two[0]
    assert one[1] != two[1]
    styles = {p.get("style") for p in root.iter(f"{SVG}path") if p.get("fill")}
    assert len(styles) == 2


def test_the_legend_tells_the_last_value():
    texts = [t.text for t in drawn([(0, 1), (10, 2.25)]).iter(f"{SVG}text")]
    assert "training 2.25" in texts


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0), (10, 0)],
        [(5, 7)],
        [(0, -1e9), (1, 1e9)],
        [(0, 1e-9), (10**12, 2e-9)],
    ],
)
def test_any_numbers_can_be_drawn(points):
    assert drawn(points).tag == f"{SVG}svg"


def test_one_point_is_a_dot():
    assert len([*drawn([(5, 7)]).iter(f"{SVG}circle")]) == 1


def test_nothing_to_draw_is_no_picture():
    assert curves.svg("loss", [curves.Curve("training", ())]) == ""


def test_names_cannot_become_markup():
    root = drawn([(0, 1), (1, 2)], title='<"&>', name="<script>")
    assert [*root.iter("script"), *root.iter(f"{SVG}script")] == []
    assert root.get("aria-label") == '<"&>'


def test_a_long_run_is_thinned_and_keeps_its_end():
    (places,) = lines(drawn([(step, step % 7) for step in range(100_001)]))
    assert len(places) <= 500
    ((*_, last),) = lines(drawn([(0, 0), (3, 6), (100_000, 100_000 % 7)]))
    assert places[-1] == last


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (1 / 3, "0.3333"),
        (1_500, "1500"),
        (12_500, "12.5k"),
        (3_000_000, "3M"),
        (2.5e9, "2.5G"),
        (-20_000, "-20k"),
    ],
)
def test_numbers_are_short(value, text):
    assert curves.short(value) == text


@pytest.mark.parametrize(
    "values", [[0.3, 0.7], [1.02, 6.2], [100, 102_345], [-3, 8], [5, 5]]
)
def test_ticks_enclose_the_values_and_are_few(values):
    ticks = curves._ticks(values)
    assert ticks[0] <= min(values) <= max(values) <= ticks[-1]
    assert 3 <= len(ticks) <= 10
