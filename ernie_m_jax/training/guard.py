"""Steps whose update was left out: counted, shown, and after too many in a row the end of the run.

The loss or gradient was not finite, the loss a spike, or there was nothing to predict. The compiled step has left such
an update out already (`step`). The numbers that the host reads one step late come in; a line for the screen, or a
`TrainingError` with the records behind the step, goes out.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

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
      in_row: those that were not finite; nothing is saved while there are some. After a spike, or where there was
        nothing to predict, nothing is wrong with the state.
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
        self._passed: list[Step] = []  # in a row, spikes or with nothing to predict
        self._limit, self._directory, self._trace, self._log = limit, directory, trace, log

    def note(self, step: Step, values: Mapping[str, float]) -> None:
        """Takes a step's numbers.

        Raises:
          TrainingError: as many steps in a row as allowed were skipped.
        """
        if not values["skipped"]:
            self.in_row.clear()
            self._passed.clear()
            return
        place = f"step {step.index} ({step.objective})"
        if reason := _passing(values):
            self._passed.append(step)
            count = len(self._passed)
            self._log(f"{place}: {reason}: update skipped, {count} of at most {self._limit} in a row")
            if count >= self._limit:
                raise TrainingError(
                    f"{place}: {reason}, and {count} steps in a row were skipped so (config.train.max_skipped is "
                    f"{self._limit}): look at config.train.spike_sigmas, config.objectives.{step.objective} and the "
                    f"records: {self._records(self._passed)}"
                )
            return
        self.in_row.append(step)
        numbers = f"{place}: loss {values.get('loss')}, gradient norm {values['gradient_norm']}"
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

    def _records(self, in_row: list[Step]) -> str:
        """Writes the records of some steps to a file; the first ones of the last step, and where all are."""
        traced = [self._trace(step.objective, step.streams) for step in in_row]
        name = FILE if jax.process_count() == 1 else f"{jax.process_index()}.{FILE}"
        steps = [
            {"step": step.index, "objective": step.objective, "rows": [_described(row) for row in rows]}
            for step, rows in zip(in_row, traced, strict=True)
        ]
        files.write_json(self._directory / name, steps)
        with contextlib.suppress(OSError):  # the error to tell is the message
            mirrors.put(self._directory / name)
        return f"{described(traced[-1])}; all of them in {self._directory / name}"

    def _message(self, numbers: str) -> str:
        """What the run ends with after steps in a row of which nothing may be kept."""
        return (
            f"{numbers}: not finite in {len(self.in_row)} steps in a row (config.train.max_skipped is {self._limit}); "
            "none of them was applied or saved. Try a lower learning_rate or config.optimizer.clip_norm in another "
            f"--workdir (--config.init.params={self._directory} goes on from the last checkpoint, if there is one), or "
            f"look at the records ({self._records(self.in_row)})"
        )


def _passing(values: Mapping[str, float]) -> str:
    """Why a skipped step whose numbers are finite was skipped; empty: they are not finite."""
    if not values.get("scored", 1.0):
        return "nothing to predict"
    if "loss_limit" in values and all(math.isfinite(values[name]) for name in ("loss", "gradient_norm")):
        return f"loss {values['loss']:.4f} is a spike, above {values['loss_limit']:.4f}"
    return ""


def described(rows: list[Traced]) -> str:
    """The records of a batch's first rows, for people."""
    return "; ".join(
        f"row {number}: {', '.join(f'{source.entry} {source.index}' for source in row)}"
        for number, row in enumerate(rows[:SHOWN_ROWS])
    )


def check_rows(index: int, objective: str, rows: Mapping[str, np.ndarray]) -> None:
    """Every row that is trained on has a token.

    Raises:
      TrainingError: a row is padding only, which the packer never makes of an example with tokens.
    """
    segments = rows["segments"]
    if empty := int(np.sum(~(segments > 0).any(axis=-1))):
        raise TrainingError(
            f"step {index} ({objective}): {empty} of {len(segments)} rows have no token: config.objectives.{objective} "
            "makes examples without tokens"
        )


def _described(row: Traced) -> list[dict[str, Any]]:
    return [{"entry": source.entry, "index": source.index, "texts": list(source.record.texts)} for source in row]
