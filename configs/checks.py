"""Checks of single values; each raises ValueError saying what is allowed."""

import math

# What reading a value out of JSON raises that has another shape than expected:
# OverflowError for `Infinity`, RecursionError for thousands of brackets.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """One of a few words."""
    require(
        value in allowed,
        f"{name}={value!r} is not known; choose one of {', '.join(allowed)}.",
    )


def rate(name: str, value: float, *, below_1: bool = False) -> None:
    """A share, from 0 to 1; 1 itself only without `below_1`."""
    require(
        0 <= value <= 1, f"{name}={value} must lie between 0 and 1 (inclusive)."
    )
    require(not below_1 or value < 1, f"{name}={value} must be below 1.")


def at_least(name: str, value: float, minimum: float) -> None:
    """A finite number that is not below the minimum."""
    require(
        math.isfinite(value) and value >= minimum,
        f"{name}={value} must be at least {minimum}.",
    )


def all_at_least(
    minimum: float, section: str, values: object, names: str
) -> None:
    """`at_least` for some fields of a section; names with blanks between."""
    for name in names.split():
        at_least(f"{section}.{name}", getattr(values, name), minimum)


def above_zero(name: str, value: float) -> None:
    """A finite number above 0."""
    require(
        math.isfinite(value) and value > 0,
        f"{name}={value} must be a finite number above 0.",
    )
