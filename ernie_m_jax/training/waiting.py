"""How long the accelerators wait for data: the steps' sums and the times of drawing batches in, seconds out.

The loop runs ahead of the device by a step, so that it waits for a batch is no loss while the step before is still
being computed. A thread notes when each step's sums are ready, without a copy and beside the loop; what counts is the
part of the wait for a batch that comes after that.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ernie_m_jax.config import DataConfig
from ernie_m_jax.task import Sums

MOST = 0.02  # share of the time that may be spent waiting without a word


class Waiting:
    """The waits of one stage's loop; `close` it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """Starts the thread; `clock` tells seconds."""
        self._clock = clock
        self._steps: queue.SimpleQueue[Sums | None] = queue.SimpleQueue()
        self._dispatched = self._done = 0
        self._ready = clock()  # when the last step that is done was
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)
        self._thread.start()

    def draw(self, loader: Any) -> Any:
        """The loader's next batch."""
        begun = self._clock()
        rows = next(loader)
        end = self._clock()
        # Before the first step the device has nothing to do whatever the data does: it is not yet compiled.
        if self._dispatched and self._done == self._dispatched:
            self._seconds += max(0.0, end - max(begun, self._ready))
        return rows

    def dispatched(self, sums: Sums) -> None:
        """A step was dispatched, whose sums these will be."""
        self._dispatched += 1
        self._steps.put(sums)

    def seconds(self) -> float:
        """Seconds that the device had nothing to do but wait for data, since the last call."""
        found, self._seconds = self._seconds, 0.0
        return found

    def close(self) -> None:
        """Ends the thread, unless it is held by a step that never ends, such as one whose other process is gone."""
        self._steps.put(None)
        self._thread.join(timeout=2)

    def _watch(self) -> None:
        while (sums := self._steps.get()) is not None:
            try:
                jax.block_until_ready(sums)
            except Exception:  # the loop meets it too, and says it
                return
            self._ready = self._clock()
            self._done += 1


class SlowData:
    """Says once, after the first log interval, that the devices wait for data, and what to do about it."""

    def __init__(self, keys: DataConfig):
        """`keys` are the config's, which say what could be done."""
        self._workers, self._windows, self._said = keys.workers, 0, False

    def text(self, timing: Mapping[str, float]) -> str:
        """What to say of a log interval; empty: nothing."""
        self._windows += 1
        share = timing["data_wait"]
        # The first interval has the compilation, and its first batches were not made ahead.
        if self._said or self._windows == 1 or share <= MOST:
            return ""
        self._said = True
        return (
            f"the devices waited for data {share:.0%} of the last log interval: store the token ids once "
            f"(python -m ernie_m_jax.data.prepare corpus), or raise config.data.workers, now {self._workers}; "
            "docs/data.md says more"
        )
