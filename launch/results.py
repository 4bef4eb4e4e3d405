"""What a sweep found: its ledger in; a table, `sweep.csv` and the best combination's numbers out.

A standard deviation is the sample's, over n - 1, and there is none of one run.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import rich.table
import rich.text

from ernie_m_jax.reporting import files
from launch.ledger import LOWER_IS_BETTER, Ledger, value

FILE = "sweep.csv"
_WHOLE = "as configured"  # the one combination of a sweep without a grid
_WIDTH = 22  # columns of the screen for one metric


def numbers(ledger: Ledger) -> dict[str, dict[str, dict[int, float]]]:
    """Combination -> metric -> seed -> value, of the runs that are done.

    The metrics are the one on dev that selects ("dev/dev/accuracy"), and of the final evaluations what concerns the
    test set or the whole of what is evaluated, no single language: "xnli/test/accuracy", "tatoeba/to_en".
    """
    select = ledger.definition.select
    found: dict[str, dict[str, dict[int, float]]] = {}
    for combination, runs in ledger.combinations().items():
        metrics: dict[str, dict[int, float]] = {}
        for run in runs:
            values = {select: value(run)} if select else {}
            for evaluation, all_ in run["evals"].items():
                values |= {f"{evaluation}/{name}": float(all_[name]) for name in all_ if _is_overall(name)}
            for name, number in values.items():
                metrics.setdefault(name, {})[run["seed"]] = number
        found[combination] = metrics
    return found


def _is_overall(name: str) -> bool:
    *split, metric = name.split("/")
    return split in ([], ["test"]) and ">" not in metric


def table(ledger: Ledger) -> rich.table.Table:
    """A row per combination, the best one marked: of each metric the mean, its deviation and each run."""
    best, found = ledger.best(), numbers(ledger)
    shown = rich.table.Table(
        title="mean ± standard deviation (sample, n - 1), and each seed's run",
        caption="" if best is None else _rule(ledger),
        show_lines=True,
    )
    for column in ("", "runs"):
        shown.add_column(column, no_wrap=not column)
    columns = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    for column in columns:
        shown.add_column(column, max_width=_WIDTH, justify="right")
    for combination, metrics in found.items():
        of = len(ledger.definition.seeds)
        done = sum(run["status"] == "done" for run in ledger.runs.values() if run["combination"] == combination)
        name = f"{combination or _WHOLE}{' *' if combination == best else ''}"
        cells = [rich.text.Text(summary(column, list(metrics.get(column, {}).values()), "\n")) for column in columns]
        shown.add_row(rich.text.Text(name), f"{done} of {of}", *cells, style="bold" if combination == best else "")
    return shown


def _rule(ledger: Ledger) -> str:
    select = ledger.definition.select
    if not select:
        return ""
    lowest = select.split("/")[-1] == LOWER_IS_BETTER
    return f"* best: {'lowest' if lowest else 'highest'} mean of {select}, of the combinations whose runs are all done"


def best_lines(ledger: Ledger) -> list[str]:
    """The numbers of the best combination, a line per metric."""
    best, select = ledger.best(), ledger.definition.select
    if best is None:
        return []
    found = {name: list(values.values()) for name, values in numbers(ledger)[best].items() if name != select}
    return [f"best: {best or _WHOLE}", *(f"  {name}: {summary(name, values, ' ')}" for name, values in found.items())]


def summary(name: str, values: Sequence[float], space: str) -> str:
    """Mean ± deviation and, behind `space`, each run in brackets; "-" of none."""
    if not values:
        return "-"
    decimals = 4 if name.split("/")[-1] == LOWER_IS_BETTER else 2
    written = [f"{number:.{decimals}f}" for number in values]
    return f"{mean(values):.{decimals}f} ± {_spread(values, decimals)}{space}({', '.join(written)})"


def _spread(values: Sequence[float], decimals: int) -> str:
    return "-" if len(values) < 2 else f"{deviation(values):.{decimals}f}"


def deviation(values: Iterable[float]) -> float:
    """Standard deviation of a sample; NaN of one value, or where one is not finite."""
    known = list(values)
    return stdev(known) if len(known) > 1 and all(map(math.isfinite, known)) else math.nan


def write_csv(ledger: Ledger) -> None:
    """Writes `sweep.csv`: a row per combination and metric in full precision, a column per seed."""
    definition, best, found = ledger.definition, ledger.best(), numbers(ledger)
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    keys = [f"config.{key}" for key in definition.grid]
    rows.writerow(["combination", *keys, "best", "metric", "runs", "mean", "std", *map(_seed, definition.seeds)])
    for combination, settings in definition.combinations():
        values = [setting.partition("=")[2] for setting in settings]
        for metric, by_seed in found[combination].items():
            known, spread = list(by_seed.values()), deviation(by_seed.values())
            end = [_written(by_seed.get(seed)) for seed in definition.seeds]
            middle = [int(combination == best), metric, len(known), repr(mean(known)), _written(spread)]
            rows.writerow([combination, *values, *middle, *end])
    files.write_text(ledger.workdir / FILE, buffer.getvalue())


def _seed(seed: int) -> str:
    return f"seed {seed}"


def _written(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else repr(number)


def score(run: Mapping[str, Any], select: str) -> str:
    """How a run that is done is told of: its value on dev and the step it comes from."""
    if not run["selected"]:
        return "done"
    return f"{select} {value(run):.4f} at step {run['selected']['step']}"
