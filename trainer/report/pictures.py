"""A classifier's mistakes and its honesty, side by side in one PNG."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.report import statistics

_SIDE = 640  # Pixels of each of the two squares.
_MARGIN = 120  # Around them, for names and numbers.
_INK, _PALE, _WHITE = (31, 41, 55), (203, 213, 225), (255, 255, 255)
_BLUE, _ORANGE = (37, 99, 235), (217, 119, 6)
_MIN_CELL = 56  # Pixels; a smaller one has no room for numbers.
_MAX_NAME = 14  # Characters.

_Colour = tuple[int, int, int]


def evaluation_png(results: statistics.Results, names: Sequence[str]) -> bytes:
    """Confusion matrix and reliability diagram as the bytes of a PNG.

    The same bytes for the same results and the same Pillow. Names in a script
    that Pillow's own font lacks appear as boxes.
    """
    size = (2 * _SIDE + 3 * _MARGIN, _SIDE + 2 * _MARGIN)
    image = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(image)
    _draw_confusion(draw, results.confusion, names)
    _draw_reliability(draw, results)
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _draw_confusion(
    draw: ImageDraw.ImageDraw, confusion: np.ndarray, names: Sequence[str]
) -> None:
    left, top, cell = _MARGIN, _MARGIN, _SIDE / len(names)
    _write(draw, (left + _SIDE / 2, 40), "confusion matrix", size=28)
    _write(draw, (left + _SIDE / 2, top + _SIDE + 70), "answer")
    _write(draw, (left / 2, top - 36), "label")
    # By row: what becomes of the documents of a label.
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for row, shown in enumerate(map(_shortened, names)):
        middle = (row + 0.5) * cell
        if cell >= 18:
            _write(draw, (left / 2, top + middle), shown, width=left - 8)
        if cell >= _MIN_CELL:
            place = (left + middle, top + _SIDE + 30)
            _write(draw, place, shown, width=cell - 10)
        for column, share in enumerate(shares[row]):
            x, y = left + column * cell, top + row * cell
            box = (x, y, x + cell, y + cell)
            draw.rectangle(box, fill=_blend(share), outline=_PALE)
            if cell >= _MIN_CELL:
                _write(
                    draw,
                    (x + cell / 2, y + cell / 2),
                    f"{confusion[row, column]:,}\n{100 * share:.1f} %",
                    width=cell,
                    fill=_WHITE if share > 0.6 else _INK,
                )


def _draw_reliability(
    draw: ImageDraw.ImageDraw, results: statistics.Results
) -> None:
    left, top = 2 * _MARGIN + _SIDE, _MARGIN
    bottom, bins = top + _SIDE, results.reliability
    error = results.calibration_error
    title = (
        f"reliability, error {error.value:.3f}"
        f" ({error.low:.3f} to {error.high:.3f})"
    )
    _write(draw, (left + _SIDE / 2, 40), title, size=28)
    _write(draw, (left + _SIDE / 2, bottom + 70), "confidence")
    _write(draw, (left - _MARGIN / 2, top - 36), "accuracy")
    width = _SIDE / statistics.NUM_BINS
    most = max(int(bins.counts.max()), 1)
    for number in np.flatnonzero(bins.counts):
        x, height = left + number * width, bins.accuracy[number] * _SIDE
        # The fuller a bin, the stronger its colour.
        fill = _blend(0.25 + 0.75 * bins.counts[number] / most)
        draw.rectangle((x, bottom - height, x + width, bottom), fill, _WHITE)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - tick * _SIDE
        draw.line((left, y, left + _SIDE, y), fill=_PALE)
        _write(draw, (left - 36, y), f"{tick:g}")
        _write(draw, (left + tick * _SIDE, bottom + 24), f"{tick:g}")
    draw.line((left, bottom, left + _SIDE, top), fill=_ORANGE, width=3)


def _blend(share: float) -> _Colour:
    red, green, blue = (
        round(_WHITE[i] + share * (_BLUE[i] - _WHITE[i])) for i in range(3)
    )
    return red, green, blue


def _shortened(name: str) -> str:
    fits = len(name) <= _MAX_NAME
    return name if fits else f"{name[: _MAX_NAME - 1]}…"


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    size: float = 22,
    width: float = 2 * _SIDE,
    fill: _Colour = _INK,
) -> None:
    """Text around a point, smaller where it would be wider than `width`."""
    font = ImageFont.load_default(size)
    wide = draw.multiline_textbbox((0, 0), text, font=font)[2]
    if wide > width:
        font = ImageFont.load_default(max(8.0, size * width / wide))
    draw.multiline_text(
        place, text, fill=fill, font=font, anchor="mm", align="center"
    )
