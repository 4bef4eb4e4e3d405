"""A virtual stream: its records by index in, packed rows out, with the few integers from which it goes on.

Records are read and made into examples many at a time, which changes nothing but the speed: what a record becomes
depends on its index alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from ernie_m_jax.data import packing
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.task import Spec

# Examples made at a time: for each row that is filled at a time, but no more than make it faster. Until it is known how
# many a record becomes, the records are these.
EXAMPLES_PER_BIN, MOST_EXAMPLES = 4, 256
FIRST_RECORDS = 32
Source = Callable[[int, int], Columns]  # (first element of the stream, number of them) -> their examples


class StreamRows(grain.DatasetIterator):
    """Endless rows of one stream.

    Its state says where the examples of the rows that leave now begin, as `{element, example of it}`, and how many of
    these rows have left; nested as Grain's iterators write it, which checkpoints have had from the beginning.
    """

    def __init__(self, source: Source, spec: Spec, bins: int, seed: int):
        """Makes nothing yet.

        Args:
          source: the examples of the stream's elements.
          spec: of a row.
          bins: rows filled at a time.
          seed: of the order in which filled rows leave.
        """
        super().__init__()
        self._source, self._spec, self._bins, self._seed = source, spec, bins, seed
        self._rows: dict[str, np.ndarray] | None = None  # packed, of which some may have left
        self._order = np.zeros(0, np.int64)  # in which they leave
        self._left = self._counter = 0  # how many have, of these and of all
        self._owners = np.zeros(0, np.int64)
        self._go_to(0, 0)

    def __next__(self) -> dict[str, np.ndarray]:
        if self._rows is None:
            self._fill()
        assert self._rows is not None
        row = {name: values[self._order[self._left]] for name, values in self._rows.items()}
        self._left += 1
        self._counter += 1
        if self._left == len(self._order):
            self._rows, self._left, self._begin = None, 0, self._position()
        return row

    @property
    def reached(self) -> int:
        """The element whose example found no row among those that leave now; all before it are packed."""
        return self._position()[0]

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands; see the class."""
        element, example = self._begin
        return {
            "parent": {"parent": {"next_index": element}, "next_index_in_buffer": example},
            "next_row": self._left,
            "counter": self._counter,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        examples = state["parent"]
        self._go_to(examples["parent"]["next_index"], examples["next_index_in_buffer"])
        self._left, self._counter = state["next_row"], state["counter"]

    def _go_to(self, element: int, example: int) -> None:
        """As if nothing before that example of that element had ever been."""
        self._begin = (element, example)
        self._rows, self._left, self._counter = None, 0, 0
        # The chunk that is being packed: its first element, how many it has, their examples, the next of these.
        self._first, self._count, self._skip = element, 0, example
        self._owners, self._next = self._owners[:0], 0

    def _position(self) -> tuple[int, int]:
        """Which example of which element comes next."""
        if self._next == len(self._owners):
            return self._first + self._count, self._skip
        owner = self._owners[self._next]
        return self._first + int(owner), self._next - int(np.searchsorted(self._owners, owner))

    def _fill(self) -> None:
        """Packs examples until one finds no row, and draws the order in which the rows leave."""
        bins = packing.Bins(self._spec, self._bins)
        while True:
            if self._next == len(self._owners):
                self._read()
            self._next = bins.add(self._made, self._next)
            if self._next < len(self._owners):
                break
        self._rows = bins.rows
        rng = np.random.default_rng(self._seed + self._counter - self._left)
        self._order = rng.permuted(range(bins.used))

    def _read(self) -> None:
        """Makes the next chunk of records into examples."""
        wanted = min(EXAMPLES_PER_BIN * self._bins, MOST_EXAMPLES)
        records = FIRST_RECORDS if not self._count else wanted * self._count // max(len(self._owners), 1)
        self._first += self._count
        self._count = max(1, min(records, wanted))
        self._made = self._source(self._first, self._count)
        self._owners = self._made.owners
        # Where a stream goes on, some examples of its first record may have left already.
        self._next = min(self._skip, int(np.searchsorted(self._owners, 1)))
        self._skip = 0
