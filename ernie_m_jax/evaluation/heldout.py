"""An objective on held-out text: parameters in, its loss and accuracy by language, pair or direction out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax.config_evals import HeldoutEval
from ernie_m_jax.data import finite
from ernie_m_jax.data.loader import purpose
from ernie_m_jax.data.records import DataError
from ernie_m_jax.evaluation import finite_rows
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.reporting import files, screen
from ernie_m_jax.task import Batch, Bound, RandomAccess, Record, Sources, Sums


class First:
    """The first records of a sequence."""

    def __init__(self, records: RandomAccess, count: int):
        self._records, self._count = records, min(count, len(records))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return self._records[range(self._count)[index]]


class HeldoutEvaluator:
    """See `Evaluator`. A metric is "ENTRY/NAME" for an entry of the mixture, or "NAME" over all of them.

    Masks and pseudo tokens are drawn from the run's seed, the same in every evaluation, and no dropout applies.
    """

    submission = ""

    def __init__(self, name: str, keys: HeldoutEval, task: Bound, sources: Sources):
        """Opens the held-out text; `sources` hold it and nothing else."""
        self.name, self._keys, self._task = name, keys, task
        entries = {entry: group.records for entry, group in task.records(sources).items()}
        limit = keys.max_records
        self._entries = {entry: First(records, limit) if limit else records for entry, records in entries.items()}
        self._rows: dict[str, list[finite.Row]] = {}

    def run(self, model: Any, params: Any, tokenizer: Any) -> Outcome:
        """Every example of each entry once."""
        self._rows = self._rows or self._packed(tokenizer)
        function = finite_rows.compiled(self._loss, model, params)
        metrics: dict[str, float] = {}
        over_all: dict[str, tuple[float, float]] = {}
        for entry, rows in self._rows.items():
            sums: dict[str, tuple[float, float]] = {}
            for _, found in finite_rows.run(function, params, rows, self._task.spec(), self._keys.batch_size):
                _add(sums, found)
            _add(over_all, sums)
            metrics |= {f"{entry}/{name}": total / weight for name, (total, weight) in sums.items() if weight}
        metrics |= {name: total / weight for name, (total, weight) in over_all.items() if weight}
        if "loss" not in metrics:
            raise DataError(f"config.evals.{self.name}: its text holds nothing to predict")
        return Outcome(metrics)

    def _loss(self, model: Any, params: Any, batch: Batch) -> Sums:
        key = jax.random.fold_in(jax.random.key(self._task.cfg.seed), purpose("evaluate"))
        return self._task.loss(model, params, batch, key, True)

    def _packed(self, tokenizer: Any) -> dict[str, list[finite.Row]]:
        """The packed rows of each entry; made once, for an evaluation that comes again."""
        spec = self._task.spec()
        return {
            entry: list(finite.rows(finite.examples(self._task, tokenizer, [records]), spec))
            for entry, records in self._entries.items()
        }

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The loss over all entries."""
        return metrics.get("loss")

    def show(self, metrics: Mapping[str, float], title: str) -> list[Any]:
        """A row per metric, a column per entry."""
        return [screen.language_table(by_entry(metrics), title=title, digits=3)]

    def write(self, directory: Path, stem: str, metrics: Mapping[str, float]) -> None:
        """Writes `<stem>.csv` and `<stem>.png`, the losses as bars."""
        rows = by_entry(metrics)
        files.write_rows(directory / f"{stem}.csv", rows)
        files.bar_chart(directory / f"{stem}.png", {"loss": rows["loss"]}, f"{self.name}, {stem}", unit="nats")


def _add(sums: dict[str, tuple[float, float]], more: Mapping[str, Any]) -> None:
    for name, (total, weight) in more.items():
        before = sums.get(name, (0.0, 0.0))
        sums[name] = (before[0] + float(total), before[1] + float(weight))


def by_entry(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Name -> entry -> value; "all" stands for all entries together."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        entry, _, metric = name.rpartition("/")
        rows.setdefault(metric, {})[entry or "all"] = value
    return rows
