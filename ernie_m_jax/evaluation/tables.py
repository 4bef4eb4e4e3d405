r"""Every table of the paper with our figures beneath: work directories in, tables out.

    python -m ernie_m_jax.evaluation.tables runs/xnli-sweep runs/conll-0 runs/conll-1 XLM-R=runs/xlmr --output tables

A run is the work directory of a finished run or of `--mode=evaluate`, or of a sweep (`launch.sweep`), of which its best
combination counts. Which table and setting a run belongs to, its own config says. Runs that differ in their seed only
are one row, their mean; what they found at their end and in `--mode=evaluate` are rows apart. A row is named after what
its runs started from, or as LABEL=RUN says.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_evals import RetrievalEval, TaskEval
from ernie_m_jax.evaluation import scored, searched
from ernie_m_jax.evaluation.table_rows import Figures, Place, rows
from ernie_m_jax.reporting import files, paper_tables, screen

STARRED = "tatoeba"  # the table, and the task, of which the paper marks what was fine-tuned


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
        made = list(_tables(rows(gather(arguments.runs, settings))))  # all of them, before any is shown or written
        for shown, place, ours, title in made:
            screen.show(shown, "")
            if arguments.output:
                write(Path(arguments.output), *place, ours, title)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _tables(ours: Mapping[Place, Mapping[str, Any]]) -> Iterator[tuple[Any, Place, Mapping[str, Any], str]]:
    """Every table of the paper for the screen, which it is, our rows of it and its title."""
    for task in paper_tables.TASKS:
        for setting in paper_tables.settings(task):
            own = ours.get((task, setting), {})
            title = f"{task} {setting}: the paper's rows{' and ours' if own else ''}"
            yield paper_tables.table(task, setting, own, title), (task, setting), own, title


def gather(arguments: Sequence[str], settings: Sequence[str] = ()) -> list[Figures]:
    """The figures of all that the command line names; `settings` as of `read`.

    Raises:
      ConfigError: one has none, or a run is given twice.
    """
    found: list[Figures] = []
    seen: dict[Path, str] = {}
    for given in arguments:
        figures = read(given, settings)
        runs = dict.fromkeys(one.run for one in figures)
        if twice := [run for run in runs if run in seen]:
            raise ConfigError(f"{given} and {seen[twice[0]]} are the same run, {twice[0]}; give one of them")
        seen |= dict.fromkeys(runs, given)
        found += figures
    return found


def write(folder: Path, task: str, setting: str, ours: Mapping[str, Any], title: str) -> None:
    """Writes a table as Markdown, CSV and PNG."""
    stem = f"{task}-{setting}"
    files.write_text(folder / f"{stem}.md", paper_tables.markdown(task, setting, ours, title))
    files.write_text(folder / f"{stem}.csv", paper_tables.csv(task, setting, ours))
    paper_tables.picture(folder / f"{stem}.png", task, setting, ours, title)


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
    """The work directories of a sweep's best combination; failed runs are said on standard error."""
    try:
        stored = _json(sweep / "sweep.json")
        statuses = {name: run["status"] for name, run in stored["runs"].items()}
        chosen = None if stored["best"] is None else [sweep / name for name in stored["best"]["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{sweep / 'sweep.json'} is damaged ({error!r})") from None
    failed = [name for name, status in statuses.items() if status == "failed"]
    left = sum(status not in ("done", "failed") for status in statuses.values())
    if left:
        raise ConfigError(
            f"{sweep}: the sweep is not finished, {left} of {len(statuses)} runs are left; its own command "
            f"(python -m launch.sweep --config=FILE --workdir={sweep} and so on) goes on with it"
        )
    if chosen is None:
        raise ConfigError(
            f"{sweep}: no combination of the sweep has a finite value on dev{' and no failed run' if failed else ''}, "
            "so none is the best"
        )
    if gone := [run for run in chosen if not (run / "summary.json").exists()]:
        raise ConfigError(
            f"{gone[0]}: the run is gone or not whole, though {sweep / 'sweep.json'} says that it is done; the sweep's "
            "own command runs it again"
        )
    if failed:
        print(
            f"{sweep}: {len(failed)} of {len(statuses)} runs failed: {', '.join(failed)}; "
            "the best of the others counts",
            file=sys.stderr,
        )
    return chosen


def _of_run(directory: Path, label: str, given: str, settings: Sequence[str]) -> list[Figures]:
    """What a run's final evaluations have for the tables."""
    if not _is_run(directory) and (directory / "evaluation" / "summary.json").exists():
        directory = directory / "evaluation"
    if (home := config_files.home(directory)) != directory:
        raise ConfigError(f"{given} is a stage of a run; give the run, {home}")
    tree = config_files.from_workdir(directory, training=False, settings=settings)
    config = configs.resolve(tree, training=False, problems=config_files.override(tree, settings))
    final, was_trained = _final(directory)
    run = directory.resolve() if was_trained else config_files.home(directory.resolve().parent)
    tuned = was_trained or _is_trained(run)
    start = Path(config.init.params or config.init.resume).name
    name = label or f"ours: {start or ('from scratch' if tuned else directory.absolute().parent.name)}"
    mark = "*" if tuned and STARRED in _trained_on(config) else ""
    found = [
        Figures(
            place=place,
            name=f"{name}{mark if place[0] == STARRED else ''}",
            values=values,
            config=f"{_alike(config)} {evaluation}",
            was_trained=was_trained,
            seed=config.seed if tuned else None,
            run=run,
            source=f"{given}, {evaluation}",
        )
        for evaluation, (place, values) in figures(config, final, directory / "summary.json").items()
    ]
    if not found:
        there = "; ".join((", ".join(config.evals) or "none", *_other_settings(config)))
        raise ConfigError(
            f"{given}: no evaluation of it belongs in a table of the paper (config.evals: {there}): that takes the "
            "test split of a task of the paper's, with labels, or a retrieval evaluation whose key paper is true"
        )
    return found


def _other_settings(config: Config) -> Iterator[str]:
    """For each task of the paper's that is trained on other languages than in the paper: what it is trained on."""
    for name, keys in config.objectives.items():
        task = keys.task or name
        codes = getattr(keys, "train_languages", ())
        if task in paper_tables.TASKS and codes and paper_tables.setting(task, codes) is None:
            every = f", or all of {', '.join(paper_tables.languages(task))}" * ("all" in paper_tables.settings(task))
            yield f"{name} is trained on {', '.join(codes)}; the paper's settings are en{every}"


def _is_trained(directory: Path) -> bool:
    """Whether a run was trained there, finished or not."""
    if any(map(saved_steps.complete, directory.glob("*/checkpoints"))):
        return True
    return (directory / "summary.json").exists() and _is_run(directory)


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
        was_trained = "stages" in numbers
        found = (list(numbers["stages"].values())[-1] if was_trained else numbers)["evals"]
        return dict(found.items()), was_trained
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
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error})") from None


