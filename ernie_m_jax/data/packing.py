"""Packing: examples in, full rows of fixed shape out.

First fit, as Grain's packer does it (`tests/test_batched.py` compares them), on columns of examples: an example goes
into the first of `bins` rows that has room for all its features; once one finds none, the rows leave in random order
and the next ones are begun with it. A row has the task's spec: segment numbers, the examples' features one behind the
other, and indices (`*_at`) moved from the example's tokens to the row's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ernie_m_jax.data import columns
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import IGNORE, Example, Record, Spec

TOKENS = "ids"  # the feature whose length is an example's length


def features(spec: Spec) -> dict[str, int]:
    """Lengths of what an example delivers: everything in the spec but the segments, which packing adds."""
    return {name: shape[0] for name, (shape, _) in spec.items() if name != "segments"}


def check(examples: Sequence[Example], rooms: Mapping[str, int], name: str, record: Record) -> None:
    """Checks that a record's examples fit into a row; `name` is the task's, `rooms` its `features`.

    Raises:
      DataError: one does not; the message shows the record.
    """
    for example in examples:
        for feature, room in rooms.items():
            if len(example[feature]) > room:
                raise DataError(
                    f"config.objectives.{name}: an example has {len(example[feature])} {feature!r}, but a row has room "
                    f"for {room}; its record: {record!s:.500}"
                )


def filler(name: str, length: int) -> int:
    """What stands in a row of `length` tokens where no example is."""
    if name.endswith("_at"):
        return length
    return IGNORE if name.endswith("_labels") else 0


class Bins:
    """Rows that are being filled."""

    def __init__(self, spec: Spec, count: int):
        """`count` empty rows of the spec's shape."""
        rooms = features(spec)
        self._count, self._length = count, rooms[TOKENS]
        self.rows = {name: np.full((count, room), filler(name, self._length), np.int32) for name, room in rooms.items()}
        self.rows["segments"] = np.zeros((count, self._length), np.int32)
        self._rooms = rooms
        self._free = {name: [room] * count for name, room in rooms.items()}
        self._segments = [0] * count

    @property
    def used(self) -> int:
        """How many rows hold an example: always the first ones."""
        return sum(1 for number in self._segments if number)

    def add(self, examples: Columns, first: int) -> int:
        """Puts examples from number `first` on into the rows; returns the first that finds none, or how many there are.

        Raises:
          ValueError: an example does not fit into an empty row.
        """
        kinds = self._kinds(examples.sizes)
        sizes = [examples.sizes[names[0]].tolist() for names in kinds]
        free = [self._free[names[0]] for names in kinds]
        placed: list[list[int]] = [[] for _ in kinds]
        bins: list[int] = []
        segments: list[int] = []
        end = len(examples.owners)
        # Rows with less room than any of these examples takes are not looked at.
        smallest = [min(values[first:], default=0) for values in sizes]
        fits = zip(*[[left >= least for left in room] for room, least in zip(free, smallest, strict=True)], strict=True)
        alive = [place for place, all_fit in enumerate(fits) if all(all_fit)]
        for number in range(first, end):
            size = [values[number] for values in sizes]
            place = _first(alive, free, size)
            if place < 0:
                if not any(self._segments):
                    raise ValueError(f"an example of {dict(zip(self._free, size, strict=False))} fits into no row")
                end = number
                break
            bins.append(place)
            self._segments[place] += 1
            segments.append(self._segments[place])
            for values, left, need, least in zip(placed, free, size, smallest, strict=True):
                values.append(left[place])
                left[place] -= need
                if left[place] < least and place in alive:
                    alive.remove(place)
        for names, left in zip(kinds, free, strict=True):
            for name in names:
                self._free[name] = left if name == names[0] else list(left)
        if bins:
            self._write(examples, slice(first, end), np.array(bins), np.array(segments), kinds, placed)
        return end

    def _write(
        self,
        examples: Columns,
        which: slice,
        bins: np.ndarray,
        segments: np.ndarray,
        kinds: Sequence[Sequence[str]],
        placed: Sequence[Sequence[int]],
    ) -> None:
        """Copies the features of the examples `which` to their places."""
        tokens = next(number for number, names in enumerate(kinds) if TOKENS in names)
        begin = self._length - np.array(placed[tokens])  # of each example in its row
        for names, left in zip(kinds, placed, strict=True):
            room = self._rooms[names[0]]
            size = examples.sizes[names[0]][which]
            at = columns.ranges(bins * room + room - np.array(left), size)
            offset = int(examples.sizes[names[0]][: which.start].sum())
            for name in names:
                values = examples.values[name][offset : offset + len(at)]
                self.rows[name].reshape(-1)[at] = values + np.repeat(begin, size) if name.endswith("_at") else values
            if TOKENS in names:
                self.rows["segments"].reshape(-1)[at] = np.repeat(segments, size)

    def _kinds(self, sizes: Mapping[str, np.ndarray]) -> list[list[str]]:
        """Features grouped so that those of a group take as much of as much room."""
        groups: list[list[str]] = []
        for name, free in self._free.items():
            for first, *_ in groups:
                same = sizes[first] is sizes[name] or np.array_equal(sizes[first], sizes[name])
                if same and self._free[first] == free and self._rooms[first] == self._rooms[name]:
                    next(group for group in groups if group[0] == first).append(name)
                    break
            else:
                groups.append([name])
        return groups


def _first(places: Sequence[int], free: Sequence[Sequence[int]], size: Sequence[int]) -> int:
    """The first of the places with room for sizes of each kind; -1: none. Written out, since it is called most."""
    if len(free) == 2:
        (one, other), (need, more) = free, size
        for place in places:
            if one[place] >= need and other[place] >= more:
                return place
    elif len(free) == 3:
        (one, other, third), (need, more, most) = free, size
        for place in places:
            if one[place] >= need and other[place] >= more and third[place] >= most:
                return place
    else:
        for place in places:
            if all(left[place] >= need for left, need in zip(free, size, strict=True)):
                return place
    return -1
