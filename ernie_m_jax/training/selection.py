"""Model selection: which step of a stage is best on `train.select`, and whether it still gets better.

What has been found so far is part of every checkpoint, so that a run that goes on decides as if it had never stopped.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ernie_m_jax.config import ConfigError, TrainConfig


class Evaluated(NamedTuple):
    """An evaluation of the state before a step: `name` is that of `config.evals`."""

    step: int
    name: str
    metrics: Mapping[str, float]


class Selection:
    """The best step so far, and the step at which the stage ends early.

    Attributes:
      evaluation: name of the evaluation whose metric selects; empty: no selection, the last step is taken.
      best: the step with the best value; of equal ones the first. None before there is one. A value that is not
        finite is never best, nor is a model that has not been trained.
      value: its value.
      ended: the step at which `train.patience` evaluations in a row had brought nothing better, or None.
    """

    def __init__(
        self, config: TrainConfig, state: Mapping[str, Any] | None = None, evaluated: Iterable[Evaluated] = ()
    ):
        """Goes on from `state`, which `state()` returned, with what was evaluated since."""
        self.evaluation, _, self._metric = config.select.partition("/")
        self._patience = config.patience
        self._sign = -1.0 if self._metric.split("/")[-1] == "loss" else 1.0
        before = state or {"step": 0, "best": None, "value": None, "since": 0, "ended": None}
        self.best: int | None = before["best"]
        self.value: float = math.nan if before["value"] is None else before["value"]
        self.ended: int | None = before["ended"]
        self._step: int = before["step"]  # the last that was taken
        self._since: int = before["since"]  # evaluations in a row that were not better
        for entry in evaluated:
            self.note(entry)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can hold it: the last step that was taken, and what was found until then."""
        value = None if self.best is None else self.value
        return {"step": self._step, "best": self.best, "value": value, "since": self._since, "ended": self.ended}

    def lacks(self, step: int) -> bool:
        """Whether the evaluation that selects has not seen the state before a step."""
        return bool(self.evaluation) and self._step < step

    def note(self, entry: Evaluated) -> bool:
        """Takes an evaluation, unless it was taken before; returns whether its step is the best now.

        Raises:
          ConfigError: the evaluation has no such metric.
        """
        if entry.name != self.evaluation or entry.step <= self._step:
            return False
        if self._metric not in entry.metrics:
            raise ConfigError(
                f"config.train.select names the metric {self._metric!r} of {entry.name}, which has "
                f"{', '.join(entry.metrics)}"
            )
        value, self._step = float(entry.metrics[self._metric]), entry.step
        better = math.isfinite(value) and (self.best is None or self._sign * value > self._sign * self.value)
        if better:
            self.best, self.value, self._since = entry.step, value, 0
        else:
            self._since += 1
            if self._patience and self._since >= self._patience and self.ended is None:
                self.ended = entry.step
        return better
