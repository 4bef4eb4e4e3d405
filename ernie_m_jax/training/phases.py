"""What a run is doing right now, and what its time went to: phases entered by the loop in, names and seconds out.

The watchdog reads from a thread what the training thread is doing; the report reads where the time went.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


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
            return self._spent | {self._name: self._spent[self._name] + self._clock() - self._since}
