"""Pictures of how training prunes: first-layer filters and a piece of a fully-connected matrix, snapshot by snapshot.

Zeros are grey and nothing else is: the colours of other weights go from blue over white to red, those of Brewer's
scheme RdBu (Harrower & Brewer 2003, "ColorBrewer.org"), with the square root of the magnitude: the weights that are
left grow to tenfold their initial size, which a linear scale would show as white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openwork.study.results.history import Snapshot

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ZERO = (205, 205, 205)
"""The colour of a weight that is exactly zero; no other weight has it, and no background."""

_STOPS = np.array([(5, 113, 176), (146, 197, 222), (255, 255, 255), (244, 165, 130), (202, 0, 32)], np.float32)
_FILTERS, _ROW = 25, 5  # how many filters are shown, and how many of them side by side
_PIECE = 100  # rows and columns of the piece of a matrix
_SIDE = 300  # pixels of a piece; weights are enlarged by the greatest whole factor that fits
_GAP, _LINE = 24, 5  # pixels between pieces, and between filters
_INK, _QUIET = (27, 31, 36), (89, 98, 108)


@dataclass(frozen=True)
class Panel:
    """One piece of one weight at every snapshot.

    Args:
        name: Of the weight.
        what: Which piece, in words.
        images: The weight at each pixel, NaN for gaps, all of one shape (H, W).
        sparsity: Of the whole weight at each snapshot, 0-1.
    """

    name: str
    what: str
    images: list[Array]
    sparsity: list[float]

    @property
    def limit(self) -> float:
        """The magnitude from which on weights have the strongest colour.

        It is the largest 95th percentile of a snapshot's non-zero magnitudes; 1 without any.
        """
        magnitudes = [np.abs(image[np.isfinite(image) & (image != 0)]) for image in self.images]
        return max((float(np.quantile(m, 0.95)) for m in magnitudes if m.size), default=1.0)


def panels(snapshots: Sequence[Snapshot]) -> tuple[list[Panel], list[str]]:
    """The first weight's filters and the middle of the largest matrix, and why one of them cannot be shown."""
    shapes = snapshots[0].shapes
    found, missing = [], []
    first, shape = next(iter(shapes.items()))
    if len(shape) == 4:
        c = min(shape[1], 3)
        what = f"{_first(shape[0], 'filters')}" + (f", {c} of {shape[1]} channels each" if shape[1] > 1 else "")
        found.append(_panel(snapshots, first, what, lambda w: _grid(np.concatenate(list(w[:, :c].swapaxes(0, 1)), 2))))
    elif len(shape) == 2 and (side := math.isqrt(shape[1])) ** 2 == shape[1]:
        what = f"{_first(shape[0], 'units')}, their {side} x {side} inputs"
        found.append(_panel(snapshots, first, what, lambda w: _grid(w.reshape(-1, side, side))))
    else:
        missing.append(f"no filters: {first} {shape} is neither a kernel over images nor over square images")
    if matrices := {name: math.prod(s) for name, s in shapes.items() if len(s) == 2}:
        name = max(matrices, key=lambda name: matrices[name])
        rows, columns = (min(size, _PIECE) for size in shapes[name])
        found.append(_panel(snapshots, name, f"the middle {rows} x {columns} weights", _middle))
    else:
        missing.append("no piece of a matrix: none of the selected weights is one")
    return found, missing


def strip(panels: Sequence[Panel], steps: Mapping[int, int], title: str) -> Image:
    """A row for each panel and a column for each step, with the sparsity of the weight below and the scale beside.

    Args:
        panels: The pieces to show.
        steps: The number of a snapshot -> its step, for those to show.
        title: Of the whole picture.
    """
    from PIL import Image, ImageDraw

    line, bar = 44, 200
    heights = [line + panel.images[0].shape[0] + int(1.5 * line) for panel in panels]
    columns = max(len(steps), 3)  # the words need as much
    size = (_GAP + columns * (_SIDE + _GAP) + bar, 3 * line + sum(heights))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_GAP, _GAP), title, 30, _INK)
    for column, step in enumerate(steps.values()):
        centre = _GAP + column * (_SIDE + _GAP) + _SIDE / 2
        _text(draw, (centre, 2 * line), f"step {step:,}", 28, _INK, anchor="ma")
    top = 3 * line
    for panel, height in zip(panels, heights, strict=True):
        _text(draw, (_GAP, top + 8), f"{panel.name}: {panel.what}", 26, _QUIET)
        upper, lower = top + line, top + height - int(1.5 * line)
        for column, number in enumerate(steps):
            left = _GAP + column * (_SIDE + _GAP)
            _paste(sheet, panel, number, (left, upper))
            text = f"{100 * panel.sparsity[number]:.1f} % zeros"
            _text(draw, (left + _SIDE / 2, lower + 8), text, 26, _INK, anchor="ma")
        _scale(sheet, draw, panel.limit, (_GAP + len(steps) * (_SIDE + _GAP), upper), lower - upper)
        top += height
    return sheet


