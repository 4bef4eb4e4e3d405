"""The vocabulary a chunk at a time: what the loss and the generation share.

A batch's logits over 250002 words do not fit in memory, so both walk over the vocabulary in chunks and keep running
results. Axes: N positions, V vocabulary, H width. Logits are [N, words], or [words, N] where the axis of the words is
0: XLA's products on a CPU are faster that way (benchmarks/RESULTS.md).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ernie_m_jax.model.split import ALONE, Split

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


def rows(embedding: jax.Array, start: jax.Array | int, size: int, dtype: Any, split: Split = ALONE) -> jax.Array:
    """Rows [size, H] of the table in `dtype`, from `start`."""
    return split.full_width(jax.lax.dynamic_slice_in_dim(embedding, start, size).astype(dtype))


def words_axis(mesh: Mesh | None) -> int:
    """The axis of the words in logits that a mesh's devices compute, or the default ones."""
    platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
    return 0 if platform == "cpu" else 1


def products(hidden: jax.Array, rows: jax.Array, axis: int, dtype: Any = jnp.float32) -> jax.Array:
    """Logits without bias of some words, given their rows [size, H] of the table; summed in fp32.

    Args:
      hidden: [N, H].
      rows: [size, H].
      axis: of the words in what comes out, [N, size] or [size, N].
      dtype: of what comes out.
    """
    left, right = (hidden, rows) if axis else (rows, hidden)
    return jax.lax.dot_general(left, right, (((1,), (1,)), ((), ())), preferred_element_type=dtype)


def biased(products: jax.Array, bias: jax.Array, start: jax.Array | int, axis: int) -> jax.Array:
    """Logits f32 as `products`, of the words from `start`."""
    here = jax.lax.dynamic_slice_in_dim(bias, start, products.shape[axis]).astype(jnp.float32)
    return products.astype(jnp.float32) + jnp.expand_dims(here, 1 - axis)


def at_words(values: jax.Array, words: jax.Array, axis: int) -> jax.Array:
    """Of each position's values for some words, [N, size] or [size, N], that of one of them, [N]; `words` are [N]."""
    return jnp.take_along_axis(values, jnp.expand_dims(words, axis), axis=axis).squeeze(axis)


def add_exponentials(logits: jax.Array, axis: int, maximum: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest logit so far and the sum of exp(logit - it), each [N], with more logits."""
    largest = jnp.maximum(maximum, logits.max(axis=axis))
    more = jnp.exp(logits - jnp.expand_dims(largest, axis)).sum(axis=axis)
    return largest, total * jnp.exp(maximum - largest) + more


def check_shapes(hidden: jax.Array, embedding: jax.Array, bias: jax.Array) -> None:
    """Raises ValueError where hidden states [..., H], table [V, H] and bias [V] do not fit together."""
    if hidden.ndim < 2 or embedding.ndim != 2 or hidden.shape[-1] != embedding.shape[1]:
        raise ValueError(f"hidden must be [..., H] and embedding [V, H], got {hidden.shape} and {embedding.shape}")
    if bias.shape != embedding.shape[:1]:
        raise ValueError(f"bias must be [V] = {embedding.shape[:1]}, got {bias.shape}")


def only_words(bias: jax.Array, words: int) -> jax.Array:
    """The decoder's bias [V] with which the rows behind the first `words` have probability 0, and no gradient."""
    return bias if len(bias) == words else jnp.where(jnp.arange(len(bias)) < words, bias, NEVER)


def padded(initializer: jax.nn.initializers.Initializer, words: int) -> jax.nn.initializers.Initializer:
    """An initializer of a table whose rows behind the first `words` are 0; the others do not depend on their number."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        del out_sharding
        table = initializer(key, (words, *shape[1:]), dtype)
        return jnp.pad(table, ((0, shape[0] - words), *((0, 0) for _ in shape[1:])))

    return init


def without(bias: jax.Array, words: Sequence[int]) -> jax.Array:
    """The decoder's bias [V] with which `words` have probability 0 and are never written."""
    return bias.at[jnp.asarray(words, jnp.int32)].set(NEVER) if len(words) else bias
