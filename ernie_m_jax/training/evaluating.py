"""The evaluations of a stage while it trains: which are due, what they found, and what that selects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import stages
from ernie_m_jax.training.selection import Evaluated, Selection


def recorded(directory: Path, step: int | None = None) -> list[Evaluated]:
    """The evaluations in a stage's metrics, those of later steps than `step` left out."""
    lines = metrics.evaluations(directory / metrics.FILE)
    found = [Evaluated(line.pop("step"), line.pop("eval"), line) for line in lines]
    return [entry for entry in found if step is None or entry.step <= step]


def record(directory: Path, step: int, found: Mapping[str, Mapping[str, float]]) -> None:
    """Writes what evaluations of the state before `step` found to a stage's metrics, unless it stands there."""
    done = {(entry.step, entry.name) for entry in recorded(directory)}
    if new := {name: values for name, values in found.items() if (step, name) not in done}:
        with metrics.MetricsWriter(directory, None) as writer:
            for name, values in new.items():
                writer.evaluation(step, name, values)


def taken(run: stages.Run, directory: Path, saved: Checkpoints, step: int) -> Selection:
    """What a stage's evaluations before step `step` or at it select.

    The stage's checkpoint of that step says it, and the metrics what was evaluated after it was saved.
    """
    if not run.config.train.select:
        return Selection(run.config.train)
    state = saved.meta(step).get("selection") if step in saved.steps() else None
    return Selection(run.config.train, state, recorded(directory, step))


def last_step(run: stages.Run, name: str, directory: Path) -> int:
    """The step at which a stage ends: of its config, or earlier where nothing got better any more."""
    saved, steps = stages.checkpoints(run, directory), run.config.stages[name].steps
    try:
        newest = saved.latest()
        return steps if newest is None else taken(run, directory, saved, newest).ended or steps
    except (CheckpointError, KeyError, TypeError, ValueError):
        return steps  # the newest checkpoint is damaged; training looks for a good one


class Evaluating:
    """Runs the evaluations of one stage in its loop.

    Attributes:
      selection: what they select.
    """

    def __init__(
        self, run: stages.Run, stage: stages.Stage, first: int, writer: metrics.MetricsWriter, selection: Selection
    ):
        """Goes on with the selection before step `first`, and runs no evaluation again that stands in the metrics."""
        self._run, self._stage, self._writer, self.selection = run, stage, writer, selection
        self._done = {(entry.step, entry.name) for entry in recorded(stage.directory, first)}

    def due(self, index: int) -> list[str]:
        """Names of the evaluations that come before step `index` and have not been run there."""
        names = self._run.evaluations.due(index) if index else []
        return [name for name in names if (index, name) not in self._done]

    def due_at_end(self, index: int) -> list[str]:
        """The evaluation that selects, if it has not seen the last state."""
        name = self.selection.evaluation
        return [name] if name and (index, name) not in self._done else []

    def evaluate(self, index: int, params: Any, names: Sequence[str]) -> bool:
        """Runs evaluations on the state before step `index`; returns whether it is the best now."""
        best = False
        for name in names:
            stem, directory = f"{name}-{index}", self._stage.directory
            outcome = self._run.evaluate(name, params, directory, stem)
            self._writer.evaluation(index, name, outcome.metrics)
            self._done.add((index, name))
            best |= self.selection.note(Evaluated(index, name, outcome.metrics))
        return best
