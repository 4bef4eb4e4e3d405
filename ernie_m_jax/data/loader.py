"""Loader: a task and a config in, the batches of every step out, wherever and on however many hosts they are read.

The rows of a batch come from `virtual_streams` streams. Stream v takes the mixture's elements v, v + V, v + 2V, ...,
packs them and delivers `batch_rows / V` rows a step. Hosts own whole streams, so a batch does not depend on their
number, and a stream's state is a few integers, so resuming costs nothing (docs/design.md, contract 4).
"""

import zlib
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import mixture, packing
from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import Example, Group, Record, Task

Rows = dict[str, np.ndarray]
EMPTY_LIMIT = 10_000  # records in a row without an example before a stream gives up


def purpose(name: str) -> int:
    """A number for a purpose of randomness, the same in every process."""
    return zlib.crc32(name.encode())


def stream_rows(
    name: str, task: Task, entries: Mapping[str, Group], tokenizer: Any, cfg: Config, stream: int
) -> grain.IterDataset:
    """Packed rows of one virtual stream."""
    empty = 0

    def example(index: int, record: Record) -> Example | None:
        nonlocal empty
        made = task.example(record, tokenizer, cfg, np.random.default_rng((cfg.seed, purpose(name), index)))
        empty = 0 if made else empty + 1
        if empty == EMPTY_LIMIT:
            raise DataError(
                f"{name}: {empty} records in a row gave no example; is the text blank, or "
                f"config.data.sequence_length {cfg.data.sequence_length} too short for it? The last: {record}"
            )
        return made

    seed = (cfg.seed * 1_000_003 + purpose(name)) % 2**31
    elements = mixture.mix(entries, seed).map_with_index(example)
    examples = elements[stream :: cfg.data.virtual_streams].to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    )
    return packing.pack(examples, task.spec(cfg), cfg.data.packing_bins, seed=seed % 2**20 + stream)


class _Streams(grain.DatasetIterator):
    """The rows of the owned streams, stacked; its state maps a stream's number to its state."""

    def __init__(self, streams: Mapping[int, grain.DatasetIterator], rows: int):
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


class Loader:
    """This host's rows of each step's batch, for one task.

    Attributes:
      entries: the task's mixture.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        tokenizer: Any,
        cfg: Config,
        host: int = 0,
        hosts: int = 1,
        entries: Mapping[str, Group] | None = None,
    ):
        """Opens the task's records.

        Args:
          name: the task's name; part of the seed.
          task: the task.
          tokenizer: for the task's examples.
          cfg: the config.
          host: this host's number.
          hosts: how many hosts read; must divide `config.data.virtual_streams`.
          entries: the mixture, if the caller has opened it already.

        Raises:
          ConfigError: `hosts` does not divide the number of virtual streams.
        """
        self._task, self._tokenizer, self._cfg = task, tokenizer, cfg
        streams = cfg.data.virtual_streams
        if streams % hosts:
            raise ConfigError(f"config.data.virtual_streams {streams} is not a multiple of the {hosts} hosts")
        self.entries = task.records(cfg) if entries is None else entries
        owned = range(host * streams // hosts, (host + 1) * streams // hosts)
        iterators = {number: iter(stream_rows(name, task, self.entries, tokenizer, cfg, number)) for number in owned}
        self._batches = grain.experimental.ThreadPrefetchDatasetIterator(
            _Streams(iterators, cfg.train.batch_rows // streams), cfg.data.prefetch
        )

    def __next__(self) -> Rows:
        return next(self._batches)

    def size(self, record: Record) -> tuple[int, float]:
        """Tokens of a record's text, and the share of a row that its example takes."""
        tokens = sum(len(self._tokenizer.encode_ids(text)) for text in record.texts)
        example = self._task.example(record, self._tokenizer, self._cfg, np.random.default_rng(0))
        return tokens, len(example[packing.TOKENS]) / self._cfg.data.sequence_length if example else 0.0

    def state(self) -> dict[str, Any]:
        """State of each owned stream before the next batch, JSON-able, by the stream's number."""
        return self._batches.get_state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; streams of other hosts in it are ignored."""
        self._batches.set_state(dict(state))

    def close(self) -> None:
        """Stops the thread that makes batches ahead."""
        self._batches.close()
