"""A run's report as one HTML page: what it says in, the page out, which needs nothing from elsewhere to be shown.

`report/page.html` and `report/page.css` are its text. All that comes from a run is escaped, and the page's own policy
lets a browser load nothing and execute nothing. Importing this module imports neither JAX nor matplotlib.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from ernie_m_jax.reporting import files
from ernie_m_jax.reporting.chart import Chart


class Table(NamedTuple):
    """A table of text; the first column names the rows.

    Attributes:
      title: above it.
      header: a title per column.
      rows: their cells.
      ours: how many of the last rows stand out.
      note: below it; may be empty.
      is_text: whether the cells are words, not numbers.
      bars: column -> the share, in percent, that a bar behind each of its cells has.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    ours: int = 0
    note: str = ""
    is_text: bool = False
    bars: Mapping[int, Sequence[float]] | None = None


class HeatMap(NamedTuple):
    """Accuracies between languages: a row per language of the queries, a column per language searched, and the means.

    Attributes:
      title: above it.
      header: the languages searched, and "mean".
      rows: a language, and for each column the text and the depth of its shade, 0 to 9; None: no shade.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[tuple[str, list[tuple[str, int | None]]]]


class Share(NamedTuple):
    """A part of the time: its name, the number of its colour, its percentage and what is said of it."""

    name: str
    colour: int
    percent: float
    cells: Sequence[str]


class Section(NamedTuple):
    """A part of the page.

    Attributes:
      name: its title.
      facts: names and values.
      notes: paragraphs.
      items: charts, heat maps and tables, in order; None is passed over.
      shares: the parts of a whole, drawn as one bar with a table.
    """

    name: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    items: Sequence[Chart | HeatMap | Table | None] = ()
    shares: Sequence[Share] = ()


class Page(NamedTuple):
    """The report.

    Attributes:
      title: which run.
      status: how it stands, in a line.
      is_finished: whether it reached its end.
      facts: the numbers that matter, with their names.
      problems: what could not be read.
      sections: the parts.
      config: the run's, as text.
      made: when the page was made.
    """

    title: str
    status: str
    is_finished: bool
    facts: Sequence[tuple[str, str]]
    problems: Sequence[str]
    sections: Sequence[Section]
    config: str
    made: str


def render(page: Page) -> str:
    """The page as HTML."""
    return _template().render(page=page)


def heat_map(title: str, languages: Sequence[str], matrix: Any) -> HeatMap:
    """Accuracies between languages, with the means.

    Args:
      title: above it.
      languages: L codes.
      matrix: [L, L] in 0..1, as for `screen.retrieval_table`.

    Raises:
      ValueError: `matrix` is not [L, L] or has a value outside 0..1.
    """
    percent = files.percentages(languages, matrix)
    rows = [
        (language, [*map(_shaded, row), _shaded(_mean(row))]) for language, row in zip(languages, percent, strict=True)
    ]
    rows.append(("mean", [*(_shaded(_mean(column)) for column in percent.T), _shaded(_mean(percent))]))
    return HeatMap(title, [*languages, "mean"], rows)


def _shaded(percent: float) -> tuple[str, int | None]:
    return ("", None) if np.isnan(percent) else (files.tenths(percent), min(int(percent / 10), 9))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _kind(item: Any) -> str:
    return type(item).__name__


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ernie_m_jax", "reporting/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = _kind
    return environment.get_template("page.html")
