"""Which host holds the others up: each process's times in, a table on the first one's screen out.

All processes of a run take the same time for a step, that of the slowest, so the step's time names nobody. What tells
them apart is how long each waits for its own data, and how long its devices take for a small computation that no other
process has a part in.
"""

import socket
import time
from collections.abc import Callable, Sequence
from statistics import median_low
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table
from jax.experimental import multihost_utils

from ernie_m_jax.training.phases import Phases

SLOW = 1.5  # times the median
_SHARE = 0.1  # of a step; a shorter wait for data slows nobody down much
_NAME = 64  # bytes of a host's name
_SIZE, _REPEATS = 512, 3  # rows and columns multiplied, times


class Times(NamedTuple):
    """One process's times in seconds: of a step, of that the wait for data, and of the computation all devices do."""

    step: float
    data: float
    probe: float


class HostTimes:
    """Compares the processes before every `every`-th step; does nothing where there is one."""

    def __init__(self, every: int, phases: Phases, show: Callable[..., None]):
        """`every` 0: never; `show` takes tables and lines for the screen."""
        self._every = every if jax.process_count() > 1 else 0
        self._phases, self._show = phases, show
        self._names: list[str] = []
        self._before = self._now()

    def before(self, index: int, state: Any) -> None:
        """Compares them if step `index` is due; all processes call it. The devices finish `state` first."""
        if not self._every or index % self._every:
            return
        jax.block_until_ready(state)
        now, self._names = self._now(), self._names or host_names()
        steps, data, spent = (one - other for one, other in zip(now, self._before, strict=True))
        if steps:
            own = Times(spent / steps, data / steps, probe())
            with jax.transfer_guard("allow"):
                gathered = np.asarray(multihost_utils.process_allgather(np.array(own)))
            times = [Times(*map(float, row)) for row in gathered]
            self._show(table(self._names, times, int(steps)), *slow_hosts(self._names, times))
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        seconds = self._phases.seconds()
        return float(self._phases.progress().count), seconds["data"], seconds["data"] + seconds["step"]


def probe() -> float:
    """Seconds that the slowest device of this process takes for a fixed computation; the best of some tries."""
    return max(_probe(device) for device in jax.local_devices())


def _probe(device: jax.Device) -> float:
    matrix = jax.device_put(np.eye(_SIZE, dtype=np.float32), device)
    jax.block_until_ready(_multiply(matrix))  # compiles
    taken = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        jax.block_until_ready(_multiply(matrix))
        taken.append(time.perf_counter() - begun)
    return min(taken)


@jax.jit
def _multiply(matrix: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 8, lambda _, product: jnp.tanh(product @ matrix), matrix)


def host_names() -> list[str]:
    """The host of every process; all call it."""
    own = np.zeros(_NAME, np.uint8)
    name = socket.gethostname().encode()[:_NAME]
    own[: len(name)] = np.frombuffer(name, np.uint8)
    with jax.transfer_guard("allow"):
        gathered = np.asarray(multihost_utils.process_allgather(own))
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in gathered]


def table(names: Sequence[str], times: Sequence[Times], steps: int) -> rich.table.Table:
    """A row per process, milliseconds."""
    made = rich.table.Table("process", "host", title=f"Hosts over the last {steps} steps, ms")
    for title in ("step", "of it data", "own devices"):
        made.add_column(title, justify="right")
    for number, (name, row) in enumerate(zip(names, times, strict=True)):
        made.add_row(str(number), name, *(f"{1000 * seconds:.2f}" for seconds in row))
    return made


def slow_hosts(names: Sequence[str], times: Sequence[Times]) -> list[str]:
    """A line for each process that takes more than `SLOW` times as long as the (lower) median one, and for what."""
    lines = []
    data, own = (median_low([getattr(row, name) for row in times]) for name in ("data", "probe"))
    for number, (name, row) in enumerate(zip(names, times, strict=True)):
        start = f"slow host: process {number} ({name})"
        if row.data > SLOW * data and row.data > _SHARE * row.step:
            lines.append(f"{start} waits {1000 * row.data:.1f} ms of a step for data, the median {1000 * data:.1f} ms")
        if row.probe > SLOW * own:
            lines.append(
                f"{start}: its devices take {1000 * row.probe:.1f} ms for what takes the median {1000 * own:.1f} ms"
            )
    return lines
