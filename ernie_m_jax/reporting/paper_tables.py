"""The tables of the ERNIE-M paper, with our figures beneath them.

In: `paper/*.tsv`, which hold every row and figure as published (Ouyang et al., EMNLP 2021, arXiv 2012.15674), and our
figures by language, in percent. Out: a table for the screen, CSV, Markdown or PNG. Importing this module imports
neither JAX nor matplotlib.

A figure is accuracy (xnli, pawsx, tatoeba), chunk F1 over word pieces (conll) or F1/exact match (mlqa), all in percent.
A setting says what a model was fine-tuned on: "transfer" is English only, "all" is the training data of all languages
(Translate-Train-All; for conll "Fine-tune on all dataset"). mlqa and tatoeba have "transfer" only; of tatoeba's rows
only the starred one is fine-tuned.
"""

import functools
import importlib.resources
import io
from collections.abc import Callable, Mapping, Sequence
from csv import DictReader, writer
from typing import Any, NamedTuple

import rich.box
import rich.table
import rich.text

from ernie_m_jax.reporting import files

Value = float | str | Sequence[float]  # a percentage, or for mlqa F1 and exact match: "77.7/65.2" or (77.7, 65.2)

TASKS = ("xnli", "pawsx", "conll", "mlqa", "tatoeba")
_AVERAGE = "Avg"
_DECIMALS = {"conll": 2}  # the others have one
_PARTS = {"mlqa": 2}  # numbers in one figure; the others have one
_UNNAMED = {"tatoeba": 36}  # languages behind an average whose table has no columns for them
_WIDTH = 100  # columns of the screen that every table fits
# rich.box.SIMPLE_HEAD, but with a line, not a blank, between sections.
_BOX = rich.box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")
# What a reader must know who compares; the figures themselves stay as published.
_NOTES = {
    "xnli": "VECO Large's columns seem to be in another order of languages",
    "conll": "chunk F1 over word pieces",
    "mlqa": "F1/exact match; XLM-R Large: the F1 for hi is probably 69.2, not 62.9",
    "tatoeba": "* after fine-tuning; 36 languages",
}


class Row(NamedTuple):
    """One system's row of a published table.

    Attributes:
      model: the system's name.
      values: column -> percentage, in the table's order with "Avg" last; for mlqa a string, "F1/exact match".
    """

    model: str
    values: Mapping[str, float | str]


def settings(task: str) -> tuple[str, ...]:
    """The settings that the task's table has, in its order.

    Raises:
      ValueError: the paper has no such table; names those it has.
    """
    return tuple(dict.fromkeys(line["section"] for line in _read(task)))


def rows(task: str, setting: str) -> list[Row]:
    """The published rows of one setting, every system and figure as published, slips included.

    Args:
      task: one of `TASKS`.
      setting: one of `settings(task)`.

    Raises:
      ValueError: there is no such table, or it has no such setting; names those there are.
    """
    return [
        Row(
            line["model"],
            {column: line[column] if task in _PARTS else float(line[column]) for column in _columns(task)},
        )
        for line in _published(task, setting)
    ]


def table(task: str, setting: str, ours: Mapping[str, Mapping[str, Value]], title: str) -> rich.table.Table:
    """The published rows of one setting and, below a line, ours. It fits 100 columns; a long name is wrapped.

    Args:
      task: one of `TASKS`.
      setting: one of `settings(task)`.
      ours: name of a row -> language -> percentage (for mlqa F1 and exact match, "77.7/65.2" or a pair). A language
        that is missing shows "-"; the average is then over those there, and the name says how many these are.
        Tatoeba's table names no languages: any are averaged, and 36 are all.
      title: above the table.

    Raises:
      ValueError: no such table or setting; a language the table lacks; a value that is not in 0..100.
    """
    columns, published, own = as_shown(task, setting, ours)
    widths = [max(map(len, cells)) for cells in zip(columns, *published, *own, strict=True)]
    layout: dict[str, Any] = {"box": _BOX, "show_edge": False, "pad_edge": False, "padding": 0}
    shown = rich.table.Table(title=rich.text.Text(title), caption=note(task) or None, caption_justify="left", **layout)
    shown.add_column("", max_width=min(widths[0], _WIDTH - sum(1 + width for width in widths[1:])))
    for column in columns[1:]:
        shown.add_column(column, justify="right", no_wrap=True)
    for cells in published:
        shown.add_row(*map(rich.text.Text, cells), end_section=cells is published[-1] and bool(own))
    for cells in own:
        shown.add_row(*map(rich.text.Text, cells), style="bold")
    return shown


def csv(task: str, setting: str, ours: Mapping[str, Mapping[str, Value]]) -> str:
    """The same rows as CSV: published figures as they are printed in the paper, ours in full precision.

    The first column, "source", is "paper" or "ours". A missing language is an empty cell.

    Args:
      task: one of `TASKS`.
      setting: one of `settings(task)`.
      ours: as for `table`.

    Raises:
      ValueError: as `table`.
    """
    buffer = io.StringIO()
    lines = writer(buffer, lineterminator="\n")
    lines.writerow(["source", "model", *_columns(task)])
    for line in _published(task, setting):
        lines.writerow(["paper", line["model"], *(line[column] for column in _columns(task))])
    for label, figures in _own(task, ours):
        lines.writerow(["ours", label, *(_joined(figure, repr) for figure in figures)])
    return buffer.getvalue()