def frames(panels: Sequence[Panel], steps: Sequence[int], title: str) -> list[Image]:
    """The pictures of an animation of the same: one for each step, its panels side by side.

    Args:
        panels: The pieces to show.
        steps: Those of all snapshots.
        title: Of every picture.
    """
    from PIL import Image, ImageDraw

    sheets = []
    tall = max(panel.images[0].shape[0] for panel in panels)
    for number, step in enumerate(steps):
        sheet = Image.new("RGB", (_GAP + 2 * (_SIDE + _GAP), tall + 150), "white")
        draw = ImageDraw.Draw(sheet)
        _text(draw, (_GAP, 16), f"step {step:,}", 22, _INK)
        _text(draw, (_GAP, 46), title, 15, _QUIET)
        for column, panel in enumerate(panels):
            left = _GAP + column * (_SIDE + _GAP)
            _paste(sheet, panel, number, (left, 76))
            _text(draw, (left, 84 + tall), f"{panel.name}: {100 * panel.sparsity[number]:.1f} % zeros", 16, _INK)
            _text(draw, (left, 110 + tall), panel.what, 15, _QUIET)
        sheets.append(sheet)
    return sheets


def colours(values: Array, limit: float) -> Bytes:
    """The colours (H, W, 3) of weights (H, W): blue for -limit and below, white near zero, red for limit and above.

    Exact zeros are `ZERO`, NaN is white.
    """
    place = np.nan_to_num(np.sign(values) * np.sqrt(np.minimum(np.abs(values) / limit, 1)))
    rgb = np.stack([np.interp(place, np.linspace(-1, 1, len(_STOPS)), stops) for stops in _STOPS.T], -1)
    rgb[values == 0] = ZERO
    return rgb.round().astype(np.uint8)


def _first(count: int, noun: str) -> str:
    return f"the first {_FILTERS} of {count} {noun}" if count > _FILTERS else f"all {count} {noun}"


def _panel(snapshots: Sequence[Snapshot], name: str, what: str, piece: Callable[[Array], Array]) -> Panel:
    weights = [snapshot.weight(name).float().numpy() for snapshot in snapshots]
    return Panel(name, what, [piece(weight) for weight in weights], [float((w == 0).mean()) for w in weights])


def _grid(tiles: Array) -> Array:
    """The first tiles of (N, H, W), enlarged, `_ROW` side by side, with gaps of NaN."""
    tiles = _enlarged(tiles[:_FILTERS], (_SIDE - (_ROW - 1) * _LINE) // _ROW)
    count, height, width = tiles.shape
    down, across = height + _LINE, width + _LINE
    grid = np.full((-(-count // _ROW) * down - _LINE, min(count, _ROW) * across - _LINE), np.nan, np.float32)
    for number, tile in enumerate(tiles):
        y, x = number // _ROW * down, number % _ROW * across
        grid[y : y + height, x : x + width] = tile
    return grid


def _middle(matrix: Array) -> Array:
    # Not the corner: the first inputs of a network on images are those of their dark border.
    y, x = (max(0, (size - _PIECE) // 2) for size in matrix.shape)
    return _enlarged(matrix[y : y + _PIECE, x : x + _PIECE], _SIDE)


def _enlarged(weights: Array, side: int) -> Array:
    """The weights (..., H, W), each repeated as often as fits into squares of ``side`` pixels, at least once."""
    factor = max(1, side // max(weights.shape[-2:]))
    return weights.repeat(factor, -2).repeat(factor, -1)


def _paste(sheet: Image, panel: Panel, number: int, place: tuple[int, int]) -> None:
    """Draws the panel's image of that number in the middle of the `_SIDE` pixels that begin there."""
    from PIL import Image

    pixels = Image.fromarray(colours(panel.images[number], panel.limit))
    sheet.paste(pixels, (place[0] + (_SIDE - pixels.width) // 2, place[1]))


def _scale(sheet: Image, draw: ImageDraw, limit: float, place: tuple[int, int], height: int) -> None:
    """A bar of the colours from limit down to -limit, and the colour of zeros below it."""
    from PIL import Image

    (left, top), width, swatch = place, 28, 28
    bar = height - swatch - 16
    place_on_bar = np.linspace(1, -1, bar, dtype=np.float32)[:, None].repeat(width, 1)
    shades = limit * place_on_bar * np.abs(place_on_bar)  # the colour goes with the square root
    shades[shades == 0] = limit * 1e-6  # the middle of the bar is nearly zero, not zero
    sheet.paste(Image.fromarray(colours(shades, limit)), place)
    draw.rectangle((left, top, left + width - 1, top + bar - 1), outline=_QUIET)
    draw.rectangle((left, top + bar + 16, left + width - 1, top + height - 1), fill=ZERO, outline=_QUIET)
    for y, text, anchor in (
        (0, f"> {limit:.2g}", "la"),
        (bar / 4, f"{limit / 4:.2g}", "lm"),
        (bar * 3 / 4, f"-{limit / 4:.2g}", "lm"),
        (bar, f"< -{limit:.2g}", "ls"),
        (bar + 16 + swatch / 2, "zero", "lm"),
    ):
        _text(draw, (left + width + 12, top + y), text, 26, _INK, anchor=anchor)


def _text(
    draw: ImageDraw, place: tuple[float, float], text: str, size: int, colour: tuple[int, int, int], anchor: str = "la"
) -> None:
    from PIL import ImageFont

    # Pillow's own font, the same on every machine; it knows little beyond ASCII.
    draw.text(place, text, fill=colour, font=ImageFont.load_default(size), anchor=anchor)
