"""Dot-product attention: projected queries, keys and values and a boolean mask in, mixed values out.

Axes: b batch, l length, q query position, k key position, h heads, d head width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ernie_m_jax import config_fields, sharding
from ernie_m_jax.config import ComputeConfig
from ernie_m_jax.model import visibility
from ernie_m_jax.model.dropout import drop_probabilities, random_bits
from ernie_m_jax.model.flash_attention import flash_attention
from ernie_m_jax.model.kernels import platform
from ernie_m_jax.model.softmax import softmax
from ernie_m_jax.model.tpu_attention import KEPT as KEPT
from ernie_m_jax.model.tpu_attention import tpu_attention
from ernie_m_jax.model.visibility import Codes


def seen(segments: jax.Array, roles: jax.Array, table: np.ndarray, backend: str) -> jax.Array | Codes:
    """Who sees whom among the tokens of each row, int32 [B, L] and an objective's table, as the backend takes it."""
    if backend == "flash":
        return visibility.codes(segments, roles, table)
    return visibility.visible(segments, segments, roles, roles, table)


def fused_attention(
    projected: Sequence[jax.Array],
    seen: Codes,
    *,
    mesh: Mesh | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
) -> jax.Array:
    """`attention` with the "flash" backend, a kernel of our own; it has the attention dropout in it.

    Args:
      projected: for TPUs query, key and value, [B, L, heads, head_dim] each; elsewhere one array of all three,
        [B, L, 3, heads, head_dim].
      seen: who sees whom.
      mesh: the devices, among which rows (data, fsdp) and heads (tensor) are divided; None: one device.
      dropout_rate: of the attention probabilities.
      dropout_rng: a PRNG key; may be None where `dropout_rate` is 0.

    Returns:
      [B, L, heads, head_dim], dtype of the projections.

    Raises:
      ValueError: the kernel does not take the heads or the length.
    """
    batch, heads = projected[0].shape[0], projected[0].shape[-2]
    seeds = jnp.zeros((batch, heads), jnp.uint32) if dropout_rng is None else _seeds(dropout_rng, batch, heads)
    kernel: Any = tpu_attention if len(projected) == 3 else flash_attention

    def on_device(seen: Codes, seeds: jax.Array, *projected: jax.Array) -> jax.Array:
        return kernel(*projected, seen, seeds, dropout_rate, interpret=platform(mesh) == "other")

    # A kernel asks which TPU it is compiled for, which one that is not here says by its mesh.
    if mesh is None or (mesh.size == 1 and platform(mesh) != "tpu"):
        return on_device(seen, seeds, *projected)
    rows, heads_axis = sharding.ROWS, sharding.RULES["heads"]
    tokens = PartitionSpec(rows)
    parts = [PartitionSpec(rows, *(None,) * (array.ndim - 3), heads_axis) for array in projected]
    inputs = (jax.tree.map(lambda _: tokens, seen), PartitionSpec(rows, heads_axis), *parts)
    out = PartitionSpec(rows, None, heads_axis)
    divided = jax.shard_map(on_device, mesh=mesh, in_specs=inputs, out_specs=out, check_vma=False)
    return divided(seen, seeds, *projected)


def _seeds(rng: jax.Array, batch: int, heads: int) -> jax.Array:
    """Of the dropout: the same for every backend and mesh, so which one computes is no part of a run's numbers."""
    return random_bits((batch, heads), rng)


def attention(
    query_blhd: jax.Array,
    key_blhd: jax.Array,
    value_blhd: jax.Array,
    seen: jax.Array,
    *,
    backend: str,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with the query scaled by `head_dim ** -0.5`; softmax in fp32.

    Attention dropout needs the probabilities, which cuDNN's kernel never shows: with a positive `dropout_rate` they are
    computed as an array, whatever the backend.

    Args:
      query_blhd: [B, Lq, heads, head_dim].
      key_blhd: [B, Lk, heads, head_dim].
      value_blhd: [B, Lk, heads, head_dim].
      seen: bool, broadcasts to [B, heads, Lq, Lk]; every query must see a key.
      backend: "xla", or "cudnn" (NVIDIA GPUs, 16-bit inputs); "flash" is `fused_attention`.
      dropout_rate: of the attention probabilities.
      dropout_rng: a PRNG key; may be None where `dropout_rate` is 0.

    Returns:
      [B, Lq, heads, head_dim], dtype of the query.

    Raises:
      ConfigError: `backend` is unknown.
      ValueError: "cudnn" is asked for inputs that are not 16-bit.
    """
    config_fields.check_value(ComputeConfig, "attention", backend, "config.compute.attention")
    if backend == "flash":
        raise ValueError("attention 'flash' is fused_attention's")
    if backend == "cudnn" and query_blhd.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"compute.attention='cudnn' needs compute.dtype='bfloat16', got {query_blhd.dtype} inputs")
    query_blhd = query_blhd * jnp.asarray(query_blhd.shape[-1] ** -0.5, query_blhd.dtype)
    if dropout_rate == 0.0 and backend == "cudnn":
        return jax.nn.dot_product_attention(
            query_blhd, key_blhd, value_blhd, mask=seen, scale=1.0, implementation="cudnn"
        )
    # Heads before positions: on a CPU the products of contiguous matrices take two thirds of the time.
    query_bhqd, key_bhkd, value_bhkd = (array.swapaxes(1, 2) for array in (query_blhd, key_blhd, value_blhd))
    logits_bhqk = jnp.einsum("bhqd,bhkd->bhqk", query_bhqd, key_bhkd, preferred_element_type=jnp.float32)
    logits_bhqk = jnp.where(seen, logits_bhqk, jnp.finfo(jnp.float32).min)
    probs_bhqk = softmax(logits_bhqk).astype(value_blhd.dtype)
    if dropout_rate > 0.0:
        if dropout_rng is None:
            raise ValueError(f"attention dropout {dropout_rate} needs a key, got dropout_rng=None")
        seeds = _seeds(dropout_rng, query_blhd.shape[0], query_blhd.shape[2])
        probs_bhqk = drop_probabilities(dropout_rate, probs_bhqk, seeds)
    return jnp.einsum("bhqk,bhkd->bhqd", probs_bhqk, value_bhkd).swapaxes(1, 2)
