"""Numbers of a run: `Sums` from the device are divided here and go to `metrics.jsonl` and TensorBoard.

In: `Sums`, that is `{name: (total, weight)}`, one per step (contract in `ernie_m_jax.task`). Out: `{name: float}` for
the screen (`screen`) and one JSON object per line on disk.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
from tensorboardX import SummaryWriter

from ernie_m_jax.reporting import files, goodput, screen, summary
from ernie_m_jax.task import Sums

FILE = "metrics.jsonl"
_RESERVED = ("step", "objective", "eval", "timing")
_FLUSHED = 8  # scalars


def finalize(sums: Sums) -> dict[str, float]:
    """Divides each total by its weight, after one explicit transfer to the host; a name of weight 0 is left out."""
    host = jax.device_get(sums)
    return {name: float(total) / float(weight) for name, (total, weight) in host.items() if float(weight) != 0.0}


def of_step(sums: Sums) -> dict[str, float]:
    """A step's numbers as its line has them: the means, and how many tokens there were and how many were scored."""
    sums = jax.device_get(sums)
    return finalize(sums) | {"scored": float(sums["loss"][1]), "tokens": float(sums["fill"][0])}


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Has an error of an open file, a full disk's say, tell which one it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl`, and to TensorBoard events in `<workdir>/tensorboard`; process 0 only.

    A line is `{"step": 7, "objective": "mmlm", <values by name>, "timing": {...}}`. Everything but `timing` is the
    same, bit for bit, in two runs of one config. JSON has no NaN: a value that is not finite is the string "nan",
    "inf" or "-inf", which `float()` reads back.

    An evaluation's line has "eval", its name, instead of "objective", and the step that it came before.

    Resuming drops the first line with `step >= resume_step` and all after it, since the run will write these again, so
    that in the end the file is that of a run never interrupted; but evaluations at `resume_step` that stand before it
    are of the restored state and stay. What is no metrics line is dropped too (see `repair`).

    Args:
      workdir: a local directory; made if it does not exist.
      resume_step: the step whose checkpoint was restored; 0 for a run from the beginning, None to add to what is there.
    """

    def __init__(self, workdir: str | os.PathLike[str], resume_step: int | None):
        self._file = None
        if jax.process_index() != 0:
            return
        self._path = path = pathlib.Path(workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _before(repair(path), resume_step)
        if path.exists():
            files.write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        # With a purge step TensorBoard hides what earlier event files hold from there on.
        self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=resume_step, write_to_disk=True)
        for line in kept:
            entry = json.loads(line)
            if "eval" in entry and (step := entry.pop("step")) == resume_step:
                self.draw(step, {f"eval/{entry.pop('eval')}": entry})

    def write(
        self,
        step: int,
        values: Mapping[str, float],
        objective: str | None = None,
        timing: Mapping[str, float] | None = None,
    ) -> None:
        """Writes one line of `metrics.jsonl`, flushed.

        Raises:
          ValueError: a value is named like one of the fixed keys.
        """
        if clash := [name for name in _RESERVED if name in values]:
            raise ValueError(f"metric named {clash}: step, objective and timing are the line's own keys")
        if self._file is None:
            return
        line: dict[str, Any] = {"step": int(step)}
        if objective is not None:
            line["objective"] = objective
        line |= {name: float(values[name]) for name in sorted(values)}
        if timing:
            line["timing"] = {name: float(timing[name]) for name in sorted(timing)}
        self._append(line)

    def evaluation(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Writes what an evaluation found before `step`: a line, and `eval/<name>/<metric>` to TensorBoard."""
        if self._file is None:
            return
        line = {"step": int(step), "eval": name} | {metric: float(value) for metric, value in values.items()}
        self._append(line)
        self.draw(step, {f"eval/{name}": values})

    def draw(self, step: int, groups: Mapping[str, Mapping[str, float]]) -> None:
        """Writes `<group>/<name>` to TensorBoard, flushed; slower than a line, so once per log interval."""
        if self._file is None:
            return
        with _named(self._path.parent / "tensorboard"):
            for group in sorted(groups):
                for number, name in enumerate(sorted(groups[group]), 1):
                    if math.isfinite(value := float(groups[group][name])):
                        self._board.add_scalar(f"{group}/{name}", value, int(step))
                    # tensorboardX writes in a thread once it has 8 KB. On a full disk that thread ends, and the next
                    # scalars would wait for it; a flush writes here.
                    if number % _FLUSHED == 0:
                        self._board.flush()
            self._board.flush()

    def _append(self, line: Mapping[str, Any]) -> None:
        """Writes a line, flushed. What a full disk takes of it is dropped when the run goes on (`repair`)."""
        assert self._file is not None
        with _named(self._path):
            self._file.write(json.dumps(files.json_value(line), allow_nan=False, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes both files; safe to call twice."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                with _named(self._path):
                    file.close()
            finally:
                self._close_board()

    def _close_board(self) -> None:
        events = self._board.file_writer.event_writer
        try:
            with _named(self._path.parent / "tensorboard"):
                self._board.close()
        except OSError:
            events._closed = True  # else it is closed again when the process ends, and prints a traceback
            if events._worker.is_alive():
                events._worker.stop()
            raise

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was dispatched, until its numbers are read.

    Attributes:
      index: of the step.
      objective: what it trained.
      sums: its numbers, perhaps still being computed.
      streams: where the objective's streams stood before its batch was drawn.
    """

    index: int
    objective: str
    sums: Sums
    streams: Mapping[str, Any]


class Meter:
    """What the steps say: every step to the writer, windows of them to the screen and the summary."""

    def __init__(self, writer: MetricsWriter):
        self._writer = writer
        self._since, self._tokens = time.perf_counter(), 0.0
        self._window: dict[str, list[dict[str, float]]] = {}

    def read(self, step: Step) -> dict[str, float]:
        """Writes and returns a step's numbers."""
        values = of_step(step.sums)
        self._writer.write(step.index, values, objective=step.objective)
        self._tokens += values["tokens"]
        self._window.setdefault(step.objective, []).append(values)
        return values

    def skipped(self) -> float:
        """Share of the steps since the last window whose update was left out."""
        lines = [line for values in self._window.values() for line in values]
        return summary.means(lines, ("skipped",)).get("skipped", 0.0)

    def window(
        self, index: int, waited: float, spent: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Mean losses and timing since the last call; all means also go to TensorBoard.

        Args:
          index: of the last step.
          waited: seconds that the devices waited for data since the last call.
          spent: seconds by cause, as `Goodput.window` gives them.

        Returns:
          The losses by objective; `tokens_per_second` (real ones), `data_wait`, the share of the time waited, and of
          what was spent the share that was `productive` and `seconds/CAUSE` of each cause there is.
        """
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        timing = {"tokens_per_second": self._tokens / seconds, "data_wait": waited / seconds}
        timing |= {"productive": goodput.share(spent)} if any(spent.values()) else {}
        timing |= {f"seconds/{cause}": value for cause, value in spent.items() if value}
        means = {name: summary.means(summary.applied(lines)) for name, lines in self._window.items()}
        self._window, self._since, self._tokens = {}, now, 0.0
        self._writer.write(index, {}, timing=timing)
        self._writer.draw(index, means | {"timing": timing})
        losses = {name: values["loss"] for name, values in means.items() if "loss" in values}
        return losses, timing


def _before(lines: list[str], resume_step: int | None) -> list[str]:
    """The lines that were written before training went on from `resume_step`."""
    kept = []
    for line in lines:
        entry = json.loads(line)
        if resume_step is not None and entry["step"] >= resume_step + ("eval" in entry):
            break
        kept.append(line)
    return kept


def line_of(path: pathlib.Path, step: int) -> dict[str, Any] | None:
    """The line of a training step in a metrics file, without its timing; None where there is none."""
    found = [entry for entry in entries(path) if entry["step"] == step and "objective" in entry]
    return {name: value for name, value in found[-1].items() if name != "timing"} if found else None


def evaluations(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of evaluations in a metrics file, in order; what is damaged of it is passed over, not mended."""
    return [entry for entry in entries(path) if "eval" in entry]


def entries(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metrics file, in order; what is damaged of it is passed over, not mended."""
    if path.is_file():
        with path.open("rb") as file:
            found = (_entry(line) for line in file if line.endswith(b"\n"))
            yield from (entry for entry in found if entry is not None)


def repair(path: pathlib.Path) -> list[str]:
    """Returns the whole lines of a metrics file, after dropping from it what is none; [] if there is no file.

    A last line cut short by a crash is dropped silently. If any other line is no JSON object with a step and numbers,
    the file is first kept aside as `metrics.jsonl.damaged`, and what is dropped is printed.
    """
    if not path.exists():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    bad = {number for number, line in enumerate(lines, 1) if _entry(line) is None}
    whole = [f"{line.decode()}\n" for number, line in enumerate(lines, 1) if number not in bad]
    if bad:
        shutil.copyfile(path, kept := files.aside(path))
        numbers = ", ".join(map(str, sorted(bad)[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        screen.show(f"{path}, line {numbers}: no metrics, dropped; the file as it was is kept as {kept}")
    if bad or torn:
        files.write_text(path, "".join(whole))
    return whole


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None unless it is one that `MetricsWriter` writes."""
    try:
        entry = json.loads(line.decode())
        for name, value in (entry | entry.get("timing", {})).items():
            if name not in ("objective", "eval", "timing"):
                float(value)
        named = isinstance(entry.get("objective", ""), str) and isinstance(entry.get("eval", ""), str)
        return entry if named and type(entry["step"]) is int else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
