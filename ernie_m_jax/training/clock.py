"""How long a run has taken, over all its parts: a number in the work directory, written with every checkpoint."""

import time
from pathlib import Path

import jax

from ernie_m_jax.reporting import files, summary


class Clock:
    """Counts from now on, beginning at what earlier parts of the run took.

    Args:
      path: the file of the number, in seconds.
      going_on: whether the run has a checkpoint to go on from; otherwise the file is another, failed run's.
    """

    def __init__(self, path: Path, going_on: bool):
        self._path, self._began = path, time.perf_counter()
        self._before = (summary.stored(path, summary.is_number) or 0.0) if going_on else 0.0

    def seconds(self) -> float:
        """Returns the time of all parts so far; of a killed one, up to its last `keep`."""
        return self._before + time.perf_counter() - self._began

    def keep(self) -> None:
        """Writes the time so far, on the first process."""
        if jax.process_index() == 0:
            files.write_json(self._path, self.seconds())
