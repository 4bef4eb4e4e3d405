"""The vocabulary a chunk at a time: what the loss and the generation share.

A batch's logits over 250002 words do not fit in memory, so both walk over the vocabulary in chunks and keep running
results. Axes: N positions, V vocabulary, H width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

NEVER = -1e30  # added to the bias of words that must not be written; finite, since a chunk may hold nothing else


def over_chunks(body: Callable[[jax.Array | int, int, Any], Any], vocab: int, chunk: int, carry: Any) -> Any:
    """Applies `body(start, size, carry)` over [0, vocab): whole chunks in a loop, then the remainder at its own size.

    The remainder is a second copy of the body in the program; the alternatives pad the table (a copy of it) or overlap
    chunks (masks in every reduction).
    """
    if chunk <= 0 or chunk >= vocab:
        return body(0, vocab, carry)
    whole, rest = divmod(vocab, chunk)
    carry = jax.lax.fori_loop(0, whole, lambda i, carried: body(i * chunk, chunk, carried), carry)
    return body(whole * chunk, rest, carry) if rest else carry


def products(
    hidden: jax.Array, embedding: jax.Array, start: jax.Array | int, size: int, dtype: Any = jnp.float32
) -> jax.Array:
    """Logits without bias [N, size] of the words from `start`; multiplied in hidden's dtype and summed in fp32."""
    rows = jax.lax.dynamic_slice_in_dim(embedding, start, size).astype(hidden.dtype)
    return jax.lax.dot_general(hidden, rows, (((1,), (1,)), ((), ())), preferred_element_type=dtype)


def biased(products: jax.Array, bias: jax.Array, start: jax.Array | int) -> jax.Array:
    """Logits f32 [N, size]."""
    size = products.shape[1]
    return products.astype(jnp.float32) + jax.lax.dynamic_slice_in_dim(bias, start, size).astype(jnp.float32)


def logits(hidden: jax.Array, embedding: jax.Array, bias: jax.Array, start: jax.Array | int, size: int) -> jax.Array:
    """Logits f32 [N, size] of the words from `start`."""
    return biased(products(hidden, embedding, start, size), bias, start)


def check_shapes(hidden: jax.Array, embedding: jax.Array, bias: jax.Array) -> None:
    """Raises ValueError where hidden states [..., H], table [V, H] and bias [V] do not fit together."""
    if hidden.ndim < 2 or embedding.ndim != 2 or hidden.shape[-1] != embedding.shape[1]:
        raise ValueError(f"hidden must be [..., H] and embedding [V, H], got {hidden.shape} and {embedding.shape}")
    if bias.shape != embedding.shape[:1]:
        raise ValueError(f"bias must be [V] = {embedding.shape[:1]}, got {bias.shape}")


def without(bias: jax.Array, words: Sequence[int]) -> jax.Array:
    """The decoder's bias [V] with which `words` have probability 0 and are never written."""
    return bias.at[jnp.asarray(words, jnp.int32)].set(NEVER) if len(words) else bias
