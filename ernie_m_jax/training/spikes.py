"""What counts as a spike of the loss: each objective's last losses in, the limit of its next step out.

The compiled step compares its loss with the limit and leaves the update out (`step`). The losses of steps up to two
before it decide, since the loop has read no more when it dispatches a step; so it makes no difference whether it was
just resumed. They are part of every checkpoint.
"""

import math
from collections.abc import Mapping
from typing import Any

WINDOW = 128  # losses of an objective
_BEHIND = 2  # steps: the newest loss that decides about step i is that of step i - 2


class Losses:
    """The last finite losses of each objective, skipped ones included: a level that lasts is no spike for long."""

    def __init__(self, sigmas: float, state: Mapping[str, Any] | None = None):
        """Goes on from `state`, which `state()` returned.

        Args:
          sigmas: `config.train.spike_sigmas`, standard deviations above the mean; 0: nothing is a spike.
          state: of a checkpoint; None: no losses yet.
        """
        self._sigmas = sigmas
        self._last: dict[str, list[tuple[int, float]]] = {
            name: [(int(step), float(loss)) for step, loss in pairs] for name, pairs in (state or {}).items()
        }

    def note(self, objective: str, step: int, loss: float | None) -> None:
        """Takes a step's loss; one that is not finite, or of no scored position, does not count."""
        if self._sigmas and loss is not None and math.isfinite(loss):
            self._last[objective] = [*self._last.get(objective, []), (step, loss)][-WINDOW - _BEHIND :]

    def limit(self, objective: str, step: int) -> float:
        """The loss above which this step of an objective is a spike; infinite until there are `WINDOW` losses."""
        known = [loss for at, loss in self._last.get(objective, []) if at <= step - _BEHIND][-WINDOW:]
        if not self._sigmas or len(known) < WINDOW:
            return math.inf
        mean = math.fsum(known) / len(known)  # exact sums: the same on any machine
        return mean + self._sigmas * math.sqrt(math.fsum((loss - mean) ** 2 for loss in known) / len(known))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: pairs of step and loss by objective, as JSON can hold them."""
        return {name: [list(pair) for pair in pairs] for name, pairs in self._last.items()}
