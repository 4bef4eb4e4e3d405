"""Loader: a task and a config in, the batches of every step out, wherever and on however many hosts they are read.

The rows of a batch come from `virtual_streams` streams. Each reads its own endless sequence of records (`order`), makes
examples of them, packs these and delivers `batch_size / virtual_streams` rows per step. Hosts own whole streams, so a
batch does not depend on their number, and a stream's state is a few integers, so resuming costs nothing
(docs/design.md, contract 4).
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import layout, packing
from ernie_m_jax.data.chunks import Chunks
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import purpose as purpose
from ernie_m_jax.data.order import Order
from ernie_m_jax.data.stream import Source, StreamRows
from ernie_m_jax.data.workers import Workers
from ernie_m_jax.task import Bound, Group, Record, Spec

Rows = dict[str, np.ndarray]
MEASURED_ROWS = 128  # packed to learn how many records a row takes

ELEMENT = "element"  # feature that `Loader.trace` adds: which element of the stream a token comes from


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an example of a row comes from: an entry of the mixture, the number of its record there, the record."""

    entry: str
    index: int
    record: Record


Traced = Sequence[Origin]  # of one row


def _sides(record: Record) -> int:
    return len(record.ids or record.texts)


def mixture_seed(name: str, cfg: Config) -> int:
    """The seed of a task's data order."""
    return (cfg.seed * 1_000_003 + purpose(name)) % 2**31


def _marked(chunks: Source, first: int, count: int) -> Columns:
    """Examples whose tokens say which element of the stream they come from."""
    made = chunks(first, count)
    sizes = made.sizes[packing.TOKENS]
    element = np.repeat(first + made.owners, sizes)
    return Columns(made.owners, made.sizes | {ELEMENT: sizes}, made.values | {ELEMENT: element})


