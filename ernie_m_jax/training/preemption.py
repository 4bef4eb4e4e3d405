"""What may end a run early: a signal to stop (preemption, Ctrl-C). The loop polls; no step is cut short.

Python runs its handlers only once the main thread is back from what it called, which for a compiler or a tokenizer's
training takes minutes. So a thread reads the byte that Python writes for each signal, and the loop compiles in one.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

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
      busy: whether a thread of it is still in a compiler, so that Python must not be ended in order.
    """

    def __init__(self, message: str, number: int | None = None, busy: bool = False):
        super().__init__(message)
        self.status, self.busy = status(number), busy


class Stopped(BaseException):
    """Where `StopRequest.at_once` holds: the signal. No `except Exception` on the way may keep it."""


@contextlib.contextmanager
def between_steps() -> Iterator[None]:
    """Has SIGTERM end the process with `RESTART` wherever no `StopRequest` catches it: in evaluations, between stages.

    Nothing is saved, since all that is done is on disk: a run may be killed at any time. With several processes JAX
    notes the signal, and the next step heeds it.
    """
    global _came
    _came = None
    if jax.process_count() > 1:
        yield
        return
    previous = signal.signal(signal.SIGTERM, _end)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_read, args=(reader,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join(timeout=1)
        os.close(reader)
        signal.signal(signal.SIGTERM, previous)


_came: float | None = None  # when the first SIGTERM or SIGINT did, as soon as the thread knew
_catching = 0  # `StopRequest`s that are entered
_heeded = threading.Event()  # a handler has run
_PATIENCE = 1.0  # seconds for the main thread to run its handler


def _read(reader: int) -> None:
    """The thread: sees a signal whatever the main thread is in."""
    global _came
    while numbers := os.read(reader, 64):
        if {signal.SIGTERM, signal.SIGINT} & set(numbers):
            _came = _came or time.monotonic()
        if signal.SIGTERM in numbers:
            if not _heeded.wait(_PATIENCE) and not _catching:
                _end(signal.SIGTERM, None)
            _heeded.clear()


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    _heeded.set()
    flushing = threading.Thread(target=_flush, daemon=True)  # nobody may read what standard output is connected to
    flushing.start()
    flushing.join(timeout=1)
    os.write(2, b"stopped while no step ran; the same command goes on from there\n")
    os._exit(RESTART)  # an exception might be swallowed by what it comes through


def _flush() -> None:
    with contextlib.suppress(Exception):  # what was being written when the signal came
        sys.stdout.flush()


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
        self._at_once = False

    def __enter__(self) -> "StopRequest":
        global _catching
        _catching += 1
        # With several hosts JAX's preemption service owns SIGTERM; a handler of ours would keep the signal from it.
        for number in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        global _catching
        self._restore(*self._previous)
        _catching -= 1

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Has a signal end the block where it is: what the block has done by then must not matter.

        Raises:
          Stopped: one came, in the block or before it. Never where there are several processes, which agree on a step.
        """
        self._at_once = True
        try:
            if self.signal is not None:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def awaited(self, act: Callable[[], Any]) -> bool:
        """Calls a function that Python's handlers would have to wait for; returns whether it ended before a signal.

        It runs in a thread, which is left to itself once there is a signal.
        """
        failed: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                act()
            except BaseException as error:
                failed.append(error)
            done.set()

        threading.Thread(target=run, name="compile", daemon=True).start()
        while not done.wait(0.1):
            if self.signal is not None:
                return False
        if failed:
            raise failed[0]
        return True

    def after(self) -> str:
        """How long ago the signal came, for people; empty where only JAX knows."""
        return "" if self.signal is None or _came is None else f" {time.monotonic() - _came:.1f} s after the signal"

    def due(self, step: int) -> bool:
        """True once all processes are to stop after `step`; several agree on it, if all of them ask equally often."""
        del step  # of this stage: what several agree on outlives it
        if jax.process_count() > 1:
            return _agreed.due()
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        _heeded.set()
        self.signal = self.signal or number
        self._restore(signal.SIGINT)
        if self._at_once:
            self._at_once = False
            raise Stopped

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]
