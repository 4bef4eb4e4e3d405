"""A run that hangs is ended: its phases and the other processes' signs of life in; stacks and exit status 42 out.

A step that never ends holds its machines for good: a collective whose other side is stuck, a reader on a dead file
system. So a thread looks on. Where no step is done for too long it writes what every thread of the process was doing,
says it in one line, and ends the process to be run again. Of several processes the first judges the steps, since it is
told where the others are; each notices that one it talks with says nothing at all.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from ernie_m_jax import lifeline, mirrors
from ernie_m_jax.reporting import files
from ernie_m_jax.training.phases import Phases

HEARTBEAT, HANG = "heartbeat.json", "hang.txt"  # in the work directory; of other processes than 0, NUMBER.NAME
LIMITED = ("data", "step")  # phases in which a step must come; how long the others take is hard to say
SILENT = 25.0  # seconds without a word of another process; Gloo gives up after 30, and JAX aborts this one after 45
FACTOR = 10  # times the median step without a step
FIRST = 3  # times the least limit, for the first step of all: there is no median yet
TICK = 1.0  # seconds between two looks
BEAT = 5.0  # seconds between two writes of the heartbeat's file


class Watchdog:
    """Looks on from a thread while it is entered.

    Args:
      phases: what the run is doing.
      workdir: of the run; the heartbeat and the stacks are written there.
      seconds: `config.train.watchdog_seconds`, the least limit of a step; 0: no limit.
      other: `config.train.watchdog_other_seconds`, the limit of each other phase; 0: no limit.
      clock: seconds, monotonic.
      leave: ends this process and the others, given what is wrong and who was silent.
    """

    def __init__(
        self,
        phases: Phases,
        workdir: Path,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[str, list[int]], Any] = lifeline.hang,
        other: float = 0.0,
    ):
        self._phases, self._seconds, self._clock, self._leave = phases, seconds, clock, leave
        self._other = other
        self._process, self._processes = jax.process_index(), jax.process_count()
        prefix = f"{self._process}." if self._process else ""
        self.heartbeat, self.hang = workdir / f"{prefix}{HEARTBEAT}", workdir / f"{prefix}{HANG}"
        self._last, self._waited, self._mark = clock(), 0.0, (-1, "", False)
        self._heard: dict[int, int] = {}  # process -> number of its newest word
        self._silence: dict[int, float] = {}  # process -> seconds since then
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._every, args=(TICK, self.tick), name="watchdog", daemon=True),
            threading.Thread(target=self._every, args=(BEAT, self.beat), name="heartbeat", daemon=True),
        ]

    def __enter__(self) -> "Watchdog":
        lifeline.at_hang(self.dump)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=TICK)
        lifeline.beat(self._doing() | {"phase": "start"})  # what comes now has no limit
        with contextlib.suppress(OSError):
            self.heartbeat.unlink(missing_ok=True)

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        act()
        while not self._closed.wait(seconds):
            act()

    def beat(self) -> None:
        """Writes where this process is. In a thread of its own: a slow disk must not make it silent."""
        doing = self._doing()
        with contextlib.suppress(OSError):  # a full disk stops a run by its checkpoints, not here
            files.write_json(self.heartbeat, {"time": time.time(), "process": self._process, **doing})

    def _doing(self) -> dict[str, Any]:
        name, since = self._phases.current
        progress = self._phases.progress()
        return {"phase": name, "phase_seconds": round(since, 1), "stage": progress.stage, "step": progress.step}

    def tick(self) -> None:
        """Tells the other processes where this one is, and takes one look; ends it if there is something wrong."""
        lifeline.beat(self._doing())
        now = self._clock()
        # A process that was stopped itself, or whose machine slept, has missed what it waits for now.
        passed, self._last = min(now - self._last, 3 * TICK), now
        problem, silent = self._silent(passed) or (self._stuck(passed), [])
        if problem and not self._closed.is_set():
            self.dump(problem, f"error: {problem}; {self.hang} has what each thread was doing\n")
            self._leave(problem, silent)

    def limit(self) -> float:
        """Seconds without a step that are too many now."""
        median = self._phases.progress().median
        return FIRST * self._seconds if median is None else max(self._seconds, FACTOR * median)

    def _stuck(self, passed: float) -> str:
        """What to say if no step has come for too long, on any process: one that takes its time holds up all."""
        doing, progress = self._doing(), self._phases.progress()
        phases = [doing["phase"], *(said["phase"] for _, said in lifeline.heard().values())]
        other = any(phase not in LIMITED for phase in phases)
        limit, key = (self._other, "watchdog_other_seconds") if other else (self.limit(), "watchdog_seconds")
        mark = (progress.count, doing["phase"], other)
        self._waited, self._mark = self._waited + passed if mark == self._mark else 0.0, mark
        if other and doing["phase"] not in LIMITED:  # one evaluation after another
            self._waited = min(self._waited, doing["phase_seconds"])
        if not (self._other if other else self._seconds) or self._process or self._waited < limit:
            return ""
        places = self._places(doing)
        return f"no step for {self._waited:.0f} s (limit {limit:.0f} s by config.train.{key}): {places}"

    def _places(self, doing: Mapping[str, Any]) -> str:
        """Where each process is; with several, first those on which the others may be waiting."""
        if self._processes == 1:
            return _place(doing)
        everyone = {self._process: doing} | {number: said for number, (_, said) in lifeline.heard().items()}
        newest = max(said["step"] for said in everyone.values())
        behind = {number: said for number, said in everyone.items() if said["phase"] != "step" or said["step"] < newest}
        first = sorted(everyone, key=lambda number: (number not in behind, number))
        return ", ".join(f"process {number} is {_place(everyone[number])}" for number in first)

    def _silent(self, passed: float) -> tuple[str, list[int]] | None:
        """What to say of other processes of which nothing was heard for too long, and which they are."""
        if not self._seconds:
            return None
        found = []
        heard = lifeline.heard()
        for number, (count, said) in heard.items():
            same = self._heard.get(number) == count
            self._silence[number] = self._silence.get(number, 0.0) + passed if same else 0.0
            self._heard[number] = count
            # Training a tokenizer and tracing may hold a process up as a whole.
            if self._silence[number] >= SILENT and said["phase"] not in ("start", "compile"):
                found.append(number)
        if not found:
            return None
        words = [
            f"process {number} was silent for {self._silence[number]:.0f} s, last {_place(heard[number][1])}"
            for number in found
        ]
        return ", ".join(words), found

    def dump(self, problem: str, line: str = "") -> None:
        """Writes what each thread is doing to standard error, after a line, and to a file that hangs before are in too.

        It may take `lifeline.DUMPING` seconds. Nobody may read standard error, and what hangs may be the disk.
        """
        text = _stacks()
        lifeline.attempt(lifeline.DUMPING, lambda: lifeline.say(line + text), lambda: self._write(problem, text))

    def _write(self, problem: str, text: str) -> None:
        self.beat()
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        with self.hang.open("a", encoding="utf-8") as file:
            file.write(f"{when}, process {self._process} of {self._processes}: {problem}\n{text}\n")
        mirrors.put(self.hang, now=True)


def _stacks() -> str:
    """Where every thread is. `faulthandler` would hold Python's lock while it writes, also where that blocks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for number, top in sys._current_frames().items():
        lines.append(f"Thread {names.get(number, number)} (most recent call first):")
        frame: FrameType | None = top
        while frame is not None:
            lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
            frame = frame.f_back
    return "\n".join(lines) + "\n"


def _place(doing: Mapping[str, Any]) -> str:
    """Where a process is, for people."""
    after = f" after step {doing['step']} of {doing['stage']}" if doing["stage"] else ""
    return f"in {doing['phase']} for {doing['phase_seconds']:.0f} s{after}"
