"""The evaluations of a stage while it trains: which are due, what they found, and what that selects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m_jax.config import Config
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import stages
from ernie_m_jax.training.selection import Evaluated, Selection


def recorded(directory: Path, step: int | None = None) -> list[Evaluated]:
    """The evaluations in a stage's metrics, those of later steps than `step` left out."""
    lines = metrics.evaluations(directory / metrics.FILE)
    found = [Evaluated(line.pop("step"), line.pop("eval"), line) for line in lines]
    return [entry for entry in found if step is None or entry.step <= step]


def selected(config: Config, directory: Path) -> Selection:
    """What a stage's evaluations so far select."""
    return Selection(config.train, recorded(directory) if config.train.select else ())


def last_step(config: Config, name: str, directory: Path) -> int:
    """The step at which a stage ends: of its config, or earlier where nothing got better any more."""
    return selected(config, directory).ended or config.stages[name].steps


def record(directory: Path, last: int, best: int | None, found: Mapping[str, Mapping[str, float]]) -> None:
    """Adds what the evaluations at a stage's end found to its metrics, at the step whose parameters were evaluated.

    What stands there already, of the loop or of a start that was stopped here, is not written again.
    """
    step = last if best is None else best
    done = {(entry.step, entry.name) for entry in recorded(directory)}
    with metrics.MetricsWriter(directory, last) as writer:
        for name, values in found.items():
            if (step, name) not in done:
                writer.evaluation(step, name, values)


class Evaluating:
    """Runs the evaluations of one stage in its loop.

    Attributes:
      selection: what they select.
    """

    def __init__(self, run: stages.Run, stage: stages.Stage, first: int, writer: metrics.MetricsWriter):
        """Takes up what was evaluated before step `first` or at it."""
        self._run, self._stage, self._writer = run, stage, writer
        before = recorded(stage.directory, first)
        self._done = {(entry.step, entry.name) for entry in before}
        self.selection = Selection(run.config.train, before)

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
