"""A run's report: a work directory in, `report.html` in it out, at the end of a run and by `--mode=report`.

It is made of what lies there (config.json, summary.json, goodput.json, evaluation/summary.json; of each stage
metrics.jsonl, summary.json and mixture.json), finished or not, while the run goes on too. What is damaged or missing is
said on the page. Nothing is computed, no device is touched. `report_parts` makes the parts, `reporting.page` the HTML.
"""

import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m_jax import config as configs
from ernie_m_jax import config_files, mirrors
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_renames import upgraded
from ernie_m_jax.evaluation import report_parts, tables
from ernie_m_jax.reporting import files, goodput, metrics, paper_tables, summary
from ernie_m_jax.reporting.history import History
from ernie_m_jax.reporting.page import Page, Section, Table, render

FILE = "report.html"
_LATEST = 1e11  # seconds since 1970
_MOST_HANGS = 5  # shown, the newest
_VERSIONS = {"device": "devices", "device_count": "number of devices", "cpus": "CPU cores of the host"}


def write(directory: Path, settings: Sequence[str] = ()) -> Path:
    """Writes the report of a run and returns its path.

    Args:
      directory: the run's work directory, local.
      settings: `--config.KEY=VALUE` of the command line. A task outside the package is imported only
        where they name it.

    Raises:
      ConfigError: it is no run's directory.
    """
    path = directory / FILE
    files.write_text(path, render(page(directory, settings)))
    return path


def page(directory: Path, settings: Sequence[str] = ()) -> Page:
    """What the report says; arguments and errors as of `write`."""
    if (home := config_files.home(directory)) != directory:
        raise ConfigError(f"{directory} is a stage of a run; give the run, {home}")
    tree = config_files.stored_config_tree(directory)
    if not isinstance(tree.get("stages"), dict):
        raise ConfigError(f"{directory} is a model, not a run: there is nothing to report on")
    return _Report(directory, tree, settings).page()


