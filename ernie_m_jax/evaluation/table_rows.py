"""Rows for the paper's tables: what runs found in; the mean over those that differ in their seed only out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from ernie_m_jax.config import ConfigError
from ernie_m_jax.reporting import paper_tables

Place = tuple[str, str]  # a table of the paper and its setting


class Figures(NamedTuple):
    """What one run has for one table.

    Attributes:
      place: the table.
      name: of the row, without the number of seeds.
      values: language -> figure.
      config: the run's, as text, but for its seed and what changes no number.
      was_trained: whether the figures are those of the run's own end, not of `--mode=evaluate`.
      seed: of the run; None where nothing was trained.
      run: the directory of the run, or of the model that was evaluated.
      source: the argument that names the run, and the evaluation.
    """

    place: Place
    name: str
    values: Mapping[str, paper_tables.Value]
    config: str
    was_trained: bool
    seed: int | None
    run: Path
    source: str


def rows(found: Sequence[Figures]) -> dict[Place, dict[str, dict[str, paper_tables.Value]]]:
    """Table -> name of a row -> language -> figure, the mean over the runs that differ in their seed only.

    Raises:
      ConfigError: two are of the same run, or of one row and not of the same languages.
    """
    groups: dict[tuple[Place, str, str, bool], list[Figures]] = {}
    for one in found:
        groups.setdefault((one.place, one.name, one.config, one.was_trained), []).append(one)
    shown: dict[Place, dict[str, dict[str, paper_tables.Value]]] = {}
    for (place, name, *_), runs in groups.items():
        by_seed = {run.seed: run for run in runs}
        if twice := [run for run in runs if by_seed[run.seed] is not run]:
            raise ConfigError(
                f"{twice[0].source} and {by_seed[twice[0].seed].source} are of one config and one seed, so of the same "
                "run; give one of them"
            )
        _check_languages(runs)
        if sum(other[:2] == (place, name) for other in groups) > 1:
            name = f"{name} ({runs[0].source})"
        if runs[0].seed is not None:
            name += f", {len(runs)} seed{'s' if len(runs) > 1 else ''}"
        shown.setdefault(place, {})[name] = {
            language: _mean([run.values[language] for run in runs]) for language in runs[0].values
        }
    return shown


def _check_languages(runs: Sequence[Figures]) -> None:
    """Raises ConfigError where a mean over the runs would lack a language of one of them."""
    for one in runs:
        for other in runs:
            if lacking := [language for language in one.values if language not in other.values]:
                raise ConfigError(
                    f"{other.source} has no figure for {', '.join(lacking)}, which {one.source} has; a row is a mean "
                    "over the same languages: evaluate both on the same, or give each a label of its own"
                )


def _mean(values: Sequence[Any]) -> paper_tables.Value:
    """Of numbers, or of tuples part by part."""
    if isinstance(values[0], tuple):
        return tuple(mean(parts) for parts in zip(*values, strict=True))
    return mean(values)
