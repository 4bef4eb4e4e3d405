"""Where the time of a run went, over all its parts: seconds of phases in, `goodput.json` in the work directory out.

    {"starts": 2, "earlier": {cause: seconds}, "before": null, "part": {"seconds": {cause: seconds}, "marks": [...]}}

A run that is killed and started again has two parts. What the first did after the checkpoint that the second goes on
from is done again: that is the cause "restart", known once the second part has restored. Until then the first part
waits as it is ("before"). Marks say how far a part was when it began and at every save. A thread writes the file every
few seconds, so that a kill at any moment loses little of the account.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from ernie_m_jax.reporting import files, screen, summary

FILE = "goodput.json"
EARLIER = "elapsed.json"  # of versions before it: the seconds of all parts, in one number
CAUSES = {
    "step": "training: productive",
    "start": "opening data, training a tokenizer, restoring, what is between stages",
    "compile": "each objective's first step",
    "input_wait": "the devices had nothing to do but wait for data",
    "checkpoint": "saves, as far as training waited for them",
    "evaluation": "evaluations",
    "skipped": "steps whose update was left out: not finite, or a spike",
    "restart": "done again after a kill: what came after the last checkpoint",
}
_AGAIN = ("step", "input_wait", "skipped", "evaluation")  # what a part that goes on from a checkpoint does again
_MOST_MARKS = 200
_SECONDS, _LONGEST, _SHARE = 2.0, 60.0, 1e-3  # between two writes: at least, at most, and of the time so far
_NEVER = 1e12  # seconds

Seconds = dict[str, float]


class Goodput:
    """The account of one process, beginning at what earlier parts of the run left; a context, in which it is kept.

    Args:
      path: of the file; None keeps none.
      going_on: whether the run has a checkpoint to go on from; otherwise the file is another, failed run's.
      spent: seconds by phase so far, as `Phases.seconds`.
      age: seconds that the process had run before the phases began.
    """

    def __init__(
        self,
        path: Path | None = None,
        going_on: bool = False,
        spent: Callable[[], Mapping[str, float]] = dict,
        age: float = 0.0,
    ):
        self._path, self._spent, self._age, self._found = path, spent, age, None
        self._lock, self._done, self._written = threading.RLock(), threading.Event(), 0.0
        self._writing = threading.Lock()  # never taken while the other one is held: a slow disk holds up no step
        self._thread: threading.Thread | None = None
        self._waited = self._skipped = 0.0
        self._shown: Seconds = dict.fromkeys(CAUSES, 0.0)  # up to the last window
        self._marks: list[list[Any]] = []
        self._starts, self._earlier, self._before = 1, dict.fromkeys(CAUSES, 0.0), None
        stored = read(path) if path is not None and going_on else None
        if path is not None and going_on and not path.exists():
            self._earlier["start"] = _elapsed(path.parent / EARLIER)
        if stored is not None:
            self._found, self._starts = stored, stored["starts"] + 1
            self._earlier, self._before = stored["earlier"], stored["part"]
            if stored["before"] is not None:  # the last part never came to restore: it did nothing twice
                self._earlier, self._before = _sum([stored["earlier"], stored["part"]["seconds"]]), stored["before"]

    def part(self) -> Seconds:
        """Seconds of this process by cause, up to now; together its whole time."""
        with self._lock:
            spent = dict(self._spent())
            steps = spent.pop("step", 0.0) + spent.pop("data", 0.0)
            waited = min(self._waited, steps)
            skipped = min(self._skipped, steps - waited)
            own = {"step": steps - waited - skipped, "input_wait": waited, "skipped": skipped}
            spent["start"] = spent.get("start", 0.0) + self._age
            return {cause: float((spent | own).get(cause, 0.0)) for cause in CAUSES}

    def total(self) -> Seconds:
        """Seconds of all parts by cause."""
        before = [self._before["seconds"]] if self._before is not None else []
        return _sum([self._earlier, *before, self.part()])

    def summary(self) -> dict[str, Any]:
        """The share that was productive, how often the run was started, and the seconds by cause."""
        total = self.total()
        return {"productive": share(total), "starts": self._starts, "seconds": total}

    def window(self, waited: float, skipped: float) -> Seconds:
        """Seconds by cause since the last call.

        Args:
          waited: of them, seconds that the devices had nothing to do but wait for data.
          skipped: share of the steps since then whose update was left out.
        """
        with self._lock:
            self._waited += waited
            now = self.part()
            self._skipped += skipped * max(0.0, now["step"] - self._shown["step"])
            now = self.part()
            found = {cause: now[cause] - self._shown[cause] for cause in CAUSES}
            self._shown = now
        return found

    def began(self, stage: str, step: int) -> None:
        """A stage goes on from the state before `step`: what an earlier part did after that is done again."""
        with self._lock:
            if self._before is not None:
                seconds, at = self._before["seconds"], _mark(self._before["marks"], stage, step)
                again = {cause: seconds[cause] - at[cause] for cause in _AGAIN} if at is not None else {}
                self._earlier = _sum([self._earlier, seconds, {cause: -lost for cause, lost in again.items()}])
                self._earlier["restart"] += sum(again.values())
                self._before = None
            self._add_mark(stage, step)
        self.keep()

    def saved(self, stage: str, step: int) -> None:
        """The state before `step` is being saved."""
        self._add_mark(stage, step)
        self.keep()

    def keep(self) -> None:
        """Writes the account; a disk that refuses it does not stop the run. Only into a run's work directory."""
        with self._writing:
            path = self._path
            if path is None or not (path.parent / "config.json").exists():
                return
            with self._lock:
                part = {"seconds": self.part(), "marks": self._marks}
                value = {"starts": self._starts, "earlier": self._earlier, "before": self._before, "part": part}
            with contextlib.suppress(OSError):
                files.write_json(path, value)
                (path.parent / EARLIER).unlink(missing_ok=True)
            self._written = time.monotonic()

    def forget(self) -> None:
        """Leaves the file as it was found: the run is complete, and this process did nothing."""
        self._done.set()
        with self._writing:
            if self._path is not None and self._found is not None:
                files.write_json(self._path, self._found)
            elif self._path is not None:
                self._path.unlink(missing_ok=True)
            self._path = None

    def __enter__(self) -> "Goodput":
        if jax.process_index() != 0:
            self._path = None
        if self._path is not None:
            self._thread = threading.Thread(target=self._beat, name="goodput", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=10)  # it writes nothing once the work directory is left
        self.keep()

    def _add_mark(self, stage: str, step: int) -> None:
        with self._lock:
            part = self.part()
            marks = [*self._marks, [stage, step, {cause: part[cause] for cause in _AGAIN}]]
            self._marks = [marks[0], *marks[1:][-_MOST_MARKS:]]

    def _beat(self) -> None:
        """Writes the account from time to time."""
        while not self._done.wait(min(_LONGEST, max(_SECONDS, _SHARE * sum(self.part().values())))):
            if time.monotonic() - self._written >= _SECONDS:
                self.keep()


