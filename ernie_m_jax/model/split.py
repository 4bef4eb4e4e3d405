"""The vocabulary's loss and generation on several devices: each has rows of the batch and a part of the word table.

The table's words lie over the mesh axis `tensor`, its width over `fsdp`, positions over `data` and `fsdp`. A device
computes the logits of its positions and its words; only running results (a few numbers per position) cross the tensor
axis, and a chunk of the table at a time is put together from its parts of the width. Nothing holds the table whole.
Axes: N positions, V vocabulary, H width; on a device V and H are its part's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ernie_m_jax import sharding

_ROWS, _WORDS, _WIDTH = sharding.ROWS, sharding.RULES["vocab"], sharding.RULES["embed"]
(_COPIES,) = (axis for axis in _ROWS if axis != _WIDTH)  # along which devices have the same part of the tables
# Of arrays with positions first (groups of them, or single ones), of the table, of its bias, and of what is whole.
POSITIONS, TABLE, BIAS = PartitionSpec(_ROWS), PartitionSpec(_WORDS, _WIDTH), PartitionSpec(_WORDS)
WHOLE = PartitionSpec()


def products(axis: int) -> PartitionSpec:
    """Of logits with the words in `axis`, positions in the other."""
    return PartitionSpec(_ROWS, _WORDS) if axis else PartitionSpec(_WORDS, _ROWS)


@dataclasses.dataclass(frozen=True)
class Split:
    """What a device does beyond its own part; without a mesh, or on one device, nothing.

    The methods but `parts`, `on_devices`, `check`, `copies` and `table` are called inside what `on_devices` runs.

    Attributes:
      mesh: the devices; None: the compiler places what it likes.
    """

    mesh: Mesh | None = None

    def _has(self, *axes: str | None) -> tuple[str, ...]:
        """Those of the axes along which there are several devices."""
        return tuple(axis for axis in axes if axis and self.mesh is not None and self.mesh.shape[axis] > 1)

    def table(self, by_word: bool = True) -> PartitionSpec:
        """How what `copies` gives lies on the devices: `by_word` splits the rows of the table as well as its width."""
        return PartitionSpec(*self._has(_COPIES), _WORDS if by_word else None, _WIDTH)

    def copies(self, table: jax.Array, by_word: bool = True) -> jax.Array:
        """The table [V, H] once for each device along `data`, [copies, V, H]; without that axis the table itself.

        A device has its part of one copy, as it had of the table, and the copy's gradient is that of the device's own
        positions. They are added up over the devices where the copies were made, once for all uses of the table: were
        each use's added up by itself, XLA for TPUs would do so in every part of an accumulated batch, not once a step.
        """
        if table.ndim == 3 or not self._has(_COPIES):
            return table
        assert self.mesh is not None
        copies = jnp.broadcast_to(table, (self.mesh.shape[_COPIES], *table.shape))
        return jax.lax.with_sharding_constraint(copies, NamedSharding(self.mesh, self.table(by_word)))

    def own(self, copies: jax.Array) -> jax.Array:
        """A device's copy [V, H]."""
        return copies[0] if self._has(_COPIES) else copies

    def of_copy(self, d_table: jax.Array) -> jax.Array:
        """The gradient [V, H] of a device's copy as one of `copies`."""
        return d_table[None] if self._has(_COPIES) else d_table

    @property
    def parts(self) -> int:
        """In how many parts positions are split."""
        return math.prod(self.mesh.shape[axis] for axis in _ROWS) if self.mesh is not None else 1

    def on_devices(self, function: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
        """`function` on each device's parts, which the specifications of its inputs and outputs say."""
        if not self._has(*sharding.AXES):
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)

    def first(self, size: int, *axes: str) -> jax.Array | int:
        """Index of this device's first element of an array's axis, of which each device along mesh axes has `size`."""
        several = self._has(*axes)
        return jax.lax.axis_index(several) * size if several else 0

    def first_word(self, words: jax.Array) -> jax.Array | int:
        """Id of the first word of this device's part of the table or the bias, [V, ...]."""
        return self.first(len(words), *self._has(_WORDS))

    def first_position(self, hidden: jax.Array) -> jax.Array | int:
        """Number of the first of this device's positions [N, H]."""
        return self.first(len(hidden), *_ROWS)

    def full_width(self, rows: jax.Array) -> jax.Array:
        """Rows of the table [size, H] with their whole width."""
        axes = self._has(_WIDTH)
        return jax.lax.all_gather(rows, axes, axis=1, tiled=True) if axes else rows

    def own_width(self, d_rows: jax.Array) -> jax.Array:
        """Gradients of rows of the table, summed over the devices that share its width, each its own part of it."""
        axes = self._has(_WIDTH)
        return jax.lax.psum_scatter(d_rows, axes, scatter_dimension=1, tiled=True) if axes else d_rows

    def with_neighbours(self, rows: jax.Array) -> jax.Array:
        """This device's rows of the batch [B, ...] and those of the devices that share the width with it."""
        axes = self._has(_WIDTH)
        return jax.lax.all_gather(rows, axes, axis=0, tiled=True) if axes else rows

    def to_rows(self, parts: jax.Array) -> jax.Array:
        """From a part of the width of all neighbours' rows, [B, L, H], to this device's rows at full width."""
        axes = self._has(_WIDTH)
        return jax.lax.all_to_all(parts, axes, 0, 2, tiled=True) if axes else parts

    def to_width(self, rows: jax.Array) -> jax.Array:
        """The inverse of `to_rows`."""
        axes = self._has(_WIDTH)
        return jax.lax.all_to_all(rows, axes, 2, 0, tiled=True) if axes else rows

    def over_words(self, value: jax.Array, reduce: Callable[..., jax.Array] = jax.lax.psum) -> jax.Array:
        """A device's result of its words, reduced over all words."""
        axes = self._has(_WORDS)
        return reduce(value, axes) if axes else value

    def over_positions(self, value: jax.Array) -> jax.Array:
        """A device's sum over its positions, over all positions."""
        axes = self._has(*_ROWS)
        return jax.lax.psum(value, axes) if axes else value

    def anywhere(self, value: jax.Array) -> jax.Array:
        """Whether a bool is true on any device: all of them take the same branch, in which they meet."""
        axes = self._has(*_ROWS)
        return jax.lax.pmax(value.astype(jnp.int32), axes) > 0 if axes else value

    def check(self, positions: int) -> None:
        """Raises ValueError where positions (or groups of them) do not divide among the devices."""
        if positions % self.parts:
            raise ValueError(f"{positions} positions to predict do not divide among {self.parts} shards of the rows")


ALONE = Split()


@functools.lru_cache(maxsize=16)
def split_of(mesh: Mesh | None) -> Split:
    """The split over a mesh; that of one device is `ALONE`."""
    return ALONE if mesh is None or mesh.size == 1 else Split(mesh)
