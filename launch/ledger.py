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
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from ernie_m_jax import config_renames
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_build import with_defaults
from ernie_m_jax.reporting import files
from launch.definition import Definition, joined

FILE = "sweep.json"
STATUSES = ("waiting", "running", "done", "failed")
LOWER_IS_BETTER = "loss"  # as in the runs' own selection


class Ledger:
    """A sweep on disk.

    Attributes:
      workdir: the directory of the sweep, with a work directory per run.
      definition: see `Definition`.
      runs: name -> the keys above.
    """

    def __init__(self, workdir: Path, given: Definition | None):
        """Reads what is there, with the summaries of the runs that are done, and joins it with `given`.

        Nothing is written or executed. What is not whole any more counts as waiting.

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
            if run["status"] == "done":
                found = results(workdir / name)
                run |= {"status": "waiting"} if found is None else found

    def write(self) -> None:
        """Writes the file.

        Raises:
          ConfigError: it cannot be written.
        """
        chosen = self.best()
        names = [name for name, run in self.runs.items() if run["combination"] == chosen]
        content = {
            "definition": dataclasses.asdict(self.definition),
            "runs": self.runs,
            "best": None if chosen is None else {"combination": chosen, "runs": names},
        }
        try:
            files.write_json(self.workdir / FILE, content)
        except OSError as error:
            raise ConfigError(f"{self.workdir / FILE} cannot be written: {error}") from error

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
        found = {"selected": last.get("selected"), "evals": last["evals"]}
        _check_numbers(found)
        return found
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _check_numbers(run: Mapping[str, Any]) -> None:
    """Raises what stands for damage where `selected` and `evals` are not what a run finds."""
    if run["selected"] is not None:
        int(run["selected"]["step"])
        float(run["selected"]["value"])
    for metrics in run["evals"].values():
        for number in metrics.values():
            float(number)


def _read(path: Path) -> Any:
    """The file's content; None where there is none."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        definition = _definition(stored["definition"])
        with_defaults(Config, config_renames.upgraded(dict(definition.tree)))
        for name, run in stored["runs"].items():
            if run["status"] not in STATUSES:
                raise ValueError(f"the status of {name} is {run['status']!r:.40}; there are {', '.join(STATUSES)}")
            kinds = {"combination": str, "seed": int, "pid": int | None, "exit": int | None, "seconds": int | float}
            for key, kind in kinds.items():
                if not isinstance(run[key], kind):
                    raise TypeError(f"{key} of {name} is {run[key]!r:.40}")
            _check_numbers(run)
        return stored
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        what = " ".join(repr(error).split())
        raise ConfigError(
            f"{path} is damaged ({what}); move it away and start the sweep again: runs that are complete are found to "
            "be so at once"
        ) from None


def _definition(stored: Mapping[str, Any]) -> Definition:
    """What is stored, its types checked: TypeError or KeyError where they are others."""
    made = Definition(
        config=stored["config"],
        settings=tuple(stored["settings"]),
        grid={key: tuple(values) for key, values in stored["grid"].items()},
        seeds=tuple(stored["seeds"]),
        tree=stored["tree"],
    )
    texts = (made.config, *made.settings, *(text for values in made.grid.values() for text in values), made.select)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("config, settings, the grid's values and train.select must be texts")
    lists = (stored["settings"], stored["seeds"], *stored["grid"].values())
    if not all(isinstance(values, list) for values in lists) or not all(lists[1:]):
        raise TypeError("settings, seeds and the grid's values must be lists, the last two not empty")
    if not all(type(seed) is int for seed in made.seeds):
        raise TypeError("seeds must be whole numbers")
    return made