def markdown(task: str, setting: str, ours: Mapping[str, Mapping[str, Value]], title: str) -> str:
    """The same table in Markdown, our rows bold; arguments and errors as of `table`."""
    columns, published, own = as_shown(task, setting, ours)
    bold = [[f"**{_escaped(cell)}**" for cell in cells] for cells in own]
    plain = [[_escaped(cell) for cell in cells] for cells in published]
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *plain, *bold]
    below = f"\n{_escaped(note(task))}\n" if note(task) else ""
    return f"# {title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + below


def picture(path: Any, task: str, setting: str, ours: Mapping[str, Mapping[str, Value]], title: str) -> None:
    """Writes the same table as a PNG, our rows highlighted; the other arguments and errors as of `table`."""
    columns, published, own = as_shown(task, setting, ours)
    files.table_picture(path, [columns, *published, *own], len(own), title, note(task))


def note(task: str) -> str:
    """What a reader of the table must know who compares; may be empty."""
    return _NOTES.get(task, "")


def languages(task: str) -> tuple[str, ...]:
    """The languages that the table has a column for, in its order; none of Tatoeba's.

    Raises:
      ValueError: the paper has no such table; names those it has.
    """
    return tuple(column for column in _columns(task) if column != _AVERAGE)


def setting(task: str, trained_on: Sequence[str]) -> str | None:
    """The setting of what was fine-tuned on these languages: English alone or all of the table's; None of others.

    Raises:
      ValueError: the paper has no such table; names those it has.
    """
    if tuple(trained_on) == ("en",):
        return "transfer"
    is_all = "all" in settings(task) and sorted(trained_on) == sorted(languages(task))
    return "all" if is_all else None


def as_shown(
    task: str, setting: str, ours: Mapping[str, Mapping[str, Value]]
) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The columns, the first of them the models', and the cells of the published rows and of ours as they are shown.

    Arguments and errors are those of `table`.
    """
    columns = _columns(task)
    published = [[line["model"], *(line[column] for column in columns)] for line in _published(task, setting)]
    rounded = functools.partial(_rounded, task)
    own = [[label, *(_joined(figure, rounded) or "-" for figure in figures)] for label, figures in _own(task, ours)]
    return ["", *columns], published, own


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


@functools.cache
def _read(task: str) -> list[dict[str, str]]:
    """The table's lines as they stand in its file: section, model, a column per language, Avg."""
    if task not in TASKS:
        raise ValueError(f"the paper has no table {task!r}; it has {', '.join(TASKS)}")
    path = importlib.resources.files("ernie_m_jax.reporting").joinpath("paper", f"{task}.tsv")
    return list(DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))


def _published(task: str, setting: str) -> list[dict[str, str]]:
    if setting not in settings(task):
        there = ", ".join(map(repr, settings(task)))
        raise ValueError(f"the paper's table {task} has no setting {setting!r}; it has {there}")
    return [line for line in _read(task) if line["section"] == setting]


def _columns(task: str) -> list[str]:
    return [column for column in _read(task)[0] if column not in ("section", "model")]


def _own(task: str, ours: Mapping[str, Mapping[str, Value]]) -> list[tuple[str, list[tuple[float, ...]]]]:
    """Our rows: the label, and a figure per column with the average last; an empty figure is a missing one."""
    known = languages(task)
    total = _UNNAMED.get(task, len(known))
    found = []
    for name, values in ours.items():
        wrong = [language for language in values if language not in known and task not in _UNNAMED]
        if wrong:
            there = ", ".join(known)
            raise ValueError(f"{task}, row {name!r}: the table has no language {wrong[0]!r}; it has {there}")
        if len(values) > total:
            raise ValueError(f"{task}, row {name!r}: {len(values)} languages given, the paper has {total} languages")
        figures = {language: _numbers(task, name, language, value) for language, value in values.items()}
        average = tuple(sum(parts) / len(parts) for parts in zip(*figures.values(), strict=True))
        label = name if len(figures) == total else f"{name} ({len(figures)} of {total} languages)"
        found.append((label, [*(figures.get(language, ()) for language in known), average]))
    return found


def _numbers(task: str, name: str, language: str, value: Value) -> tuple[float, ...]:
    """The figure's numbers, checked: one, or F1 and exact match."""
    place, count = f"{task}, row {name!r}, {language}: {value!r}", _PARTS.get(task, 1)
    parts = value.split("/") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    if len(parts) != count:
        raise ValueError(f"{place}: a figure is {'one number' if count == 1 else 'F1 and exact match'} in percent")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if not numbers or not all(0 <= number <= 100 for number in numbers):
        raise ValueError(f"{place}: a figure is a percentage, from 0 to 100")
    return numbers


def _joined(figure: tuple[float, ...], shown: Callable[[float], str]) -> str:
    return "/".join(map(shown, figure))


def _rounded(task: str, number: float) -> str:
    """A percentage with as many decimals as the paper's table has."""
    return files.tenths(number) if task not in _DECIMALS else f"{number:.{_DECIMALS[task]}f}"
