"""A profile of some steps of a stage: which steps in, an xplane trace beside TensorBoard's events out."""

from pathlib import Path
from typing import Any

import jax

from ernie_m_jax.config import TrainConfig


class Profile:
    """Traces `train.profile_steps` steps from `train.profile_from` on, on the first process; `close` it."""

    def __init__(self, keys: TrainConfig, directory: Path):
        """Traces nothing yet; the trace will lie in `directory`, for TensorBoard's profile plugin."""
        steps = keys.profile_steps if jax.process_index() == 0 else 0
        self._first, self._end = keys.profile_from, keys.profile_from + steps
        self._directory, self._runs = directory, False

    def before(self, index: int, state: Any) -> None:
        """Begins or ends the trace, if the step with this index is the first or the first behind it.

        Args:
          index: updates done so far.
          state: what the step before made; the trace ends when it is there.
        """
        if self._runs and index >= self._end:
            jax.block_until_ready(state)
            self.close()
        elif not self._runs and self._first <= index < self._end:
            jax.profiler.start_trace(str(self._directory))
            self._runs = True

    def close(self) -> None:
        """Ends the trace, if it runs, and writes it."""
        if self._runs:
            self._runs = False
            self._end = 0
            jax.profiler.stop_trace()
