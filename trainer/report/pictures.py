"""Curves over steps as SVG; a classifier's mistakes and honesty as PNG.

Matplotlib takes a second to import, so only what draws imports it. The same
numbers and the same Matplotlib give the same bytes.
"""

import dataclasses
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.report import selective, statistics

_MAX_POINTS = 500  # Of a curve; more than a screen shows.
_MAX_MATRIX = 12  # Classes; more leave no room for numbers in the cells.
_MAX_PAIRS = 20  # Of classes that are confused.
_MAX_NAME = 14  # Characters.
_BLUE, _ORANGE = "#2563eb", "#d97706"


def curves_svg(
    title: str,
    names: Mapping[str, str],
    events: Sequence[Mapping[str, Any]],
) -> bytes:
    """Values over steps as an SVG file; b"" if there is none.

    Args:
      title: of the picture.
      names: key in an event -> what its curve is called.
      events: lines of metrics.jsonl; what is not a finite number is left out.
    """
    curves: dict[str, Any] = {}
    for key, name in names.items():
        points = [
            (event["step"], event[key])
            for event in events
            if isinstance(event.get(key), int | float)
            and math.isfinite(event[key])
        ]
        # Thinned from the end, because the last value is the one that counts.
        stride = -(-len(points) // _MAX_POINTS)
        if points:
            curves[name] = np.array(points[::-1][::stride][::-1], float)
    if not curves:
        return b""
    figure = _figure(4.8, 2.6)
    axes = figure.subplots()
    for (name, points), colour in zip(
        curves.items(), (_BLUE, _ORANGE), strict=False
    ):
        axes.plot(
            *points.T,
            color=colour,
            marker="o" if len(points) == 1 else None,
            label=f"{name} {points[-1, 1]:.4g}",
        )
    axes.set_title(title, loc="left", parse_math=False)
    axes.set_xlabel("steps")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return _bytes(figure, "svg")


def evaluation_png(
    results: statistics.Results,
    names: Sequence[str],
    curve: Sequence[selective.Point],
) -> bytes:
    """What is confused, reliability and precision by coverage, as a PNG file.

    For many classes, the pairs that are confused most stand in the place of
    the confusion matrix, which nobody could read; where a document may have
    several labels, the F1 of the classes with most errors. Characters that
    Matplotlib's own font lacks appear as boxes.
    """
    figure = _figure(18, 6)
    left, middle, right = figure.subplots(1, 3)
    shown = [
        name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
        for name in names
    ]
    if not results.confusion.size:
        _draw_f1(left, results, shown)
    elif len(names) > _MAX_MATRIX:
        _draw_confused(left, results.confused(_MAX_PAIRS), shown)
    else:
        _draw_confusion(left, results.confusion, shown)
    _draw_reliability(middle, results)
    _draw_curve(right, curve)
    return _bytes(figure, "png")


def _draw_confusion(
    axes: Any, confusion: np.ndarray, names: Sequence[str]
) -> None:
    """Counts, and the shares of each label's documents as shades."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title="confusion matrix", xlabel="answer", ylabel="label")
    options = {"labels": names, "parse_math": False}
    axes.set_yticks(range(len(names)), **options)
    axes.set_xticks(
        range(len(names)), rotation=90 * (len(names) > 6), **options
    )
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column,
            row,
            f"{confusion[row, column]:,}\n{100 * share:.1f} %",
            ha="center",
            va="center",
            size=14 if len(names) <= 6 else 8,
            color="white" if share > 0.6 else "black",
        )


def _draw_confused(
    axes: Any, pairs: Sequence[tuple[int, int, int]], names: Sequence[str]
) -> None:
    """How many documents of a label have another answer, the most on top."""
    axes.barh(range(len(pairs)), [number for *_, number in pairs], color=_BLUE)
    axes.set_yticks(
        range(len(pairs)),
        labels=[f"{names[a]} → {names[b]}" for a, b, _ in pairs],
        parse_math=False,
    )
    axes.invert_yaxis()
    axes.set(title="most confused: label → answer", xlabel="documents")


def _draw_f1(
    axes: Any, results: statistics.Results, names: Sequence[str]
) -> None:
    """F1 with its 95 % interval, the class with most errors on top."""
    worst = results.by_harm[:_MAX_PAIRS]
    # [value, low, high] of each class.
    f1 = np.array([dataclasses.astuple(results.classes[c].f1) for c in worst]).T
    axes.barh(
        range(len(worst)),
        f1[0],
        xerr=[f1[0] - f1[1], f1[2] - f1[0]],
        color=_BLUE,
        ecolor="gray",
        capsize=3,
    )
    axes.set_yticks(
        range(len(worst)), labels=[names[c] for c in worst], parse_math=False
    )
    axes.invert_yaxis()
    axes.set(title="classes with most errors", xlabel="F1", xlim=(0, 1))


def _draw_reliability(axes: Any, results: statistics.Results) -> None:
    """Accuracy by confidence, each bin with its 95 % interval."""
    bins, gap = results.reliability, results.overconfidence
    filled = np.flatnonzero(bins.counts)
    right = np.rint(bins.accuracy * bins.counts)
    # [value, low, high] of each bin.
    accuracy = np.array(
        [
            dataclasses.astuple(
                statistics.wilson(int(right[n]), int(bins.counts[n]))
            )
            for n in filled
        ]
    ).T
    axes.bar(
        (filled + 0.5) / statistics.NUM_BINS,
        accuracy[0],
        width=0.9 / statistics.NUM_BINS,
        yerr=[accuracy[0] - accuracy[1], accuracy[2] - accuracy[0]],
        color=_BLUE,
        ecolor="gray",
        capsize=3,
    )
    axes.plot([0, 1], [0, 1], color=_ORANGE)
    axes.set(
        title=(
            f"reliability, overconfidence {gap.value:.3f}"
            f" ({gap.low:.3f} to {gap.high:.3f})"
        ),
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )


def _draw_curve(axes: Any, curve: Sequence[selective.Point]) -> None:
    """Precision by coverage, with its 95 % interval."""
    coverage = [100 * point.coverage for point in curve]
    # [value, low, high] of each point.
    precision = (
        100
        * np.array([dataclasses.astuple(point.precision) for point in curve]).T
    )
    axes.fill_between(coverage, *precision[1:], color=_BLUE, alpha=0.2)
    axes.plot(coverage, precision[0], color=_BLUE, marker=".")
    axes.set(
        title="if only the surest documents are decided",
        xlabel="coverage: % that is decided",
        ylabel="precision: % of it that is right",
        xlim=(0, 100),
    )
    axes.grid(alpha=0.3)


def _figure(width: float, height: float) -> Any:
    """An empty picture of that many inches, without the state of pyplot."""
    from matplotlib import figure

    return figure.Figure(figsize=(width, height), layout="constrained")


def _bytes(figure: Any, kind: str) -> bytes:
    """The picture as a file: "svg", or "png" of 130 pixels an inch."""
    import matplotlib

    content = io.BytesIO()
    # Text stays text in an SVG, and its names do not depend on chance.
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "cloze"}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            content,
            format=kind,
            dpi=130,
            metadata={"Date": None} if kind == "svg" else None,
        )
    return content.getvalue()
