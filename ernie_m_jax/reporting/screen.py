"""What people see: the progress of a run, and tables.

In: plain numbers from `metrics`, the mixture and the evaluators. Out: the terminal, a live bar, or plain lines where
there is none. Nothing flows back. Importing this module imports neither JAX nor matplotlib.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text

from ernie_m_jax import mirrors
from ernie_m_jax.reporting import files

# Light to dark blue, readable to colour-blind people; with the text colour of each step.
_SHADES = (("#f7fbff", "black"), ("#d0e1f2", "black"), ("#94c4df", "black"), ("#4a98c9", "black"), ("#1764ab", "white"))


class MixtureRow(NamedTuple):
    """One language or pair of the mixture; what is not known (no tokens counted yet) is None."""

    name: str
    records: int
    tokens: int | None
    probability: float
    epochs: float | None


class Progress:
    """How far a stage is: name, step of total, losses, tokens per second, time left.

    On a terminal a live bar with the losses below it, each on a line of its own that a narrow screen shortens at its
    end; otherwise (pipes, CI, notebooks) one plain line every `log_every` steps and at the end.

    Args:
      stage: name of the stage.
      total: the step at which the stage ends.
      start: the step at which this run of it begins (not 0 after a resume).
      log_every: steps between plain lines.
      console: where to; standard output if None.
      live: whether to draw a bar; None decides by the console.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        start: int = 0,
        log_every: int = 1,
        console: rich.console.Console | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console or rich.console.Console()
        self._stage, self._total, self._log_every, self._clock = stage, total, max(1, log_every), clock
        self._losses: dict[str, float] = {}
        self._speed: float | None = None
        self._printed = -1  # the step of the last plain line
        self._first: tuple[int, float] | None = None
        self._live: rich.live.Live | None = None
        if live is None:
            live = self.console.is_interactive and not self.console.is_jupyter and self.console.file.isatty()
        if live:
            columns = (
                "{task.description}",
                rich.progress.BarColumn(None),
                rich.progress.MofNCompleteColumn(table_column=rich.table.Column(min_width=2 * len(str(total)) + 1)),
                "{task.fields[left]}",
            )
            self._bar = rich.progress.Progress(*columns, console=self.console, expand=True)
            self._task = self._bar.add_task(stage, total=total, completed=start, left="")
            self._note = rich.text.Text(no_wrap=True, overflow="ellipsis")
            self._live = rich.live.Live(rich.console.Group(self._bar, self._note), console=self.console)

    def update(self, step: int, losses: Mapping[str, float], tokens_per_second: float | None = None) -> None:
        """Shows that `step` updates are done.

        Args:
          step: updates done, at most `total`.
          losses: mean loss of the objectives trained since the last call, by objective; others stay.
          tokens_per_second: as measured by the loop; None if not measured since.
        """
        self._losses.update(losses)
        left = self._time_left(step)
        parts = [f"{name} {value:.4f}" for name, value in sorted(self._losses.items())]
        self._speed = self._speed if tokens_per_second is None else tokens_per_second
        if self._speed is not None:
            parts.append(f"{_short(self._speed)} tokens/s")
        remaining = "" if left is None else f"{duration(left)} left"
        if self._live is not None:
            self._bar.update(self._task, completed=step, left=remaining)
            self._note.plain = "  ".join(parts)
        elif step != self._printed and (step % self._log_every == 0 or step == self._total):
            self._printed = step
            self.log("  ".join(filter(None, [f"{self._stage} {step}/{self._total}", *parts, remaining])))

    def log(self, text: str) -> None:
        """Prints a line, above the bar where there is one; never wrapped."""
        self.console.print(mirrors.named(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _time_left(self, step: int) -> float | None:
        """Seconds left at the pace since the first update, which leaves compilation out."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        begun, since = self._first
        return (self._total - step) * (now - since) / (step - begun) if step > begun else None


def show(*items: Any, console: rich.console.Console | None = None) -> None:
    """Prints tables at the width they need, even beyond the console's, and strings as they are; nothing is cut."""
    import jax

    if jax.process_index() != 0:
        return  # several hosts, one screen
    console = console or rich.console.Console()
    before = console.size
    for item in items:
        if isinstance(item, str):
            text = mirrors.named(item).encode("utf-8", "backslashreplace").decode()  # a file's name may be no Unicode
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            continue
        console.size = rich.console.ConsoleDimensions(10_000, before.height)
        console.width = max(before.width, console.measure(item).maximum)
        try:
            console.print(item)
        finally:
            console.size = before


def mixture_table(rows: Sequence[MixtureRow], title: str = "Mixture") -> rich.table.Table:
    """A row per language or pair: records, tokens, probability of being drawn, epochs over the run; and the totals."""
    table = rich.table.Table("", title=title, show_footer=len(rows) > 1)
    known = [row.tokens for row in rows if row.tokens is not None]
    totals = (
        ("records", f"{sum(row.records for row in rows):,}"),
        ("tokens", f"{sum(known):,}" if len(known) == len(rows) else "-"),
        ("probability", f"{sum(row.probability for row in rows):.4f}"),
        ("epochs", ""),
    )
    for name, total in totals:
        table.add_column(name, footer=total, justify="right")
    table.columns[0].footer = "total"
    for row in rows:
        tokens = "-" if row.tokens is None else f"{row.tokens:,}"
        epochs = "-" if row.epochs is None else f"{row.epochs:.2f}"
        table.add_row(row.name, f"{row.records:,}", tokens, f"{row.probability:.4f}", epochs)
    return table


def retrieval_table(languages: Sequence[str], matrix: Any, title: str = "Retrieval accuracy, %") -> rich.table.Table:
    """Accuracy of each pair in percent, shaded on a terminal, with the averages.

    Args:
      languages: L codes.
      matrix: [L, L] in 0..1; row: language of the query, column: language searched. The diagonal is ignored, NaN
        shows as "-".
      title: above the table.

    Raises:
      ValueError: `matrix` is not [L, L] or has a value outside 0..1.
    """
    percent = files.percentages(languages, matrix)
    # Narrow on purpose: 14 languages and their mean fit 80 columns.
    layout: dict[str, Any] = {
        "box": rich.box.SIMPLE_HEAD,
        "show_edge": False,
        "pad_edge": False,
        "padding": 0,
    }
    table = rich.table.Table("", title=title, caption="row: query; column: language searched", **layout)
    for language in (*languages, "mean"):
        table.add_column(language, justify="right")
    for language, row in zip(languages, percent, strict=True):
        table.add_row(language, *map(_shaded, row), _shaded(_mean(row)), end_section=language == languages[-1])
    table.add_row("mean", *(_shaded(_mean(column)) for column in percent.T), _shaded(_mean(percent)))
    return table


def language_table(
    rows: Mapping[str, Mapping[str, float]], title: str, digits: int = 1, mean: bool = True
) -> rich.table.Table:
    """Numbers by language: a row per metric, a column per language and, from two on, their mean; "-" where none is.

    Args:
      rows: metric -> language -> number. A language "all", if there is one, stands for all of them and is shown last.
      title: above the table.
      digits: decimals.
      mean: whether a mean is shown.
    """
    languages = list(dict.fromkeys(language for values in rows.values() for language in values if language != "all"))
    ends = (
        ["all"] if any("all" in values for values in rows.values()) else ["mean"] if mean and len(languages) > 1 else []
    )
    table = rich.table.Table("", title=title, box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for language in (*languages, *ends):
        table.add_column(language, justify="right")
    for metric, values in rows.items():
        average = {"mean": _mean(np.array([values[language] for language in languages if language in values]))}
        shown = [{**average, **values}.get(language, math.nan) for language in (*languages, *ends)]
        table.add_row(metric, *("-" if math.isnan(value) else f"{value:.{digits}f}" for value in shown))
    return table


def objectives_table(
    stages: Mapping[str, Mapping[str, Mapping[str, float]]], columns: Mapping[str, str] = {}
) -> rich.table.Table:
    """A row per stage and objective: how its loss began and ended, and what else was measured over its last steps.

    Args:
      stages: stage -> objective -> number by name.
      columns: the numbers that only some objectives have -> their titles.
    """
    table = rich.table.Table("", title="Objectives")
    shown = {
        "steps": "steps",
        "first_loss": "loss at first",
        "loss": "loss at last",
        "accuracy": "accuracy",
        "scored": "scored per step",
        **columns,
        "skipped": "skipped",
    }
    if not any("skipped" in values for objectives in stages.values() for values in objectives.values()):
        del shown["skipped"]
    for title in shown.values():
        table.add_column(title, justify="right")
    for stage, objectives in stages.items():
        for name, values in objectives.items():
            cells = [cell(values[key]) if key in values else "" for key in shown]
            table.add_row(f"{stage} {name}", *cells)
    return table


def cell(value: float | str) -> str:
    """A number for people: whole ones with separators, large ones with one decimal."""
    value = float(value) if isinstance(value, str) else value  # "nan", out of a file of JSON
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if value >= 100 else f"{value:.3f}"


def summary_table(summary: Mapping[str, Any], title: str = "Summary") -> rich.table.Table:
    """Two columns, name and value; nested mappings become names with dots."""
    table = rich.table.Table("", rich.table.Column("", justify="right"), title=title, show_header=False)
    for name, value in _flat(summary):
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
        table.add_row(name, rich.text.Text(shown))
    return table


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _shaded(percent: float) -> rich.text.Text:
    if math.isnan(percent):
        return rich.text.Text("-", style="dim")
    background, colour = _SHADES[min(int(percent / 20), 4)]
    return rich.text.Text(files.tenths(percent), style=f"{colour} on {background}")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _short(number: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
