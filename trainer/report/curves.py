"""Numbers over steps as SVG: no library, the same bytes for the same numbers.

Colours are CSS variables with a default, so that a page can have its own for
dark mode and the picture also stands alone.
"""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 44, 36  # Margins.
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_MAX_POINTS = 500  # More than a screen shows.


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named value over steps: (step, value), in order."""

    name: str
    points: tuple[tuple[float, float], ...]


def curve(events: Sequence[Mapping[str, Any]], key: str, name: str) -> Curve:
    """The finite values of a key in lines of metrics.jsonl."""
    points = tuple(
        (float(event["step"]), float(event[key]))
        for event in events
        if isinstance(event.get(key), (int, float))
        and math.isfinite(event[key])
    )
    return Curve(name, points)


def svg(title: str, curves: Sequence[Curve]) -> str:
    """The curves in one picture; "" where no curve has a point."""
    curves = [_thinned(curve) for curve in curves if curve.points]
    if not curves:
        return ""
    xs, ys = (
        _ticks([point[axis] for curve in curves for point in curve.points])
        for axis in (0, 1)
    )
    text = html.escape(title)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH}'
            f' {_HEIGHT}" role="img" aria-label="{text}" font-size="12"'
            ' font-family="system-ui, sans-serif" fill="currentColor">',
            f'<text x="4" y="16" font-weight="600">{text}</text>',
            *_legend(curves),
            *_grid(xs, ys),
            *(
                _path(curve, number, xs, ys)
                for number, curve in enumerate(curves)
            ),
            "</svg>",
        ]
    )


def short(value: float) -> str:
    """A number in few characters: 0.25, 12.5k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            # From 10,000 on in thousands, but 12.5k rather than 0.0125M.
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def _thinned(curve: Curve) -> Curve:
    stride = -(-len(curve.points) // _MAX_POINTS)
    # From the end, because the last value is the one that counts.
    return Curve(curve.name, curve.points[::-1][::stride][::-1])


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to eight round numbers that enclose the values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    size *= next(m for m in (10, 5, 2, 1) if (high - low) / (m * size) >= 3)
    first, last = math.floor(low / size), math.ceil(high / size)
    return [size * number for number in range(first, last + 1)]


def _x(value: float, ticks: Sequence[float]) -> float:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float, ticks: Sequence[float]) -> float:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _colour(number: int) -> str:
    number %= len(_COLOURS)
    return f"var(--curve-{number}, {_COLOURS[number]})"


def _legend(curves: Sequence[Curve]) -> list[str]:
    """Names with their last values, above the grid."""
    step = (_WIDTH - 8) // len(curves)
    return [
        f'<text x="{4 + number * step}" y="34" style="fill:{_colour(number)}">'
        f"{html.escape(curve.name)} {short(curve.points[-1][1])}</text>"
        for number, curve in enumerate(curves)
    ]


def _grid(xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    lines = [
        f'<path d="M{_LEFT} {_y(y, ys)}H{right}" stroke="currentColor"'
        ' stroke-opacity="0.15"/>'
        f'<text x="{_LEFT - 6}" y="{_y(y, ys) + 4}" text-anchor="end"'
        f' opacity="0.7">{short(y)}</text>'
        for y in ys
    ]
    for number, x in enumerate(xs):
        anchor = "end" if number == len(xs) - 1 else "middle"
        lines.append(
            f'<text x="{_x(x, xs)}" y="{bottom + 18}" text-anchor="{anchor}"'
            f' opacity="0.7">{short(x)}</text>'
        )
    lines.append(
        f'<text x="{right}" y="{_HEIGHT - 4}" text-anchor="end"'
        ' opacity="0.7">steps</text>'
    )
    return lines


def _path(
    curve: Curve, number: int, xs: Sequence[float], ys: Sequence[float]
) -> str:
    places = [(_x(x, xs), _y(y, ys)) for x, y in curve.points]
    if len(places) == 1:
        ((x, y),) = places
        return (
            f'<circle cx="{x}" cy="{y}" r="4" style="fill:{_colour(number)}"/>'
        )
    line = "L".join(f"{x} {y}" for x, y in places)
    return (
        f'<path d="M{line}" fill="none" stroke-width="2"'
        f' stroke-linejoin="round" style="stroke:{_colour(number)}"/>'
    )
