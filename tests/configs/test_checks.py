"""Tests of configs/checks.py."""

import math

import pytest

from configs import checks


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda v: checks.rate("a.b", v), [0, 0.5, 1], [-0.1, 1.1, math.nan]),
        (
            lambda v: checks.at_least("a.b", v, 3),
            [3, 4, 3.5],
            [2, 2.9, math.inf, math.nan],
        ),
        (
            lambda v: checks.above_zero("a.b", v),
            [1e-12, 2],
            [0, -1, math.inf, math.nan],
        ),
        (
            lambda v: checks.choice("a.b", v, ("one", "two")),
            ["one", "two"],
            ["three", ""],
        ),
    ],
)
def test_check_names_the_field_and_the_value(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match="a.b=") as error:
            check(value)
        assert str(value) in str(error.value)


def test_require_raises_its_message():
    checks.require(True, "fine")
    with pytest.raises(ValueError, match="^not fine$"):
        checks.require(False, "not fine")