def read(path: Path) -> dict[str, Any] | None:
    """The account that a file holds; None without one or, which is printed, where it is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        value = None
    if is_sound(value):
        return dict(value)
    screen.show(f"{path} is damaged; the time before this start is not counted")
    return None


def _elapsed(path: Path) -> float:
    """The seconds that an earlier version counted, which is printed: nothing says what they were spent on."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return 0.0
    if not _is_seconds(value) or not value >= 0:
        return 0.0
    screen.show(f"{path}: the {value:,.0f} s before this version are counted as start")
    return float(value)


def is_sound(value: Any) -> bool:
    """Whether a value is what `Goodput.keep` writes."""
    try:
        parts = [value["part"], *([value["before"]] if value["before"] is not None else [])]
        marks = [mark for part in parts for mark in part["marks"]]
        whole = [value["earlier"], *(part["seconds"] for part in parts)]
        numbers = [seconds[cause] for seconds in whole for cause in CAUSES]
        numbers += [seconds[cause] for *_, seconds in marks for cause in _AGAIN]
        named = all(isinstance(stage, str) and type(step) is int for stage, step, _ in marks)
        return named and type(value["starts"]) is int and all(map(_is_seconds, numbers))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def of_file(account: Mapping[str, Any]) -> Seconds:
    """Seconds by cause of all parts, as a file has them (see `read`)."""
    before = [account["before"]["seconds"]] if account["before"] is not None else []
    return _sum([account["earlier"], *before, account["part"]["seconds"]])


def share(seconds: Mapping[str, float]) -> float:
    """The productive part of all; 0 of nothing."""
    return seconds["step"] / (sum(seconds.values()) or 1.0)


def age() -> float:
    """Seconds since this process began, where the system tells them (Linux); else 0."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, float(Path("/proc/uptime").read_text("utf-8").split()[0]) - began)
    except (OSError, ValueError, IndexError):
        return 0.0


def _is_seconds(value: Any) -> bool:
    return summary.is_number(value) and abs(value) < _NEVER


def _sum(parts: Iterable[Mapping[str, float]]) -> Seconds:
    parts = list(parts)
    return {cause: sum(part.get(cause, 0.0) for part in parts) for cause in CAUSES}


def _mark(marks: Iterable[Any], stage: str, step: int) -> Mapping[str, float] | None:
    """How far a part was at the state that the next one goes on from; None of a part that did nothing.

    A state from before the part (an older checkpoint was the newest good one) counts as the part's beginning there; a
    stage that the part never came to goes on from all that it did.
    """
    own = [(number, seconds) for name, number, seconds in marks if name == stage]
    exact: list[Mapping[str, float]] = [seconds for number, seconds in own if number == step]
    if exact:
        return exact[-1]
    if own:
        return own[0][1]
    every = [seconds for *_, seconds in marks]
    return every[-1] if every else None
