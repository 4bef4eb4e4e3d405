"""Many examples as columns: each feature's values one behind the other, so that NumPy works on all of them at once.

What `task.examples` makes of a record at a time, or a task's `batched` of many, goes to packing in this form.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie_m_jax.task import HOST, Example


class Columns(NamedTuple):
    """Examples of consecutive records.

    Attributes:
      owners: of which record each is, counted from 0, int64 `[N]` ascending.
      sizes: length of each example's feature, int64 `[N]` by name.
      values: int32 by name, the features of all examples one behind the other.
    """

    owners: np.ndarray
    sizes: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, ...`, `sizes[0]` of them, then those of the next one: int64."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


def starts(sizes: np.ndarray) -> np.ndarray:
    """Where each begins that lies behind the ones before it."""
    return np.cumsum(sizes) - sizes


def take(columns: Columns, chosen: np.ndarray) -> Columns:
    """Some of the examples, by number or by mask, in the order given."""
    sizes = {name: size[chosen] for name, size in columns.sizes.items()}
    values = {
        name: value[ranges(starts(columns.sizes[name])[chosen], sizes[name])] for name, value in columns.values.items()
    }
    return Columns(columns.owners[chosen], sizes, values)


def of_examples(made: Sequence[Sequence[Example]], names: Sequence[str]) -> Columns:
    """The examples of each record as columns.

    Args:
      made: by record.
      names: of the features, where there may be no example to tell them. What stays on the host is left out.
    """
    owners = np.repeat(np.arange(len(made)), [len(examples) for examples in made])
    flat = [example for examples in made for example in examples]
    names = [name for name in (flat[0] if flat else names) if not name.endswith(HOST)]
    sizes = {name: np.array([len(example[name]) for example in flat], np.int64) for name in names}
    values = {
        name: np.concatenate([example[name] for example in flat]) if flat else np.zeros(0, np.int32) for name in names
    }
    return Columns(owners, sizes, values)


def merged(one: Columns, other: Columns) -> Columns:
    """The examples of both, of which no record has some in each, in the order of the records."""
    if not len(other.owners) or not len(one.owners):
        return one if len(one.owners) else other
    joined = Columns(
        np.concatenate([one.owners, other.owners]),
        {name: np.concatenate([size, other.sizes[name]]) for name, size in one.sizes.items()},
        {name: np.concatenate([value, other.values[name]]) for name, value in one.values.items()},
    )
    return take(joined, np.argsort(joined.owners, kind="stable"))
