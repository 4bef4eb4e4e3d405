"""`sweep.json`: what a sweep is and how far each of its runs is, written whole at every change.

    definition   config, settings, grid, seeds, tree: see `Definition`
    runs         name -> combination, seed, status (waiting, running, done, failed), command, pid and exit status of its
                 last process, seconds of all of them, selected (step, metric, value on dev), evals (evaluation ->
                 metric -> value)
    best         combination and runs; null until every run of some combination is done

`python -m ernie_m_jax.evaluation.tables` reads it too.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ernie_m_jax.config import ConfigError
from ernie_m_jax.reporting import files
from launch.definition import Definition, joined

FILE = "sweep.json"
LOWER_IS_BETTER = "loss"  # as in the runs' own selection


class Ledger:
    """A sweep on disk.

    Attributes:
      workdir: the directory of the sweep, with a work directory per run.
      definition: see `Definition`.
      runs: name -> the keys above.
    """

    def __init__(self, workdir: Path, given: Definition | None):
        """Reads what is there and joins it with `given`; nothing is written.

        Raises:
          ConfigError: it is damaged, there is none and nothing is given, or it is another sweep's.
        """
        self.workdir = workdir
        stored = _read(workdir / FILE)
        if stored is None and given is None:
            raise ConfigError(f"{workdir} holds no sweep: there is no {FILE} in it; --config=FILE begins one")
        before = None if stored is None else _definition(stored["definition"])
        definition = given if before is None else before if given is None else joined(before, given, str(workdir))
        assert definition is not None
        self.definition = definition
        known = {} if stored is None else stored["runs"]
        new: dict[str, Any] = {"status": "waiting", "command": None, "pid": None, "exit": None}
        new |= {"seconds": 0.0, "selected": None, "evals": {}}
        self.runs: dict[str, dict[str, Any]] = {
            run.name: known.get(run.name) or {"combination": run.combination, "seed": run.seed, **new}
            for run in self.definition.runs()
        }
        for name, run in self.runs.items():
            if run["status"] == "done" and not (workdir / name / "summary.json").exists():
                run["status"] = "waiting"  # somebody removed it, to have it again

    def write(self) -> None:
        """Writes the file."""
        chosen = self.best()
        names = [name for name, run in self.runs.items() if run["combination"] == chosen]
        content = {
            "definition": dataclasses.asdict(self.definition),
            "runs": self.runs,
            "best": None if chosen is None else {"combination": chosen, "runs": names},
        }
        files.write_json(self.workdir / FILE, content)

    def of_status(self, *statuses: str) -> list[str]:
        """Names of the runs of these statuses."""
        return [name for name, run in self.runs.items() if run["status"] in statuses]

    def combinations(self) -> dict[str, list[dict[str, Any]]]:
        """Combination -> its runs that are done, in the order of the seeds."""
        return {
            combination: [
                run for run in self.runs.values() if run["combination"] == combination and run["status"] == "done"
            ]
            for combination, _ in self.definition.combinations()
        }

    def best(self) -> str | None:
        """The combination with the best mean on dev, of those whose runs are all done with a finite value."""
        found = {name: runs for name, runs in self.combinations().items() if len(runs) == len(self.definition.seeds)}
        select = self.definition.select
        if not select:
            return next(iter(found), None)  # there is one combination only
        means = {name: mean(value(run) for run in runs) for name, runs in found.items()}
        means = {name: number for name, number in means.items() if math.isfinite(number)}
        order = min if select.split("/")[-1] == LOWER_IS_BETTER else max
        return order(means, key=lambda name: means[name]) if means else None


def value(run: Mapping[str, Any]) -> float:
    """A run's selected value on dev; NaN where it selected nothing."""
    return float((run["selected"] or {"value": math.nan})["value"])


def results(workdir: Path) -> dict[str, Any] | None:
    """`selected` and `evals` of a finished run: of its last stage. None if its summary is missing or damaged."""
    try:
        last = list(json.loads((workdir / "summary.json").read_text("utf-8"))["stages"].values())[-1]
        return {"selected": last.get("selected"), "evals": last["evals"]}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _read(path: Path) -> Any:
    """The file's content; None where there is none."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        _definition(stored["definition"])
        needed: Sequence[str] = ("combination", "seed", "status", "pid", "seconds", "selected", "evals")
        if not all(key in run for run in stored["runs"].values() for key in needed):
            raise KeyError("runs")
        return stored
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!r}); move it away and start the sweep again: runs that are complete are found "
            "to be so at once"
        ) from None


def _definition(stored: Mapping[str, Any]) -> Definition:
    return Definition(
        config=stored["config"],
        settings=tuple(stored["settings"]),
        grid={key: tuple(values) for key, values in stored["grid"].items()},
        seeds=tuple(stored["seeds"]),
        tree=stored["tree"],
    )
