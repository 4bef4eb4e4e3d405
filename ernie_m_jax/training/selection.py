"""Model selection: which step of a stage is best on `train.select`, and whether it still gets better.

The metrics that a stage's evaluations have written come in, so that a run that goes on decides as if it had never
stopped.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

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
      best: the step with the best value; of equal ones the first. None before there is one.
      value: its value.
      ended: the step at which `train.patience` evaluations in a row had brought nothing better, or None.
    """

    def __init__(self, config: TrainConfig, evaluated: Iterable[Evaluated] = ()):
        """Reads what has been evaluated already."""
        self.evaluation, _, self._metric = config.select.partition("/")
        self._patience = config.patience
        self._sign = -1.0 if self._metric.split("/")[-1] == "loss" else 1.0
        self.best: int | None = None
        self.value = float("nan")
        self.ended: int | None = None
        self._since = 0
        for entry in evaluated:
            self.note(entry)

    def note(self, entry: Evaluated) -> bool:
        """Takes an evaluation; returns whether its step is the best now.

        Raises:
          ConfigError: the evaluation has no such metric.
        """
        if entry.name != self.evaluation:
            return False
        if self._metric not in entry.metrics:
            raise ConfigError(
                f"config.train.select names the metric {self._metric!r} of {entry.name}, which has "
                f"{', '.join(entry.metrics)}"
            )
        value = float(entry.metrics[self._metric])
        better = self.best is None or self._sign * value > self._sign * self.value
        if better:
            self.best, self.value, self._since = entry.step, value, 0
        else:
            self._since += 1
            if self._patience and self._since >= self._patience and self.ended is None:
                self.ended = entry.step
        return better