def figures(
    config: Config, evaluations: Mapping[str, Any], path: Path
) -> dict[str, tuple[Place, Mapping[str, paper_tables.Value]]]:
    """Evaluation -> its table of the paper and its figures, of those that have them.

    Raises:
      ConfigError: what `path` holds is no number, or a figure is no percentage.
    """
    found = {}
    for name, numbers in evaluations.items():
        keys = config.evals.get(name)
        if not isinstance(keys, TaskEval | RetrievalEval):
            continue
        metrics = _metrics(numbers, f"{path}: {name}")
        if isinstance(keys, TaskEval):
            own: Any = scored.paper_figures(tasks.bind(config, keys.objective), metrics)
        else:
            own = searched.paper_figures(keys, config.languages, metrics)
        if own is None or not own[1]:
            continue
        for language, figure in own[1].items():
            for part in figure if isinstance(figure, tuple) else (figure,):
                if not 0 <= part <= 100:
                    raise ConfigError(f"{path}: {name}, {language} is {part}; a figure is a percentage, from 0 to 100")
        found[name] = own
    return found


def _metrics(numbers: Any, place: str) -> dict[str, float]:
    """An evaluation's metrics as numbers; NaN is written as text."""
    if not isinstance(numbers, Mapping):
        raise ConfigError(f"{place} is {numbers!r:.40}, not its metrics; the file is damaged")
    found = {}
    for metric, value in numbers.items():
        try:
            found[metric] = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{place}, {metric} is {value!r:.40}; a metric is a number, a percentage one from 0 to 100"
            ) from None
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
