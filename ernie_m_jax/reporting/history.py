"""A stage's `metrics.jsonl` as curves: every step's numbers in, a bounded number of points out."""

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

_MOST = 1e200  # a larger value counts as not finite: sums of such overflow
_NOT_DRAWN = {"step", "objective", "eval", "timing", "tokens", "fill"}
TIMING = "timing/"  # before the names of the timing's numbers


class Curve(NamedTuple):
    """One number over the steps, thinned.

    Attributes:
      steps: [P], the mean step of each point, rising.
      means, least, most: [P], of the values that a point stands for.
      left_out: how many values were not finite.
    """

    steps: np.ndarray
    means: np.ndarray
    least: np.ndarray
    most: np.ndarray
    left_out: int

    @property
    def first(self) -> float:
        """The first point's mean; NaN of an empty curve."""
        return float(self.means[0]) if len(self.means) else float("nan")

    @property
    def last(self) -> float:
        """The last point's mean; NaN of an empty curve."""
        return float(self.means[-1]) if len(self.means) else float("nan")


class History:
    """What the lines of one stage say.

    Attributes:
      values: number -> objective -> (steps, values), all of them. The timing's are named "timing/NAME", of "".
      evaluations: the lines of evaluations, in order.
      last: the newest step that has a line; None without any.
      tokens: real tokens of all lines that say a finite number.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]]):
        """Reads sound lines, as `metrics.entries` gives them."""
        self.values: dict[str, dict[str, tuple[array[float], array[float]]]] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.last: int | None = None
        self.tokens = 0.0
        for entry in entries:
            if "eval" in entry:
                self.evaluations.append(dict(entry))
                continue
            self.last = max(entry["step"], -1 if self.last is None else self.last)
            objective = entry.get("objective", "")
            count = float(entry.get("tokens", 0))
            self.tokens += count if math.isfinite(count) else 0.0
            for name, value in entry.items():
                if name not in _NOT_DRAWN:
                    self._add(name, objective, entry["step"], value)
            for name, value in entry.get("timing", {}).items():
                self._add(f"{TIMING}{name}", "", entry["step"], value)

    def merged(self, name: str, points: int) -> Curve:
        """The curve of one number that does not depend on the objective."""
        found = self.values.get(name, {}).values()
        steps, values = ([number for pair in found for number in pair[place]] for place in (0, 1))
        return thinned(np.array(steps, np.float64), np.array(values, np.float64), points)

    def _add(self, name: str, objective: str, step: int, value: Any) -> None:
        steps, values = self.values.setdefault(name, {}).setdefault(objective, (array("d"), array("d")))
        steps.append(step)
        values.append(float(value))  # "nan" and "inf" too

    def curves(self, name: str, points: int) -> dict[str, Curve]:
        """Objective -> its curve of one number, of at most so many points."""
        return {
            objective: thinned(np.array(steps), np.array(values), points)
            for objective, (steps, values) in sorted(self.values.get(name, {}).items())
        }


def thinned(steps: np.ndarray, values: np.ndarray, points: int) -> Curve:
    """A curve of at most `points` points: means, least and most over equally wide ranges of steps.

    Args:
      steps: [N].
      values: [N]; those that are not finite are left out.
      points: at least 1.
    """
    finite = np.abs(values) < _MOST
    left_out, steps, values = int((~finite).sum()), steps[finite], values[finite]
    if not len(steps):
        none = np.zeros(0)
        return Curve(none, none, none, none, left_out)
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    place = np.arange(len(steps))
    if len(steps) > points:
        place = np.minimum(((steps - steps[0]) / (steps[-1] - steps[0] or 1) * points).astype(np.int64), points - 1)
    _, begins, counts = np.unique(place, return_index=True, return_counts=True)
    return Curve(
        steps=np.add.reduceat(steps, begins) / counts,
        means=np.add.reduceat(values, begins) / counts,
        least=np.minimum.reduceat(values, begins),
        most=np.maximum.reduceat(values, begins),
        left_out=left_out,
    )
