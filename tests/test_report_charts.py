"""The charts of a run's report: curves that are thinned, ticks, and where the lines are drawn."""

import numpy as np
import pytest

from ernie_m_jax.reporting import chart, history


def test_a_thinned_curve_keeps_its_ends_means_and_spikes():
    values = np.linspace(0, 9999, 10_000) ** 0.5
    values[7_777], values[123] = 500.0, np.nan
    curve = history.thinned(np.arange(10_000), values, 100)
    assert len(curve.steps) <= 100
    assert curve.left_out == 1
    assert curve.most.max() == 500.0
    finite = np.isfinite(values[:100])
    assert curve.means[0] == pytest.approx(values[:100][finite].mean())
    assert curve.last == pytest.approx(values[-100:].mean())
    few = history.thinned(np.array([5, 3, 9]), np.array([1.0, 2.0, np.inf]), 100)
    assert (list(few.steps), list(few.means), few.left_out) == ([3, 5], [2.0, 1.0], 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1700, [0, 500, 1000, 1500]), (0, 0.0031, [0, 0.001, 0.002, 0.003]), (3.4, 8.1, [4, 5, 6, 7, 8])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert chart.ticks(low, high, 5) == pytest.approx(expected)


def points(path):
    """The absolute points of a path of a chart."""
    begin, _, rest = path.removeprefix("M").removesuffix("Z").partition("l")
    numbers = [float(number) for number in rest.split()]
    moves = [tuple(map(float, begin.split())), *zip(numbers[::2], numbers[1::2], strict=True)]
    return np.cumsum(np.array(moves), axis=0)


def test_a_curve_is_drawn_where_its_numbers_are():
    curve = history.thinned(np.arange(5), np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 100)
    drawn = chart.chart("t", {"a": curve}, {"a": 3}, 4)
    found = points(drawn.lines[0].path)
    at = {tick.label: tick.at for tick in drawn.up}
    np.testing.assert_allclose(found[:, 0], np.linspace(drawn.left, drawn.right, 5), atol=0.06)
    np.testing.assert_allclose(found[[0, 1, 4], 1], [at["0"], at["1"], at["4"]], atol=0.06)
    assert at["0"] == drawn.bottom
    assert drawn.top < at["4"] < drawn.top + 0.1 * (drawn.bottom - drawn.top)
    assert drawn.lines[0].colour == 3
    wide = chart.chart("t", {"a": history.thinned(np.arange(3), np.array([1.0, 10.0, 1000.0]), 9)}, {"a": 0}, 2, True)
    heights = points(wide.lines[0].path)[:, 1]
    assert heights[0] - heights[2] == pytest.approx(3 * (heights[0] - heights[1]), abs=0.2)


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308],
        [5e-324, 5e-324],
        [0.0],
        [np.nan],
        [7.0, 7.0],
        [1e150, -1e150],
        [1e19, 1e20, 1e25],
        [1.0, 1e180],
        [0.0, 1e30],
    ],
)
def test_any_numbers_can_be_drawn(values):
    curve = history.thinned(np.arange(len(values)), np.array(values), 10)
    made = chart.chart("t", {"a": curve}, {"a": 0}, 5, wide=True)
    if made is None:
        assert not len(curve.steps)
    else:
        found = [*points(made.lines[0].path.removesuffix("h.01")).flat, *(tick.at for tick in (*made.up, *made.across))]
        assert np.isfinite(found).all()
        assert 0 <= min(found) <= max(found) <= chart.WIDTH