class _Report:
    """The report of one work directory, while it is made."""

    def __init__(self, directory: Path, tree: dict[str, Any], settings: Sequence[str]):
        self.directory, self.tree = directory, tree
        self.problems: list[str] = []
        self.stored = self._json(directory / "config.json") or {}
        self.numbers = self._json(directory / "summary.json", summary.is_of_run) or {}
        self.evaluated = self._json(directory / "evaluation" / "summary.json") or {}
        names = [name for name in tree["stages"] if (directory / name).is_dir()]
        self.stages = {name: History(metrics.entries(directory / name / metrics.FILE)) for name in names}
        self.of_stage = {
            name: self._json(directory / name / "summary.json", summary.is_of_stage) or {} for name in names
        }
        self.config = self._resolved(settings)
        self.account = self._json(directory / goodput.FILE, goodput.is_sound)

    def page(self) -> Page:
        """All of it."""
        name = mirrors.named(str(self.directory.absolute())).rstrip("/")
        spent = [report_parts.spent(self.account)] if self.account is not None else []
        sections = [self._results(), self._paper(), *spent, *map(self._stage, self.stages), self._by_evaluate()]
        sections.append(self._versions())
        return Page(
            title=name.rpartition("/")[2],
            status=self._status(),
            is_finished=bool(self.numbers),
            facts=report_parts.guarded(self.problems, "what stands first", self._facts),
            sections=[section for section in sections if section is not None],
            problems=[mirrors.named(problem) for problem in self.problems],
            config=json.dumps(files.json_value(self.stored.get("config", self.stored)), indent=2, ensure_ascii=False),
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )

    def _json(self, path: Path, is_sound: Any = lambda value: isinstance(value, dict)) -> Any:
        """What a file holds; None, which the page says, where it is damaged, and where there is none."""
        try:
            value = json.loads(path.read_text("utf-8"))
            if is_sound(value):
                return value
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
            pass
        self.problems.append(f"{path.relative_to(self.directory)} is damaged and left out")
        return None

    def _resolved(self, settings: Sequence[str]) -> Config | None:
        """The config, for the paper's tables; None, which the page says, where it cannot be had."""
        try:
            tree = config_files.from_workdir(self.directory, training=False, settings=settings)
            return configs.resolve(tree, training=False, problems=config_files.override(tree, settings))
        except ConfigError as error:
            self.problems.append(f"without the paper's tables: {error}")
            return None

    def _status(self) -> str:
        if self.numbers:
            return "finished"
        for name, history in reversed(self.stages.items()):
            if history.last is not None:
                steps = self.tree["stages"][name].get("steps")
                where = f"{name}, {history.last + 1:,} of {report_parts.number(steps)} steps"
                return f"stage done, run not finished: {where}" if self.of_stage[name] else f"not finished: {where}"
        return "not finished: no step yet"

    def _facts(self) -> list[tuple[str, str]]:
        """The numbers that matter."""
        steps = sum(history.last + 1 for history in self.stages.values() if history.last is not None)
        found = [("steps", f"{steps:,}")]
        tokens = sum(history.tokens for history in self.stages.values())
        found += [("real tokens", report_parts.number(round(tokens)))]
        totals = self.numbers or summary.totals([numbers for numbers in self.of_stage.values() if numbers])
        if isinstance(totals.get("tokens_per_second"), float):
            found.append(("real tokens per second", f"{totals['tokens_per_second']:,.0f}"))
        wall = self.numbers.get("wall_seconds")
        if isinstance(wall, int | float) and math.isfinite(wall):
            found.append(("wall time", report_parts.duration(wall)))
        for name, moments in report_parts.mapping(self.numbers.get("evals")).items():
            if isinstance(moments, dict) and moments:
                unit = " %" if self._kinds().get(name) in ("retrieval", "task") else ""
                found.append((name, f"{report_parts.number(list(moments.values())[-1])}{unit}"))
        return found

    def _results(self) -> Section:
        """What the screen shows at the end."""
        evals = {
            name: moments
            for name, moments in report_parts.mapping(self.numbers.get("evals")).items()
            if isinstance(moments, dict) and moments
        }
        found = {moment for values in evals.values() for moment in values}
        moments = [moment for moment in dict.fromkeys(("untrained", *self.tree["stages"], *found)) if moment in found]
        rows = [[name, *(report_parts.number(values.get(at)) for at in moments)] for name, values in evals.items()]
        own = Table("Evaluations", ["", *moments], rows) if rows else None
        signs = report_parts.guarded(self.problems, "signs of life", self._signs)
        return Section("Results", notes=signs, items=[own, report_parts.objectives(self.stages)])

    def _signs(self) -> list[str]:
        """What the watchdog left: the last sign of life of a run that did not end in order, and starts that hung."""
        found = []
        beat = self._json(self.directory / "heartbeat.json", lambda value: 0 <= float(value["time"]) < _LATEST)
        if beat is not None and not self.numbers:
            when = datetime.datetime.fromtimestamp(float(beat["time"]), datetime.UTC)
            found.append(f"Last sign of life: {when:%Y-%m-%d %H:%M:%S} UTC, in the phase {beat.get('phase')}.")
        for path in filter(Path.is_file, sorted(self.directory.glob("*hang.txt"))):
            lines = path.read_text("utf-8", errors="replace").splitlines()
            hangs = [line for line in lines if re.match(r"\d{4}-.*, process \d+ of \d+: ", line)]
            found += [f"It hung and was ended: {line} ({path.name} has the stacks)" for line in hangs[-_MOST_HANGS:]]
        return found

    def _paper(self) -> Section | None:
        """The paper's tables with the run's figures, of its end and of `--mode=evaluate`."""
        ours: dict[Any, dict[str, Any]] = {}
        last = next((name for name in reversed(self.of_stage) if self.of_stage[name]), "")
        sources = {"ours": (self.directory / last / "summary.json", self.of_stage.get(last, {}))}
        sources["ours, --mode=evaluate"] = (self.directory / "evaluation" / "summary.json", self.evaluated)
        for label, (path, numbers) in sources.items():
            if self.config is None or not numbers:
                continue
            try:
                found = tables.figures(self.config, report_parts.mapping(numbers.get("evals")), path)
            except (ConfigError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                self.problems.append(str(error))
                continue
            for name, (place, values) in found.items():
                ours.setdefault(place, {})[f"{label}: {name}"] = values
        items = []
        for place, rows in ours.items():
            task, setting = place
            header, published, own = paper_tables.as_shown(task, setting, rows)
            title, note = f"{task}, {setting}: the paper's rows and ours", paper_tables.note(task)
            items.append(Table(title, header, [*published, *own], ours=len(own), note=note))
        return Section("Beside the paper", items=items) if items else None

    def _stage(self, name: str) -> Section:
        """Curves, mixture and evaluations of a stage."""
        history, numbers, directory = self.stages[name], self.of_stage[name], self.directory / name
        facts = [("steps", "0" if history.last is None else f"{history.last + 1:,}")]
        if isinstance(numbers.get("fill"), float):
            facts.append(("real tokens in a row", f"{100 * numbers['fill']:.1f} %"))
        if isinstance(selected := numbers.get("selected"), dict):
            facts.append(("selected step", report_parts.number(selected.get("step"))))
            facts.append((str(selected.get("metric")), report_parts.number(selected.get("value"))))
        notes = []
        if (bad := self._json(directory / "not_finite.json", lambda value: isinstance(value, list))) is not None:
            notes.append(f"It ended once after {len(bad)} skipped steps in a row: not_finite.json has them and why.")
        colours = report_parts.colours(self.stages.values())
        items: list[Any] = list(report_parts.charts(history, self._kinds(), colours))
        mixtures = self._json(directory / "mixture.json") or {}
        items += report_parts.guarded(self.problems, f"{name}/mixture.json", report_parts.mixtures, name, mixtures)
        items += self._evaluations(name, history, numbers)
        return Section(name, facts, notes, items)

    def _evaluations(self, name: str, history: History, numbers: Mapping[str, Any]) -> Iterator[Any]:
        """Each evaluation at the stage's end, or the last one so far; before it what the stage started from."""
        lines: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for entry in history.evaluations:
            step, evaluation = entry["step"], entry["eval"]
            values = {metric: value for metric, value in entry.items() if metric not in ("step", "eval")}
            kept = lines.setdefault(evaluation, [])
            kept[1 if kept and kept[0][0] == "at the start" else 0 :] = [
                ("at the start" if step == 0 else f"at step {step:,}", values)
            ]
        for evaluation, values in report_parts.mapping(numbers.get("evals")).items():
            kept = [moment for moment in lines.get(evaluation, []) if moment[0] == "at the start"]
            lines[evaluation] = [*kept, ("at the end", values)]
        for evaluation, moments in lines.items():
            for when, values in moments:
                title = f"{evaluation} {when} of {name}"
                yield from self._shown(evaluation, values, title)

    def _by_evaluate(self) -> Section | None:
        """What `--mode=evaluate` found."""
        found = report_parts.mapping(self.evaluated.get("evals"))
        items = [item for name, values in found.items() for item in self._shown(name, values, name)]
        return Section("By --mode=evaluate", items=items) if items else None

    def _shown(self, evaluation: str, values: Any, title: str) -> list[Any]:
        kind, languages = self._kinds().get(evaluation, ""), self.tree.get("languages") or ()
        return report_parts.guarded(self.problems, title, report_parts.evaluation, kind, languages, values, title)

    def _kinds(self) -> dict[str, str]:
        """Evaluation -> its kind, as the config says."""
        found = report_parts.mapping(upgraded(self.tree).get("evals"))
        return {name: str(keys.get("kind", "")) for name, keys in found.items() if isinstance(keys, dict)}

    def _versions(self) -> Section | None:
        """What the run was begun with and, where they differ, what it ended with."""
        begun = report_parts.mapping(self.stored.get("versions"))
        ended = report_parts.mapping(self.numbers.get("versions"))
        if not (begun or ended):
            return None
        columns = {"at the last start": begun, "at the end": ended}
        if not ended or not begun or begun == ended:
            columns = {"": begun or ended}
        keys = {**begun, **ended}
        rows = [
            [
                _VERSIONS.get(key, key),
                *("-" if found.get(key) is None else str(found[key]) for found in columns.values()),
            ]
            for key in keys
        ]
        made = Table("What the numbers depend on", ["", *columns], rows, is_text=True)
        return Section("Versions and hardware", items=[made])
