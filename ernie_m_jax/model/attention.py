"""Dot-product attention: projected queries, keys and values and a boolean mask in, mixed values out.

Axes: b batch, l length, q query position, k key position, h heads, d head width.
"""

from typing import Literal, cast

import jax
import jax.numpy as jnp

from ernie_m_jax import config_fields
from ernie_m_jax.config import ComputeConfig
from ernie_m_jax.model.dropout import dropout


def attention(
    query_blhd: jax.Array,
    key_blhd: jax.Array,
    value_blhd: jax.Array,
    visible: jax.Array,
    *,
    backend: str,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with the query scaled by `head_dim ** -0.5`; softmax in fp32.

    Attention dropout needs the probabilities, which the fused kernels never show: with a positive `dropout_rate` they
    are computed as an array, whatever the backend.

    Args:
      query_blhd: [B, Lq, heads, head_dim].
      key_blhd: [B, Lk, heads, head_dim].
      value_blhd: [B, Lk, heads, head_dim].
      visible: bool, broadcasts to [B, heads, Lq, Lk]; every query must see a key.
      backend: "xla", or "cudnn" (NVIDIA GPUs, 16-bit inputs).
      dropout_rate: of the attention probabilities.
      dropout_rng: a PRNG key; may be None where `dropout_rate` is 0.

    Returns:
      [B, Lq, heads, head_dim], dtype of the query.

    Raises:
      ConfigError: `backend` is unknown.
      ValueError: "cudnn" is asked for inputs that are not 16-bit.
    """
    config_fields.check_value(ComputeConfig, "attention", backend, "config.compute.attention")
    if backend == "cudnn" and query_blhd.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"compute.attention='cudnn' needs compute.dtype='bfloat16', got {query_blhd.dtype} inputs")
    query_blhd = query_blhd * jnp.asarray(query_blhd.shape[-1] ** -0.5, query_blhd.dtype)
    if dropout_rate == 0.0:
        kernel = cast(Literal["xla", "cudnn"], backend)
        return jax.nn.dot_product_attention(
            query_blhd, key_blhd, value_blhd, mask=visible, scale=1.0, implementation=kernel
        )
    logits_bhqk = jnp.einsum("bqhd,bkhd->bhqk", query_blhd, key_blhd, preferred_element_type=jnp.float32)
    logits_bhqk = jnp.where(visible, logits_bhqk, jnp.finfo(jnp.float32).min)
    probs_bhqk = jax.nn.softmax(logits_bhqk, axis=-1).astype(value_blhd.dtype)
    probs_bhqk = dropout(probs_bhqk, dropout_rate, dropout_rng)
    return jnp.einsum("bhqk,bkhd->bqhd", probs_bhqk, value_blhd)
