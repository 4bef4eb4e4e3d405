"""What may end a run early: a signal to stop (preemption, Ctrl-C). The loop polls; no step is cut short."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from ernie_m_jax.lifeline import RESTART


def status(number: int | None) -> int:
    """The exit status of a process that a signal asked to stop, and that is saved; None: JAX caught the signal.

    Ctrl-C is a person's, who wants no restart: 130, as a shell counts it.
    """
    return 128 + signal.SIGINT if number == signal.SIGINT else RESTART


class Interrupted(Exception):
    """The run was told to stop and has saved its state; the message says how to go on.

    Attributes:
      status: the exit status to end the process with.
    """

    def __init__(self, message: str, number: int | None = None):
        super().__init__(message)
        self.status = status(number)


@contextlib.contextmanager
def between_steps() -> Iterator[None]:
    """Has SIGTERM end the process with `RESTART` wherever no `StopRequest` catches it: in evaluations, between stages.

    Nothing is saved, since all that is done is on disk: a run may be killed at any time. With several processes JAX
    notes the signal, and the next step heeds it.
    """
    if jax.process_count() > 1:
        yield
        return
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    with contextlib.suppress(Exception):  # what was being written when the signal came
        sys.stdout.flush()
    os.write(2, b"stopped while no step ran; the same command goes on from there\n")
    os._exit(RESTART)  # an exception might be swallowed by what it comes through


class _Agreed:
    """What several processes agree on. JAX has them stop at a number that none has reached, so it may never go back."""

    def __init__(self) -> None:
        self._asked, self._due = 0, False

    def due(self) -> bool:
        if not self._due:
            self._asked += 1
            self._due = bool(multihost_utils.reached_preemption_sync_point(self._asked))
        return self._due


_agreed = _Agreed()


class StopRequest:
    """Catches SIGTERM and SIGINT while it is entered; after the first of them SIGINT is not caught.

    SIGTERM may come twice for one request, from the scheduler and from the parent that it asked as well. A person who
    presses Ctrl-C again means it.

    Attributes:
      signal: the first that came; None: none yet.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # With several hosts JAX's preemption service owns SIGTERM; a handler of ours would keep the signal from it.
        for number in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore(*self._previous)

    def due(self, step: int) -> bool:
        """True once all processes are to stop after `step`; several agree on it, if all of them ask equally often."""
        del step  # of this stage: what several agree on outlives it
        if jax.process_count() > 1:
            return _agreed.due()
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = self.signal or number
        self._restore(signal.SIGINT)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]
