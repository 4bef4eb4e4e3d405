"""Rows of the embedding tables: tokens' indices in, vectors out, on one device or where the tables are split.

Split as in `split`: a device looks up the part that it has, of the rows of the batch that it shares the width with,
and the parts are exchanged; the table stays where it is, forward and backward.
Axes: B batch, L length, V rows of the table, H width; on a device B, V and H are its part's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.model import split as splits
from ernie_m_jax.model.split import Split


def lookup(
    table: jax.Array, index: jax.Array, rows: int, split: Split = splits.ALONE, by_word: bool = False
) -> jax.Array:
    """Rows of a table; NaN for an index outside it, where clamping would hide a wrong id or a too long example.

    Args:
      table: [V, H], its width split; or its copies (`Split.copies`).
      index: int32 [B, L].
      rows: of the table that count: those behind them are padding.
      split: how batch and table lie on devices; the rows of the batch must divide among them.
      by_word: whether the table's rows are split too.

    Returns:
      [B, L, H] of the table's dtype.
    """
    if split is splits.ALONE:
        found = jnp.take(table, index, axis=0, mode="fill", fill_value=np.nan)
    else:
        found = _lookup(split.copies(table, by_word), index, split, by_word)
    return found if split is splits.ALONE and rows == len(table) else _only(found, index, rows)


def _only(found: jax.Array, index: jax.Array, rows: int) -> jax.Array:
    return jnp.where(((index >= 0) & (index < rows))[..., None], found, np.nan)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _lookup(copies: jax.Array, index: jax.Array, split: Split, by_word: bool) -> jax.Array:
    def on_device(copies: jax.Array, index: jax.Array) -> jax.Array:
        table = split.own(copies)
        place, own = _place(table, split.with_neighbours(index), split, by_word)
        parts = jnp.where(own[..., None], jnp.take(table, place, axis=0, mode="clip"), 0)
        found = split.to_rows(parts)
        return split.over_words(found) if by_word else found

    inputs = (split.table(by_word), splits.POSITIONS)
    return split.on_devices(on_device, inputs, splits.POSITIONS)(copies, index)


def _forward(copies: jax.Array, index: jax.Array, split: Split, by_word: bool) -> tuple[jax.Array, tuple[Any, ...]]:
    return _lookup(copies, index, split, by_word), (copies, index)


def _backward(split: Split, by_word: bool, residuals: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, None]:
    def on_device(copies: jax.Array, index: jax.Array, cotangent: jax.Array) -> jax.Array:
        table = split.own(copies)
        place, own = _place(table, split.with_neighbours(index), split, by_word)
        place = jnp.where(own, place, len(table))  # outside: dropped
        d_table = jnp.zeros_like(table).at[place].add(split.to_width(cotangent), mode="drop")
        return split.of_copy(d_table)

    where = split.table(by_word)
    inputs = (where, splits.POSITIONS, splits.POSITIONS)
    return split.on_devices(on_device, inputs, where)(*residuals, cotangent), None


_lookup.defvjp(_forward, _backward)


def _place(table: jax.Array, index: jax.Array, split: Split, by_word: bool) -> tuple[jax.Array, jax.Array]:
    """Where the rows lie in a device's part of the table, and whether they do."""
    place = index - split.first_word(table) if by_word else index
    return place, (place >= 0) & (place < len(table))
