"""What a run is doing right now, and what its time went to: phases entered by the loop in, names and seconds out.

The watchdog reads from a thread what the training thread is doing; the report reads where the time went.
"""

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

_TIMES = 128  # steps whose times the median is of


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come: steps done by this process, the newest of them, and seconds of the median step."""

    count: int
    stage: str
    step: int
    median: float | None


class Phases:
    """The phase that a run is in, and the seconds spent in each.

    Only the thread that trains changes the phase; any thread may read it.

    Attributes:
      NAMES: "start" is all that is before, between and after the steps: opening data, training a tokenizer, restoring;
        "compile" an objective's first step, until it is dispatched; "data" the wait for a batch and its way to the
        devices; "step" the rest of the loop, mostly the wait for the devices; "checkpoint" what a save holds up;
        "evaluation" evaluations, in the loop or not.
    """

    NAMES = ("start", "compile", "data", "step", "checkpoint", "evaluation")

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Begins in "start"; `clock` tells seconds and never goes back."""
        self._clock, self._lock = clock, threading.Lock()
        self._name, self._since = "start", clock()
        self._spent = dict.fromkeys(self.NAMES, 0.0)
        self._progress, self._times = Progress(0, "", 0, None), deque[float](maxlen=_TIMES)
        self._busy: float | None = None  # seconds of data and steps when the newest step was done

    def enter(self, name: str) -> None:
        """Changes the phase.

        Raises:
          ValueError: there is no such phase.
        """
        if name not in self._spent:
            raise ValueError(f"phase {name!r} is none of {', '.join(self.NAMES)}")
        with self._lock:
            now = self._clock()
            self._spent[self._name] += now - self._since
            self._name, self._since = name, now

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Enters a phase, and the one before at the end; time within an inner phase counts for that alone."""
        before = self.current[0]
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    @property
    def current(self) -> tuple[str, float]:
        """The phase, and the seconds since it was entered, or came back to."""
        with self._lock:
            return self._name, self._clock() - self._since

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far, the running one included; together all since the beginning."""
        with self._lock:
            return self._seconds()

    def _seconds(self) -> dict[str, float]:
        return self._spent | {self._name: self._spent[self._name] + self._clock() - self._since}

    def done(self, stage: str, step: int) -> None:
        """Notes that a step of a stage is done; its time is that of "data" and "step" since the one before."""
        with self._lock:
            spent = self._seconds()
            busy, before = spent["data"] + spent["step"], self._busy
            if before is not None and stage == self._progress.stage:
                self._times.append(busy - before)
            self._busy = busy
            middle = median(self._times) if self._times else None
            self._progress = Progress(self._progress.count + 1, stage, step, middle)

    def progress(self) -> Progress:
        """How far the run has come."""
        return self._progress
