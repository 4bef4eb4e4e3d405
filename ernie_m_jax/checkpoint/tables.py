"""Tables with a row per word: on devices with more rows, for the tensor axis to split them, on disk without.

What is saved so depends on no mesh, and a run may go on with another one. The rows behind the words are zeros, in the
parameters as in the optimizer's moments, and stay so.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

TABLES = ("embeddings/word", "mlm_head/bias")  # ends of the names of parameters and moments with the axis "vocab"


def is_table(name: str) -> bool:
    """Whether an array, by its path, has a row per word."""
    return name.endswith(TABLES)


def saved(name: str, leaf: Any, words: int) -> jax.ShapeDtypeStruct:
    """An array as it is on disk, concrete or abstract, with the sharding to read or write it with.

    Args:
      name: its path.
      leaf: as it is on the devices.
      words: entries of the vocabulary; 0: as many as the leaf has rows.
    """
    where = getattr(leaf, "sharding", None)
    if not words or not is_table(name) or leaf.shape[0] <= words:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    shape = (words, *leaf.shape[1:])
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_without_rows(where, shape))


def without_padding(name: str, array: jax.Array, words: int) -> jax.Array:
    """An array without its rows behind the words; `words` as in `saved`."""
    like = saved(name, array, words)
    if like.shape == array.shape:
        return array
    return jax.jit(lambda table: table[: like.shape[0]], out_shardings=like.sharding)(array)


def with_padding(array: jax.Array | np.ndarray, like: Any) -> Any:
    """An array with rows of zeros behind its own, as many as `like` has more; placed as `like` is.

    Args:
      array: on the devices, or in NumPy.
      like: a `jax.ShapeDtypeStruct` with a sharding.
    """
    more = like.shape[0] - len(array) if like.shape else 0
    if not more:
        return jax.device_put(array, like.sharding)
    ends = ((0, more), *((0, 0) for _ in like.shape[1:]))
    if isinstance(array, np.ndarray):
        return jax.device_put(np.pad(array, ends), like.sharding)
    return jax.jit(lambda table: jnp.pad(table, ends), out_shardings=like.sharding)(array)


def _without_rows(where: Any, shape: tuple[int, ...]) -> Any:
    """A sharding for a table whose rows the mesh axis does not divide: it splits the width then, if that divides."""
    if not isinstance(where, NamedSharding):
        return where
    rows, width = (*where.spec, None, None)[:2]
    axes = tuple(axis for axis in (width, rows) if axis is not None)
    whole = len(shape) < 2 or shape[1] % math.prod(where.mesh.shape[axis] for axis in axes)
    return NamedSharding(
        where.mesh, PartitionSpec() if len(shape) < 2 else PartitionSpec(None, width if whole else axes)
    )
