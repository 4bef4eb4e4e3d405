"""Finite data: a list of records in, packed rows out that hold each of their examples exactly once.

    records --task.examples--> examples --rows--> Row, Row, ... --stack--> the arrays of a batch

Rows have the shape of the task's spec, so an evaluation compiles one program whatever the lengths, and wastes few
tokens. Which examples share a row depends on the data alone, never on batch size, devices or hosts; every host makes
all rows.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ernie_m_jax.data import packing
from ernie_m_jax.data.loader import purpose
from ernie_m_jax.task import HOST, Bound, Example, RandomAccess, Spec

CHUNK = 4096  # examples that are packed together; bounds the memory


class Origin(NamedTuple):
    """Where an example comes from: index of its group, of its record there, and among the record's examples."""

    group: int
    record: int
    example: int


class Placed(NamedTuple):
    """An example in a row; `starts` says at which index each of its features begins there."""

    origin: Origin
    example: Example
    starts: dict[str, int]


Row = list[Placed]


def examples(task: Bound, tokenizer: Any, groups: Sequence[RandomAccess]) -> Iterator[tuple[Origin, Example]]:
    """Every example of every record, in order; each record has a generator of its own, the same in every evaluation.

    Raises:
      DataError: an example is longer than a row.
    """
    rooms = packing.features(task.spec())
    for group, records in enumerate(groups):
        for index in range(len(records)):
            record, rng = records[index], np.random.default_rng((task.cfg.seed, purpose("evaluate"), index))
            made = task.examples(record, tokenizer, rng)
            packing.check(made, rooms, task.name, record)
            for number, example in enumerate(made):
                yield Origin(group, index, number), example


def rows(made: Iterable[tuple[Origin, Example]], spec: Spec) -> Iterator[Row]:
    """Packs examples, each of which fits, into rows of the spec's shape, the longest of a chunk first."""
    rooms = packing.features(spec)
    iterator = iter(made)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield from _packed(sorted(chunk, key=lambda item: -len(item[1][packing.TOKENS])), rooms)


def _packed(chunk: Sequence[tuple[Origin, Example]], rooms: dict[str, int]) -> list[Row]:
    """First fit: each example goes into the first row that has room for all its features."""
    filled: list[Row] = []
    used = np.zeros((len(chunk), len(rooms)), np.int64)  # of each row that may be begun, by feature
    limits = np.array(list(rooms.values()))
    for origin, example in chunk:
        sizes = np.array([len(example[name]) for name in rooms])
        row = int(np.argmax((used[: len(filled) + 1] + sizes <= limits).all(axis=1)))
        if row == len(filled):
            filled.append([])
        filled[row].append(Placed(origin, example, dict(zip(rooms, used[row].tolist(), strict=True))))
        used[row] += sizes
    return filled


def stack(chosen: Sequence[Row], spec: Spec, batch_size: int) -> dict[str, np.ndarray]:
    """The rows as arrays `[batch_size, ...]`, filled up with empty rows; the layout is that of `packing.Bins`."""
    length = spec[packing.TOKENS][0][0]
    fillers = {name: packing.filler(name, length) for name in spec}
    batch = {name: np.full((batch_size, *shape), fillers[name], dtype) for name, (shape, dtype) in spec.items()}
    for number, row in enumerate(chosen):
        for segment, placed in enumerate(row, 1):
            start = placed.starts[packing.TOKENS]
            batch["segments"][number, start : start + len(placed.example[packing.TOKENS])] = segment
            for name, begin in placed.starts.items():
                values = placed.example[name]
                shift = start if name.endswith("_at") else 0
                batch[name][number, begin : begin + len(values)] = values + shift
    return batch


def cut(placed: Placed, feature: str, values: np.ndarray) -> np.ndarray:
    """An example's part of one row's `values`, which lie like that feature: `[room, ...]` in, `[n, ...]` out."""
    begin = placed.starts[feature]
    return values[begin : begin + len(placed.example[feature])]


def kept(placed: Placed) -> dict[str, np.ndarray]:
    """An example's features that stayed on the host."""
    return {name: value for name, value in placed.example.items() if name.endswith(HOST)}
