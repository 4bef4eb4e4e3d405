"""A labelled task on its splits: parameters in, the task's official scores by language out, with its predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m_jax.config_evals import TaskEval
from ernie_m_jax.data import finite
from ernie_m_jax.evaluation import predicted
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.reporting import files, paper_tables, screen
from ernie_m_jax.task import Bound, RandomAccess


class TaskEvaluator:
    """See `Evaluator`. A metric is "SPLIT/LANGUAGE/METRIC", or "SPLIT/METRIC", the mean over the languages."""

    def __init__(
        self,
        name: str,
        keys: TaskEval,
        task: Bound,
        splits: Mapping[str, Mapping[str, RandomAccess]],
    ):
        """Takes the opened splits of the task; those that `keys.splits` names are scored."""
        self.name, self._keys, self._task = name, keys, task
        self._groups = [
            (split, language, records) for split in keys.splits for language, records in splits[split].items()
        ]
        self._rows: list[finite.Row] = []
        self.submission = task.task.submission(task.cfg, task.keys)

    def run(self, model: Any, params: Any, tokenizer: Any) -> Outcome:
        """Predicts every record of every language once, and scores them."""
        groups = [records for *_, records in self._groups]
        self._rows = self._rows or predicted.packed(self._task, tokenizer, groups)  # once, though it comes again
        found = predicted.predictions(self._task, model, params, groups, self._rows, self._keys.batch_size)
        metrics: dict[str, float] = {}
        written: dict[str, Sequence[str]] = {}
        for (split, language, sequence), predictions in zip(self._groups, found, strict=True):
            records = [sequence[index] for index in range(len(sequence))]
            for metric, value in self._task.score(records, predictions).items():
                metrics[f"{split}/{language}/{metric}"] = value
            if self._task.task.lines is not None:
                lines = self._task.task.lines(self._task.cfg, self._task.keys, records, predictions)
                written[f"{split}-{language}{self._task.task.lines_suffix}"] = lines
        return Outcome(metrics | _means(metrics), written)

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The mean over the languages of the last split's first metric."""
        means = [name for name in metrics if name.count("/") == 1]
        first = next((name for name in means if means and name.startswith(f"{self._keys.splits[-1]}/")), None)
        return None if first is None else metrics[first]

    def show(self, metrics: Mapping[str, float], title: str) -> list[Any]:
        """A table of all splits, and for the last one the paper's rows with ours beneath."""
        rows = by_language(metrics)
        if not rows:
            return [f"{title}: no labels to score; what was predicted is written"]
        tables: list[Any] = [screen.language_table(rows, title=title)]
        if (found := paper_figures(self._task, metrics)) is not None:
            paper, ours = found
            title = f"{paper[0]} {paper[1]}: the paper's rows and ours"
            tables.append(paper_tables.table(*paper, {"ours": ours} if ours else {}, title=title))
        return tables

    def write(self, directory: Path, stem: str, metrics: Mapping[str, float]) -> None:
        """Writes `<stem>.csv`, a row per split and metric, and `<stem>.png`; neither where nothing is scored."""
        rows = by_language(metrics)
        if not rows:
            return
        files.write_rows(directory / f"{stem}.csv", rows)
        files.bar_chart(directory / f"{stem}.png", rows, f"{self.name}, {stem}", unit="%")


def _means(metrics: Mapping[str, float]) -> dict[str, float]:
    """The mean over languages of each split's metrics."""
    grouped: dict[str, list[float]] = {}
    for name, value in metrics.items():
        split, _, metric = name.split("/")
        grouped.setdefault(f"{split}/{metric}", []).append(value)
    return {name: float(np.mean(values)) for name, values in grouped.items()}


def paper_figures(
    task: Bound, metrics: Mapping[str, float]
) -> tuple[tuple[str, str], dict[str, paper_tables.Value]] | None:
    """What belongs into a table of the paper: the table and its setting, and the test split's figures by language.

    A figure is those of the task's metrics together that it names, or the first alone; languages that the table lacks
    are left out. None where the task has no such table, or nothing was scored on a test split.
    """
    rows, paper, names = by_language(metrics), task.task.paper(task.cfg, task.keys), task.task.figure
    if names:
        parts = [rows.get(f"test {name}", {}) for name in names]
        figures: dict[str, paper_tables.Value] = {
            language: tuple(part[language] for part in parts)
            for language in parts[0]
            if all(language in part for part in parts)
        }
    else:
        figures = dict(next((values for row, values in rows.items() if row.startswith("test ")), {}))
    if paper is None or not figures:
        return None
    known = paper_tables.languages(paper[0])
    return paper, {language: figure for language, figure in figures.items() if language in known}


def by_language(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Row "SPLIT METRIC" -> language -> value, without the means."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.count("/") == 2:
            split, language, metric = name.split("/")
            rows.setdefault(f"{split} {metric}", {})[language] = value
    return rows
