"""Curves as pictures that a page holds as SVG: thinned curves in, coordinates out; `page.html` writes the elements.

The colours are the page's, so a chart follows its light and dark mode.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ernie_m_jax.reporting.history import Curve

WIDTH, HEIGHT = 400, 240  # of a chart, in its own units; on a phone a unit is about a pixel
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 10, 26  # around the curves
COLOURS = 8  # the page has as many


class Tick(NamedTuple):
    """A place on an axis, in the chart's units, and what stands there."""

    at: float
    label: str


class Line(NamedTuple):
    """A curve: its name, a number for its colour, and the `d` of two paths: the means, and the band around them.

    A curve of one point is a dot.
    """

    name: str
    colour: int
    path: str
    band: str
    is_dot: bool


class Chart(NamedTuple):
    """A chart, ready to be written.

    Attributes:
      title: what is drawn, with its unit.
      description: for who cannot see it: where each curve begins and ends.
      lines: the curves.
      across, up: ticks of the steps and of the values.
      left, right, top, bottom: edges of the plot in a picture of `WIDTH` times `HEIGHT`.
      note: what the reader must know; may be empty.
    """

    title: str
    description: str
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    note: str
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def chart(
    title: str, curves: Mapping[str, Curve], colours: Mapping[str, int], steps: int, wide: bool = False
) -> Chart | None:
    """Draws curves over the steps; None where none of them has a value.

    Args:
      title: of the chart, with the unit.
      curves: by name.
      colours: name -> number of its colour, so that a name has one colour in all charts.
      steps: the last step of the axis.
      wide: whether values that are all above 0 get a logarithmic axis where they differ by more than a factor of 100.
    """
    drawn = {name: curve for name, curve in curves.items() if len(curve.steps)}
    left_out = sum(curve.left_out for curve in curves.values())
    if not drawn:
        return None
    least = min(float(curve.least.min()) for curve in drawn.values())
    most = max(float(curve.most.max()) for curve in drawn.values())
    logarithmic = wide and least > 0 and most > 100 * least
    low, high = _range(least, most, logarithmic)
    last = max(steps, *(math.ceil(curve.steps[-1]) for curve in drawn.values()), 1)

    def x(values: np.ndarray) -> np.ndarray:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * values / last

    def y(values: np.ndarray) -> np.ndarray:
        scaled = np.log10(values) if logarithmic else values
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (scaled - low) / (high - low)

    notes = [f"{left_out:,} values that are not finite are left out"] if left_out else []
    notes += ["logarithmic axis"] if logarithmic else []
    return Chart(
        title=title,
        description="; ".join(_described(name, curve) for name, curve in drawn.items()),
        lines=[
            Line(name, colours[name] % COLOURS, *_paths(x(curve.steps), y(curve.means), y(curve.least), y(curve.most)))
            for name, curve in drawn.items()
        ],
        across=[Tick(round(float(x(np.array(value))), 1), short(value)) for value in ticks(0, last, 5)],
        up=[
            Tick(round(float(y(np.array(10.0**value if logarithmic else value))), 1), short(shown))
            for value, shown in _up(low, high, logarithmic)
        ],
        note="; ".join(notes),
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two, at most about so many."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))  # of integers above 2^63 numpy makes objects
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, end + 1)]


def short(value: float) -> str:
    """A number in few characters: 1.5k, 20M, 0.003, 3e-05."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.3g}".replace("e-0", "e-")


def _range(least: float, most: float, logarithmic: bool) -> tuple[float, float]:
    """The ends of the axis of values, a little beyond them; logarithms on a logarithmic axis."""
    low, high = (math.log10(least), math.log10(most)) if logarithmic else (least, most)
    if low == high == 0.0 and not logarithmic:
        return 0.0, 1.0
    # A span that the numbers' own size makes nothing is none.
    margin = 0.05 * (high - low) if high - low > 1e-9 * max(abs(low), abs(high)) else 0.5 * abs(high) or 1.0
    if not logarithmic and 0 <= low < 0.25 * high:
        return 0.0, high + margin  # shares and counts from 0 on
    return low - margin, high + margin


def _up(low: float, high: float, logarithmic: bool) -> list[tuple[float, float]]:
    """Ticks of the values: where (a logarithm on a logarithmic axis), and which number stands there."""
    if not logarithmic:
        return [(value, value) for value in ticks(low, high, 5)]
    every = max(1, math.ceil((high - low) / 5))
    return [(power, 10.0**power) for power in range(math.ceil(low), math.floor(high) + 1, every)]


def _paths(x: np.ndarray, mean: np.ndarray, least: np.ndarray, most: np.ndarray) -> tuple[str, str, bool]:
    """The rest of a `Line`; the band, where a point stands for several values, is from the least to the most."""
    path = _path(x, mean)
    if len(x) == 1:  # the ends of a line are round
        path += "h.01"
    band = (
        "" if np.array_equal(least, most) else _path(np.concatenate([x, x[::-1]]), np.concatenate([least, most[::-1]]))
    )
    return path, f"{band}Z" if band else "", len(x) == 1


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """A line through the points, each relative to the one before, in tenths: a quarter fewer characters."""
    tenths = np.stack([np.rint(10 * x), np.rint(10 * y)]).astype(np.int64)
    steps = np.diff(tenths, axis=1).T
    begin = f"M{_tenths(tenths[0, 0])} {_tenths(tenths[1, 0])}"
    return begin + ("l" + " ".join(f"{_tenths(dx)} {_tenths(dy)}" for dx, dy in steps) if len(steps) else "")


def _tenths(number: int) -> str:
    return f"{number / 10:g}"


def _described(name: str, curve: Curve) -> str:
    which = f"{name}: " if name else ""
    return f"{which}{short(curve.first)} at first, {short(curve.last)} at last"
