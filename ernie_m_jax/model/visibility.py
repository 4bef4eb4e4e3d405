"""Who may see whom: two small integers per token and a static table in, a boolean attention mask out, on the device.

A token's segment is the example of a packed row it belongs to (0 is padding), its role indexes the objective's table:
`visible = (segment_q == segment_k) & table[role_q, role_k]`. No host builds an [L, L] mask.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_ROLES = 32  # a row of the table is held in the bits of one uint32

# MMLM, TLM, stage 2 of BTMLM and fine-tuning: everything sees everything in its segment (paper, Figures 1a, 1b, 3).
TOKEN = 0
FULL = np.ones((1, 1), dtype=bool)


def visible(
    segments_q: jax.Array, segments_k: jax.Array, roles_q: jax.Array, roles_k: jax.Array, table: np.ndarray | jax.Array
) -> jax.Array:
    """The attention mask of an objective.

    Args:
      segments_q: int32 [B, Lq], example of each query within its row; 0 is padding.
      segments_k: int32 [B, Lk].
      roles_q: int32 [B, Lq], row of `table`; a role outside the table sees and is seen by nothing.
      roles_k: int32 [B, Lk], column of `table`.
      table: bool [R, R], an objective's constant; `table[role_query, role_key]` is whether the query may see the key.

    Returns:
      bool [B, 1, Lq, Lk], broadcast over heads. Padding sees padding, so with a true diagonal no row is empty.

    Raises:
      ValueError: if `table` is not a square boolean array of at most `MAX_ROLES` roles.
    """
    _check(table)
    same_segment = segments_q[:, :, None] == segments_k[:, None, :]
    # A bit test instead of a gather with [B, Lq, Lk] indices: element-wise, so it fuses and partitions.
    bits_q = _bits(roles_q, table)
    roles = table.shape[0]
    shifts_k = jnp.where((roles_k >= 0) & (roles_k < roles), roles_k, MAX_ROLES).astype(jnp.uint32)
    allowed = jax.lax.shift_right_logical(*jnp.broadcast_arrays(bits_q[:, :, None], shifts_k[:, None, :])) & 1
    return (same_segment & (allowed == 1))[:, None, :, :]


class Codes(NamedTuple):
    """Who may see whom in two integers per token, for a kernel that never holds a mask; int32 [B, L] each.

    A query sees a key where their segments are equal and the bit of the key's role is set in the query's `bits`.

    Attributes:
      places: `segment * MAX_ROLES + role`; for a role outside the table a segment below 0, the token's own.
      bits: of the roles that the token sees as a query; None where the table has one role, which sees itself.
    """

    places: jax.Array
    bits: jax.Array | None


def codes(segments: jax.Array, roles: jax.Array, table: np.ndarray | jax.Array) -> Codes:
    """The same as `visible` says of a row's tokens among themselves; arguments and errors as there."""
    _check(table)
    known = (roles >= 0) & (roles < table.shape[0])
    alone = -MAX_ROLES * (1 + jnp.arange(roles.shape[-1]))
    places = jnp.where(known, segments * MAX_ROLES + roles, alone).astype(jnp.int32)
    if isinstance(table, np.ndarray) and table.shape == (1, 1) and table.all():
        return Codes(places, None)
    return Codes(places, jax.lax.bitcast_convert_type(_bits(roles, table), jnp.int32))


def _bits(roles: jax.Array, table: np.ndarray | jax.Array) -> jax.Array:
    """Per query uint32 with a bit for every role that it may see; none for a role outside the table."""
    size = table.shape[0]
    row_bits = (jnp.asarray(table, jnp.uint32) << jnp.arange(size, dtype=jnp.uint32)).sum(axis=1, dtype=jnp.uint32)
    in_table = (roles >= 0) & (roles < size)
    return jnp.where(in_table, row_bits[jnp.clip(roles, 0, size - 1)], jnp.uint32(0))


def _check(table: np.ndarray | jax.Array) -> None:
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.dtype != bool:
        raise ValueError(f"table must be a square boolean array [roles, roles], got {table.dtype} {table.shape}")
    if not 1 <= table.shape[0] <= MAX_ROLES:
        raise ValueError(f"table has {table.shape[0]} roles; allowed are 1 to {MAX_ROLES}")
