"""A run in a process of its own: its share of the machine, its log, and who else may be running it."""

import contextlib
import fcntl
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ernie_m_jax.config import ConfigError


class Share(NamedTuple):
    """What one of several runs at a time may use.

    Attributes:
      cores: of the CPU; empty: all.
      environment: what its process has beyond this one's environment.
    """

    cores: frozenset[int]
    environment: Mapping[str, str]


def shares(jobs: int) -> list[Share]:
    """The machine divided between `jobs` runs at a time: its visible GPUs, or without any this process's CPU cores.

    Raises:
      ConfigError: there are fewer GPUs than runs, which would fight over their memory.
    """
    if jobs == 1:
        return [Share(frozenset(), {})]
    gpus = visible_gpus()
    if gpus and jobs > len(gpus):
        raise ConfigError(f"--jobs={jobs}: {len(gpus)} GPUs are visible, and each run needs its own; give at most that")
    if gpus:
        return [Share(frozenset(), {"CUDA_VISIBLE_DEVICES": ",".join(gpus[job::jobs])}) for job in range(jobs)]
    if not hasattr(os, "sched_getaffinity"):
        return [Share(frozenset(), {})] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [Share(frozenset(cores[job % len(cores) :: jobs]), {}) for job in range(jobs)]


def visible_gpus() -> list[str]:
    """NVIDIA GPUs that a run would see, as CUDA_VISIBLE_DEVICES names them; asked without starting JAX on them."""
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        # As the driver reads it: what stands behind the first that is no GPU, such as -1, is not visible.
        return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))
    numbers = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return [str(number) for number in sorted(int(match[1]) for match in numbers if match)]


class Process:
    """One run's process, from the moment that no other one runs it.

    Its output is appended to the log. The process holds a lock on that file as long as it lives: a sweep that was
    killed leaves its runs running, and the next one waits for them.

    Attributes:
      command: argv.
      seconds: how long it has run.
    """

    def __init__(self, command: Sequence[str], log: Path, share: Share):
        self.command = list(command)
        self._log, self._share = log, share
        self._process: subprocess.Popen[bytes] | None = None
        self._began, self._told = time.monotonic(), False

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    def begin(self) -> bool:
        """Starts it, unless it has been started; returns whether it has: not while another process has the log."""
        if self._process is not None:
            return True
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._began = time.monotonic()
            with _on(self._share.cores):
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._share.environment},
                    start_new_session=True,  # a terminal's Ctrl-C reaches the sweep alone, which passes it on once
                )
        return True

    @property
    def pid(self) -> int | None:
        """None before it is started."""
        return None if self._process is None else self._process.pid

    def poll(self) -> int | None:
        """Its exit status; negative: the signal that ended it. None while it runs or before it does."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Asks it once to save and end."""
        if self._process is not None and not self._told:
            self._told = True
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until it has ended, if it was started."""
        if self._process is not None:
            self._process.wait()


@contextlib.contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """This thread, and so a process that it starts, on some cores only."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class StopRequest:
    """Notes SIGTERM and SIGINT while it is entered; after the first of them SIGINT ends this process as usual.

    Attributes:
      signal: the first that came; None: none yet.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def made(self) -> bool:
        """Whether one has come."""
        return self.signal is not None

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = self.signal or number
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds a lock file.

    Raises:
      ConfigError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path.parent} is in use: another process runs this sweep") from None
        yield


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that hold anything."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-count:]
