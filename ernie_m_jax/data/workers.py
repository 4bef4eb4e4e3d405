"""Batches made in several processes: the virtual streams are divided among them, their parts joined again here.

Each process is Grain's (`mp_prefetch`, arrays in shared memory) and makes the rows of whole streams, as the thread of
`workers=0` does, so the batches are the same for any number of them. Every part brings the state of its streams, which
is that of the streams alone; where a run goes on, the processes are started with it.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle
import grain
import numpy as np
from absl import flags

from ernie_m_jax.data.readers import DataError

GRACE = 30.0  # seconds that a process goes on after a SIGTERM, which the run may have got as well, to save its state
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The iterator over the rows of some streams; what it holds must be picklable.
Make = Callable[[Sequence[int]], grain.DatasetIterator]
_DIED = "Worker process was terminated unexpectedly"  # Grain's words


class Part(grain.IterDataset):
    """The rows of some streams, from a state on, each batch's with the state behind it."""

    def __init__(self, stored: "_Stored"):
        super().__init__()
        self._stored = stored

    def __iter__(self) -> grain.DatasetIterator:
        make, streams, state = self._stored.value
        rows = make(streams)
        rows.set_state(state)
        return _WithState(rows)


class _Stored:
    """A value that is pickled into a file: who fills the pipe of a process that dies before it reads waits for ever."""

    def __init__(self, folder: str, value: Any):
        self.folder, self.value = folder, value

    def __reduce__(self) -> Any:
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(descriptor, "wb") as file:
            cloudpickle.dump(self.value, file)
        return _read_stored, (path,)


def _read_stored(path: str) -> _Stored:
    with open(path, "rb") as file:
        return _Stored(os.path.dirname(path), pickle.load(file))


class _WithState(grain.DatasetIterator):
    """Rows together with the state behind them. Its own state is not used."""

    def __init__(self, rows: grain.DatasetIterator):
        super().__init__()
        self._rows = rows

    def __next__(self) -> dict[str, Any]:
        rows = next(self._rows)
        return {"rows": rows, "state": json.dumps(self._rows.get_state())}

    def get_state(self) -> dict[str, Any]:
        """See the class."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See the class."""


class Workers(grain.DatasetIterator):
    """The rows of all owned streams, made by processes that start with the first batch."""

    def __init__(self, make: Make, owned: Sequence[int], count: int, ahead: int):
        """Starts nothing yet.

        Args:
          make: makes the rows of some streams.
          owned: the streams, ascending.
          count: of processes, at most one for each stream.
          ahead: batches that each of them makes ahead.
        """
        super().__init__()
        self._make, self._ahead = make, ahead
        self._parts = [part.tolist() for part in np.array_split(np.array(owned), count)]
        self._whole = make(owned)  # knows the states; makes no rows
        self._running: list[grain.DatasetIterator] = []
        self._folder = tempfile.TemporaryDirectory(prefix="ernie_m_jax-workers-")

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            parts = self._first() if not self._running else [next(worker) for worker in self._running]
        except RuntimeError as error:
            if _DIED not in str(error):
                raise
            raise DataError(
                f"config.data.workers: a process that makes batches was ended from outside ({error}); was the host out "
                "of memory? Fewer workers take less"
            ) from error
        self._whole.set_state({name: state for part in parts for name, state in json.loads(part["state"]).items()})
        return {name: np.concatenate([part["rows"][name] for part in parts]) for name in parts[0]["rows"]}

    def get_state(self) -> dict[str, Any]:
        """The states of all streams, by number."""
        return self._whole.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken, with new processes."""
        self._stop()
        self._whole.set_state(state)

    def close(self) -> None:
        """Ends the processes."""
        self._stop()
        self._folder.cleanup()
        super().close()

    def _first(self) -> list[dict[str, Any]]:
        """Starts all processes at once, and waits for the first part of each."""
        if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, which only a command line has parsed
            flags.FLAGS.mark_as_parsed()
        state, options = self.get_state(), grain.MultiprocessingOptions(1, self._ahead)
        for part in self._parts:
            own = {str(number): state[str(number)] for number in part}
            stored = _Stored(self._folder.name, (self._make, part, own))
            self._running.append(iter(Part(stored).mp_prefetch(options, begin)))
        with concurrent.futures.ThreadPoolExecutor(len(self._running), initializer=_block_signals) as pool:
            return list(pool.map(next, self._running))

    def _stop(self) -> None:
        for worker in self._running:
            worker.close()
        self._running = []


def _block_signals() -> None:
    """Keeps signals from the processes that this thread starts, until they know what to do with them (`begin`)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def begin(index: int, count: int) -> None:
    """What each process does first: it leaves signals to the run, ends with it, and takes no accelerator."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_soon(*_: Any) -> None:
    timer = threading.Timer(GRACE, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
