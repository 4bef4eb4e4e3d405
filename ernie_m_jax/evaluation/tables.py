r"""Every table of the paper with our figures beneath: work directories in, tables out.

    python -m ernie_m_jax.evaluation.tables runs/xnli-sweep runs/conll-0 runs/conll-1 XLM-R=runs/xlmr --output tables

A run is the work directory of a finished run or of `--mode=evaluate`, or of a sweep (`launch.sweep`), of which its best
combination counts. Which table and setting a run belongs to, its own config says. Runs that differ in their seed only
are one row, their mean. A row is named after what its runs started from, or as LABEL=RUN says.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import jax

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_evals import RetrievalEval, TaskEval
from ernie_m_jax.evaluation import scored, searched
from ernie_m_jax.reporting import files, paper_tables, screen

Place = tuple[str, str]  # a table of the paper and its setting
STARRED = "tatoeba"  # the table, and the task, of which the paper marks what was fine-tuned


class Figures(NamedTuple):
    """What one run has for one table.

    Attributes:
      place: the table.
      name: of the row, without the number of seeds.
      values: language -> figure.
      config: the run's, as text, but for its seed and what changes no number.
      seed: of the run; None where nothing was trained.
      source: the argument that names the run, and the evaluation.
    """

    place: Place
    name: str
    values: Mapping[str, paper_tables.Value]
    config: str
    seed: int | None
    source: str


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can fix ends in one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ernie_m_jax.evaluation.tables", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("runs", nargs="*", metavar="[LABEL=]RUN", help="work directory of a run or a sweep")
    parser.add_argument("--output", help="folder for TASK-SETTING.md, .csv and .png of each table")
    rest, settings = config_files.split(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(rest)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed: leave the accelerators to who does
    try:
        ours = rows([found for given in arguments.runs for found in read(given, settings)])
        for task in paper_tables.TASKS:
            for setting in paper_tables.settings(task):
                shown = ours.get((task, setting), {})
                title = f"{task} {setting}: the paper's rows{' and ours' if shown else ''}"
                screen.show(paper_tables.table(task, setting, shown, title), "")
                if arguments.output:
                    write(Path(arguments.output), task, setting, shown, title)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def write(folder: Path, task: str, setting: str, ours: Mapping[str, Any], title: str) -> None:
    """Writes a table as Markdown, CSV and PNG."""
    stem = f"{task}-{setting}"
    files.write_text(folder / f"{stem}.md", paper_tables.markdown(task, setting, ours, title))
    files.write_text(folder / f"{stem}.csv", paper_tables.csv(task, setting, ours))
    paper_tables.picture(folder / f"{stem}.png", task, setting, ours, title)


def rows(found: Sequence[Figures]) -> dict[Place, dict[str, dict[str, paper_tables.Value]]]:
    """Table -> name of a row -> language -> figure, the mean over the runs that differ in their seed only.

    Raises:
      ConfigError: a run is given twice.
    """
    groups: dict[tuple[Place, str, str], list[Figures]] = {}
    for one in found:
        groups.setdefault((one.place, one.name, one.config), []).append(one)
    shown: dict[Place, dict[str, dict[str, paper_tables.Value]]] = {}
    for (place, name, _), runs in groups.items():
        by_seed = {run.seed: run for run in runs}
        if twice := [run for run in runs if by_seed[run.seed] is not run]:
            raise ConfigError(
                f"{twice[0].source} and {by_seed[twice[0].seed].source} are of one config and one seed, so of the same "
                "run; give one of them"
            )
        if sum(other[:2] == (place, name) for other in groups) > 1:
            name = f"{name} ({runs[0].source})"
        if runs[0].seed is not None:
            name += f", {len(runs)} seed{'s' if len(runs) > 1 else ''}"
        shown.setdefault(place, {})[name] = {
            language: _mean([run.values[language] for run in runs]) for language in runs[0].values
        }
    return shown


def _mean(values: Sequence[Any]) -> paper_tables.Value:
    """Of numbers, or of tuples part by part."""
    if isinstance(values[0], tuple):
        return tuple(mean(parts) for parts in zip(*values, strict=True))
    return mean(values)


def read(given: str, settings: Sequence[str] = ()) -> list[Figures]:
    """The figures of a run, or of each run of a sweep's best combination.

    Args:
      given: RUN or LABEL=RUN; what exists under the whole name is a RUN.
      settings: `--config.KEY=VALUE` over the run's config, such as a task outside the package.

    Raises:
      ConfigError: it is no finished run or sweep, or has nothing for any table.
    """
    label, directory = _split(given)
    members = _members(directory) if (directory / "sweep.json").exists() else [directory]
    return [figures for member in members for figures in _of_run(member, label, given, settings)]


def _split(given: str) -> tuple[str, Path]:
    """LABEL=RUN apart. A run of a sweep has "=" in its own name, so RUN begins where a directory's path does."""
    for begin in (0, *(place + 1 for place, sign in enumerate(given) if sign == "=")):
        if given[begin:] and Path(given[begin:]).is_dir():
            return given[: max(0, begin - 1)], Path(given[begin:])
    raise ConfigError(f"{given}: no such directory")


