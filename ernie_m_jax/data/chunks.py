"""A stream's records in, the columns of their examples out, some hundreds of records at a time.

A task's `batched` makes the examples of many records at once; what it leaves, and all of a task without it,
`task.examples` makes record by record. Each record has a generator of its own, from (seed, purpose, index), so both
give the same, and how many records are taken at a time changes nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_m_jax.data import columns, packing
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import MOST_CANDIDATES, Draws, purpose
from ernie_m_jax.data.order import Stream
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Bound, Example, Record

EMPTY_LIMIT = 10_000  # records in a row without an example before a stream gives up


class Chunks:
    """The examples of a stream's elements; see `stream.Source`."""

    def __init__(self, task: Bound, tokenizer: Any, records: Stream, number: int):
        """Reads nothing yet.

        Args:
          task: whose examples.
          tokenizer: for texts.
          records: the stream's, by element.
          number: the stream's.
        """
        self._task, self._tokenizer, self._records, self._number = task, tokenizer, records, number
        self._rooms, self._empty = packing.features(task.spec()), 0

    def __call__(self, first: int, count: int) -> Columns:
        """The examples of elements `first` to `first + count - 1`.

        Raises:
          DataError: an example that no row holds; too many records in a row without any.
        """
        task, cfg = self._task, self._task.cfg
        indices = np.arange(first, first + count) * cfg.data.virtual_streams + self._number
        records = [self._records[element] for element in range(first, first + count)]
        draws = Draws(cfg.seed, purpose(task.name), indices)
        made, left = None, np.arange(count)
        if task.task.batched is not None and cfg.data.sequence_length <= MOST_CANDIDATES:
            made, left = task.task.batched(records, self._tokenizer, cfg, task.keys, draws)
        if len(left) or made is None:
            singly: list[Sequence[Example]] = [()] * count
            for row in left.tolist():
                singly[row] = task.examples(records[row], self._tokenizer, draws.generator(row))
                packing.check(singly[row], self._rooms, task.name, records[row])
            others = columns.of_examples(singly, list(self._rooms))
            made = others if made is None else columns.merged(made, others)
        self._check(made, records)
        return made

    def _check(self, made: Columns, records: Sequence[Record]) -> None:
        """Raises `DataError` where an example fits into no row, or too many records have none."""
        for name, room in self._rooms.items():
            if len(sizes := made.sizes[name]) and sizes.max() > room:
                place = int(sizes.argmax())
                example = {other: np.empty(size[place]) for other, size in made.sizes.items()}
                packing.check([example], self._rooms, self._task.name, records[made.owners[place]])
        ends = np.concatenate([[-1 - self._empty], made.owners, [len(records)]])
        gaps = np.diff(ends) - 1
        self._empty = int(gaps[-1])
        if gaps.max() >= EMPTY_LIMIT:
            raise DataError(
                f"{self._task.name}: {EMPTY_LIMIT} records in a row gave no example; is the text blank, or "
                f"config.data.sequence_length {self._task.cfg.data.sequence_length} too short for it? The last: "
                f"{records[-1]}"
            )