class _Streams(grain.DatasetIterator):
    """The rows of the owned streams, stacked; its state maps a stream's number to its state."""

    def __init__(self, streams: Mapping[int, StreamRows], rows: int):
        super().__init__()
        self._streams, self._rows = streams, rows

    def __next__(self) -> Rows:
        drawn = [next(stream) for stream in self._streams.values() for _ in range(self._rows)]
        return {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}

    def get_state(self) -> dict[str, Any]:
        return {str(number): stream.get_state() for number, stream in self._streams.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        missing = [number for number in self._streams if str(number) not in state]
        if missing:
            raise ConfigError(
                f"the checkpoint has no state of virtual stream {missing[0]} but of {sorted(state)}: "
                "config.data.virtual_streams must stay what it was"
            )
        for number, stream in self._streams.items():
            stream.set_state(state[str(number)])


def _chunks(task: Bound, tokenizer: Any, order: Order, number: int) -> Chunks:
    return Chunks(task, tokenizer, order.stream(number, task.cfg.data.virtual_streams), number)


def _rows(task: Bound, source: Source, number: int, spec: Spec) -> StreamRows:
    seed = mixture_seed(task.name, task.cfg) % 2**20 + number
    return StreamRows(source, spec, task.cfg.data.packing_bins, seed)


def _streams(task: Bound, tokenizer: Any, order: Order, rows: int, numbers: Sequence[int]) -> _Streams:
    """The rows of some streams, so many of each at a time."""
    sources = {number: _chunks(task, tokenizer, order, number) for number in numbers}
    return _Streams({number: _rows(task, source, number, task.spec()) for number, source in sources.items()}, rows)


class Loader:
    """This host's rows of each step's batch, for one task.

    Attributes:
      entries: the task's mixture.
    """

    def __init__(self, task: Bound, tokenizer: Any, entries: Mapping[str, Group], owned: Sequence[int] | None = None):
        """Starts making batches.

        Args:
          task: the task; its name and its config's seed decide the order.
          tokenizer: for the task's examples.
          entries: the task's mixture.
          owned: the virtual streams that this host reads (`sharding.owned_parts`), ascending; all if None.

        Raises:
          ConfigError: more workers than streams.
        """
        self._task, self._tokenizer, self._cfg, cfg = task, tokenizer, task.cfg, task.cfg
        streams = cfg.data.virtual_streams
        self.entries = entries
        self._order = Order(entries, mixture_seed(task.name, cfg))
        self._owned = range(streams) if owned is None else owned
        self._rows_per_stream = cfg.train.batch_size // streams
        make = functools.partial(_streams, task, tokenizer, self._order, self._rows_per_stream)
        # A packer makes so many batches at once and then none: they lie ready while it makes the next ones.
        ahead = cfg.data.prefetch + -(-cfg.data.packing_bins // self._rows_per_stream)
        workers = cfg.data.workers
        if workers > len(self._owned):
            raise ConfigError(
                f"config.data.workers is {workers}; it must be at most {len(self._owned)}, the virtual streams of this "
                "process: each worker makes the rows of whole streams (config.data.virtual_streams)"
            )
        rows = Workers(make, self._owned, workers, ahead) if workers else make(self._owned)
        self._batches = grain.experimental.ThreadPrefetchDatasetIterator(rows, cfg.data.prefetch if workers else ahead)

    def rows(self, number: int, source: Source | None = None, spec: Spec | None = None) -> StreamRows:
        """Packed rows of virtual stream `number`; of its own examples and the task's spec where none are given."""
        return _rows(self._task, source or self._chunks(number), number, spec or self._task.spec())

    def _chunks(self, number: int) -> Chunks:
        return _chunks(self._task, self._tokenizer, self._order, number)

    def __next__(self) -> Rows:
        return next(self._batches)

    def start(self) -> None:
        """Begins to make batches ahead, which the first of them does otherwise."""
        self._batches.start_prefetch()

    def shares(self) -> dict[str, float]:
        """How often each entry of the mixture is drawn."""
        return self._order.shares()

    def tokens(self, record: Record) -> int:
        """Tokens of a record's text."""
        return sum(len(layout.token_ids(record, side, self._tokenizer)) for side in range(_sides(record)))

    def records_per_row(self) -> float:
        """How many records a packed row takes, measured on the first rows of stream 0."""
        chunks, owners = self._chunks(0), []

        def counted(first: int, count: int) -> Columns:
            found = chunks(first, count)
            owners.append(first + found.owners)
            return found

        stream = self.rows(0, counted)
        packed = [int(row["segments"].max()) for row in itertools.islice(stream, MEASURED_ROWS)]
        made = int((np.concatenate(owners) <= stream.reached).sum())
        return sum(packed) / len(packed) * (stream.reached + 1) / made

    def trace(self, state: Mapping[str, Any]) -> list[Traced]:
        """The records behind each row of this host's batch that was drawn where `state` was taken."""
        spec = self._task.spec()
        spec |= {ELEMENT: (spec[packing.TOKENS][0], np.int32)}
        rows: list[Traced] = []
        for number in self._owned:
            stream = self.rows(number, functools.partial(_marked, self._chunks(number)), spec)
            stream.set_state(state[str(number)])
            for row in itertools.islice(stream, self._rows_per_stream):
                elements = dict.fromkeys(row[ELEMENT][row["segments"] > 0].tolist())
                rows.append([self._origin(number, element) for element in elements])
        return rows

    def _origin(self, number: int, element: int) -> Origin:
        entry, place = self._order.stream(number, self._cfg.data.virtual_streams).place(element)
        record = self._order.record(entry, place)
        if record.ids:  # who looks for what went wrong reads text
            record = dataclasses.replace(record, texts=tuple(map(self._tokenizer.decode, record.ids)))
        return Origin(self._order.names[entry], self._order.index(entry, place), record)

    def state(self) -> dict[str, Any]:
        """State of each owned stream before the next batch, JSON-able, by the stream's number."""
        return self._batches.get_state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; streams of other hosts in it are ignored."""
        self._batches.set_state(dict(state))

    def close(self) -> None:
        """Stops the thread and the processes that make batches ahead."""
        self._batches.close()
