"""Steps whose loss or gradient is not finite: counted, shown, and after too many in a row the end of the run.

The compiled step has left such an update out already (`step`). The numbers that the host reads one step late come in;
a line for the screen, or a `TrainingError` with the records behind the step, goes out.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax import mirrors
from ernie_m_jax.data.loader import Traced
from ernie_m_jax.reporting import files
from ernie_m_jax.reporting.metrics import Step

FILE = "not_finite.json"
SHOWN_ROWS = 3  # rows whose records the message names; the file has all of them


class TrainingError(Exception):
    """Training that cannot go on; the message says where it stopped and what to look at."""


class Guard:
    """Counts the steps in a row whose update was skipped.

    Attributes:
      in_row: those steps; empty while every step is finite. Nothing is saved while there are some.
    """

    def __init__(
        self,
        limit: int,
        directory: Path,
        trace: Callable[[str, Mapping[str, Any]], list[Traced]],
        log: Callable[[str], None],
    ):
        """Starts with no step skipped.

        Args:
          limit: `config.train.max_skipped`.
          directory: of the stage; the records behind the steps are written there.
          trace: objective and state of its streams -> the records of each row drawn there.
          log: shows a line.
        """
        self.in_row: list[Step] = []
        self._limit, self._directory, self._trace, self._log = limit, directory, trace, log

    def note(self, step: Step, values: Mapping[str, float]) -> None:
        """Takes a step's numbers.

        Raises:
          TrainingError: as many steps in a row as allowed were skipped.
        """
        if not values["skipped"]:
            self.in_row.clear()
            return
        self.in_row.append(step)
        loss, norm = values.get("loss"), values["gradient_norm"]
        numbers = f"step {step.index} ({step.objective}): loss {loss}, gradient norm {norm}"
        self._log(f"{numbers}: update skipped, {len(self.in_row)} of at most {self._limit} in a row")
        if len(self.in_row) >= self._limit:
            raise TrainingError(self._message(numbers))

    def end(self) -> None:
        """Says that the stage's last step was trained.

        Raises:
          TrainingError: it was skipped: what the stage would end with is not what its steps should have made of it.
        """
        if self.in_row:
            raise TrainingError(self._message(f"the stage's last step, {self.in_row[-1].index}"))

    def _message(self, numbers: str) -> str:
        """What the run ends with; writes the records of all the steps in a row."""
        traced = [self._trace(step.objective, step.streams) for step in self.in_row]
        name = FILE if jax.process_count() == 1 else f"{jax.process_index()}.{FILE}"
        steps = [
            {"step": step.index, "objective": step.objective, "rows": [_described(row) for row in rows]}
            for step, rows in zip(self.in_row, traced, strict=True)
        ]
        files.write_json(self._directory / name, steps)
        with contextlib.suppress(OSError):  # the error to tell is the message
            mirrors.put(self._directory / name)
        rows = [
            f"row {number}: {', '.join(f'{source.entry} {source.index}' for source in row)}"
            for number, row in enumerate(traced[-1][:SHOWN_ROWS])
        ]
        return (
            f"{numbers}: not finite in {len(self.in_row)} steps in a row (config.train.max_skipped is {self._limit}); "
            "none of them was applied or saved. Try a lower learning_rate or config.optimizer.clip_norm in another "
            f"--workdir (--config.init.params={self._directory} goes on from the last checkpoint, if there is one), or "
            f"look at the records ({'; '.join(rows)}; all of them in {self._directory / name})"
        )


def _described(row: Traced) -> list[dict[str, Any]]:
    return [{"entry": source.entry, "index": source.index, "texts": list(source.record.texts)} for source in row]
