"""Data order: a mixture in, for each virtual stream the endless sequence of its records out.

Which record a stream reads next is arithmetic on (seed, index): nothing is kept in memory but one table of the mixture,
and resuming at any index costs the same.

Every stream walks one table of slots again and again, each from a place of its own. A slot names an entry (a
language, a pair, a direction); an entry has slots in proportion to its weight, spread evenly but not regularly. So each
stream by itself is the mixture, over any stretch of it. The j-th time that stream v of V meets an entry, it reads place
j * V + v of the entry's endless sequence of shuffled epochs: no place is read by two streams, and together they read
all of them.
"""

import functools
import hashlib
from collections.abc import Mapping

import grain
import numpy as np

from ernie_m_jax.task import Group, Record

SLOTS = 1 << 18  # of the table, about; an entry's share is exact to half a slot, and no entry gets less than one
ENDLESS = 1 << 62  # length of a stream, for what asks
_SHUFFLED_WHOLE = 4096  # below this a permutation is drawn whole: Grain's is slow for few records (4 ms at 10)
_ROUNDS = 4  # of Grain's `index_shuffle`, as in its own `shuffle`


class Order:
    """The table of a mixture's slots, shared by all streams.

    Attributes:
      names: the entries' names, sorted.
    """

    def __init__(self, entries: Mapping[str, Group], seed: int):
        """Makes the table.

        Args:
          entries: the mixture; weights above 0, records not empty.
          seed: of the table's order and of the entries' shuffles.
        """
        self.names = sorted(entries)
        self._records = [entries[name].records for name in self.names]
        self._seeds = [f"{seed}/{name}" for name in self.names]
        self._counts = slot_counts(np.array([entries[name].weight for name in self.names], np.float64))
        # An entry's slots stand one in each of as many equal parts of the table, at a random place of it.
        rng = np.random.default_rng(seed)
        places = np.concatenate([(np.arange(count) + rng.random(count)) / count for count in self._counts])
        owners = np.repeat(np.arange(len(self.names), dtype=np.int32), self._counts)
        order = np.argsort(places, kind="stable")
        self._slots = owners[order]
        # The owners' slots lie in order of place, so a slot's number within its entry is its number less the first's.
        first = np.cumsum(self._counts) - self._counts
        self._ranks = (order - first[self._slots]).astype(np.int32)

    def shares(self) -> dict[str, float]:
        """How often each entry is drawn; its weight, but that no entry has less than a slot."""
        return dict(zip(self.names, (self._counts / self._counts.sum()).tolist(), strict=True))

    def stream(self, number: int, streams: int) -> "Stream":
        """The sequence of virtual stream `number` of `streams`."""
        start = number * len(self._slots) // streams
        before = np.bincount(self._slots[:start], minlength=len(self.names))
        return Stream(self, number, streams, start, before)

    def slot(self, index: int) -> tuple[int, int]:
        """Entry of the table's slot `index` (the table repeats), and its number among the entry's."""
        period, slot = divmod(index, len(self._slots))
        entry = int(self._slots[slot])
        return entry, period * int(self._counts[entry]) + int(self._ranks[slot])

    def index(self, entry: int, place: int) -> int:
        """Which of an entry's records stands at a place of its endless sequence; each epoch is another permutation."""
        size = len(self._records[entry])
        epoch, index = divmod(place, size)
        return _shuffled(index, size, _hash(self._seeds[entry], epoch))

    def record(self, entry: int, place: int) -> Record:
        """The record at a place of an entry's endless sequence."""
        return self._records[entry][self.index(entry, place)]


class Stream:
    """The endless sequence of one virtual stream's records, by index."""

    def __init__(self, order: Order, number: int, streams: int, start: int, before: np.ndarray):
        """See `Order.stream`; `before` is how many slots each entry has before `start`."""
        self._order, self._number, self._streams = order, number, streams
        self._start, self._before = start, before

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Record:
        entry, place = self.place(index)
        return self._order.record(entry, place)

    def place(self, index: int) -> tuple[int, int]:
        """Which entry element `index` belongs to, and its place in the entry's endless sequence."""
        entry, rank = self._order.slot(self._start + index)
        return entry, (rank - int(self._before[entry])) * self._streams + self._number


def slot_counts(weights: np.ndarray) -> np.ndarray:
    """Slots of each entry, int64: in proportion to the weights, about `SLOTS` together, at least one each."""
    return np.maximum(np.rint(weights / weights.sum() * SLOTS), 1).astype(np.int64)


@functools.lru_cache(maxsize=4096)
def _hash(seed: str, epoch: int) -> int:
    """32 bits of a digest: seeds that are near each other must not give shuffles that are alike."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=4).digest(), "little")


def _shuffled(index: int, size: int, seed: int) -> int:
    """Where `index` goes in the permutation of range(size) that belongs to the seed."""
    if size <= _SHUFFLED_WHOLE:
        return int(_permutation(size, seed)[index])
    return grain.experimental.index_shuffle(index, max_index=size - 1, seed=seed, rounds=_ROUNDS)


@functools.lru_cache(maxsize=1024)
def _permutation(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size).astype(np.int32)