def _members(sweep: Path) -> list[Path]:
    """The work directories of a sweep's best combination."""
    try:
        stored = _json(sweep / "sweep.json")
        left = [name for name, run in stored["runs"].items() if run["status"] != "done"]
        chosen = None if stored["best"] is None else list(stored["best"]["runs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{sweep / 'sweep.json'} is damaged ({error!r})") from None
    if left:
        raise ConfigError(
            f"{sweep}: the sweep is not finished, {len(left)} of {len(stored['runs'])} runs are left; "
            f"python -m launch.sweep --workdir={sweep} goes on with it"
        )
    if chosen is None:
        raise ConfigError(f"{sweep}: no combination of the sweep has a finite value on dev, so none is the best")
    return [sweep / name for name in chosen]


def _of_run(directory: Path, label: str, given: str, settings: Sequence[str]) -> list[Figures]:
    """What a run's final evaluations have for the tables."""
    if not _is_run(directory) and (directory / "evaluation" / "summary.json").exists():
        directory = directory / "evaluation"
    if (home := config_files.home(directory)) != directory:
        raise ConfigError(f"{given} is a stage of a run; give the run, {home}")
    tree = config_files.from_workdir(directory, training=False, settings=settings)
    config = configs.resolve(tree, training=False, problems=config_files.override(tree, settings))
    final, was_trained = _final(directory)
    start = Path(config.init.params or config.init.resume).name
    name = label or f"ours: {start or ('from scratch' if was_trained else directory.absolute().parent.name)}"
    tuned = was_trained or any(map(saved_steps.complete, directory.absolute().parent.glob("*/checkpoints")))
    mark = "*" if tuned and STARRED in _trained_on(config) else ""
    found = [
        Figures(
            place=place,
            name=f"{name}{mark if place[0] == STARRED else ''}",
            values=values,
            config=f"{_alike(config)} {evaluation}",
            seed=config.seed if was_trained else None,
            source=f"{given}, {evaluation}",
        )
        for evaluation, (place, values) in _figures(config, final).items()
    ]
    if not found:
        there = ", ".join(config.evals) or "none"
        raise ConfigError(
            f"{given}: no evaluation of it belongs in a table of the paper (config.evals: {there}): that takes the "
            "test split of a task of the paper's, with labels, or a retrieval evaluation whose key paper is true"
        )
    return found


def _is_run(directory: Path) -> bool:
    """Whether its `config.json` is a run's, not a converted model's."""
    if not (directory / "config.json").exists():
        return False
    return "stages" in config_files.stored_config_tree(directory)


def _final(directory: Path) -> tuple[Mapping[str, Any], bool]:
    """What the last evaluations found, and whether they are a finished run's; else they are of `--mode=evaluate`."""
    path = directory / "summary.json"
    try:
        numbers = _json(path)
        if "stages" not in numbers:
            return numbers["evals"], False
        return list(numbers["stages"].values())[-1]["evals"], True
    except FileNotFoundError:
        raise ConfigError(
            f"{directory}: the run is not finished, there is no {path.name}; "
            f"python -m ernie_m_jax.main --workdir={directory} goes on with it"
        ) from None
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}); without it the run's command writes it again") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error})") from None


def _figures(
    config: Config, evaluations: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Place, Mapping[str, paper_tables.Value]]]:
    """Evaluation -> its table of the paper and its figures, of those that have them."""
    found = {}
    for name, numbers in evaluations.items():
        keys, metrics = config.evals.get(name), {metric: float(value) for metric, value in numbers.items()}
        if isinstance(keys, TaskEval):
            own: Any = scored.paper_figures(tasks.bind(config, keys.objective), metrics)
        elif isinstance(keys, RetrievalEval):
            own = searched.paper_figures(keys, config.languages, metrics)
        else:
            own = None
        if own is not None and own[1]:
            found[name] = own
    return found


def _trained_on(config: Config) -> set[str]:
    """The tasks that any stage trains, by their modules' names."""
    active = {name for stage in config.stages.values() for name, weight in stage.weights.items() if weight > 0}
    return {config.objectives[name].task or name for name in active}


def _alike(config: Config) -> str:
    """The config as text, without what may differ between two runs of one row."""
    tree = configs.to_dict(config)
    for stage in tree["stages"].values():
        if stage["epochs"]:  # its steps were measured, with the order of the seed
            del stage["steps"], stage["warmup_steps"]
    free = ("config.seed", *configs.FREE_KEYS)
    return json.dumps([pair for pair in _flat(tree, "config") if not pair[0].startswith(free)])


def _flat(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


if __name__ == "__main__":
    main()
