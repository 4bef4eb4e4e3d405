"""Dropout whose mask is a hash of the element's index: activations and a key in, thinned activations out.

Threefry bits for every element are a large part of a step on a CPU. Here two words drawn from the key seed an integer
hash of the element's global index, so the mask is a few fused integer operations, the backward pass computes it again
instead of storing it, and it is the same for any sharding.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_UINT32 = 1 << 32


def _hash(counter: jax.Array, seed: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """Mixes uint32 counters with two uint32 seed words.

    The rounds are "triple32" of C. Wellons' search for integer hashes (https://nullprogram.com/blog/2018/07/31/), a
    stronger relative of MurmurHash3's finaliser. The second word enters after the first round: with one word at the
    entrance only, two seeds' masks would be the same bits in another order.
    """
    x = counter ^ seed[0]
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB)
    x = (x ^ (x >> 11)) + seed[1]
    x = x * jnp.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * jnp.uint32(0x31848BAB)
    return x ^ (x >> 14)


def _bits(shape: tuple[int, ...], seed: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """Random uint32 of a shape from two seed words; one iota per axis, so that any axis can be sharded."""
    # Trailing axes are counted in 32 bits; leading axes that no longer fit reseed the hash.
    first = len(shape)
    size = 1
    while first > 0 and size * shape[first - 1] <= _UINT32:
        first -= 1
        size *= shape[first]
    if first > 0:
        leading = shape[:first] + (1,) * (len(shape) - first)
        seed = (_bits(leading, seed), _bits(leading, (seed[1], seed[0])))
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    stride = 1
    for axis in reversed(range(first, len(shape))):
        extent = tuple(shape[axis] if other == axis else 1 for other in range(len(shape)))
        index += jax.lax.broadcasted_iota(jnp.uint32, extent, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return _hash(index, seed)


def random_bits(shape: tuple[int, ...], rng: jax.Array) -> jax.Array:
    """Random bits by hashing each element's index; good for noise, not for cryptography.

    Args:
      shape: of the result.
      rng: a PRNG key of any implementation.

    Returns:
      uint32 of `shape`, the same for any mesh the computation runs on.
    """
    return jnp.broadcast_to(_bits(shape, jax.random.bits(rng, (2,), jnp.uint32)), shape)


def random_bits_at(
    shape: tuple[int, ...], first: tuple[jax.Array | int, jax.Array | int], seed: jax.Array
) -> jax.Array:
    """A window into an array of random bits with any number of rows and columns.

    Args:
      shape: rows and columns of the window.
      first: its first row and column, Python or device integers.
      seed: uint32 [2].

    Returns:
      uint32 of `shape`; an element depends on the seed, its row and its column only.
    """
    rows, columns = (
        jnp.asarray(start, jnp.uint32) + jax.lax.broadcasted_iota(jnp.uint32, extent, axis)
        for axis, (start, extent) in enumerate(zip(first, ((shape[0], 1), (1, shape[1])), strict=True))
    )
    # Each row has seed words of its own, and the column is what they hash.
    return _hash(columns, (_hash(rows, seed), _hash(rows, (seed[1], seed[0]))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _drop(rate: float, x: jax.Array, seed: jax.Array) -> jax.Array:
    kept = _bits(x.shape, seed) >= jnp.uint32(min(round(rate * _UINT32), _UINT32 - 1))
    return jnp.where(kept, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _drop_forward(rate: float, x: jax.Array, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _drop(rate, x, seed), seed


def _drop_backward(rate: float, seed: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, np.ndarray]:
    # Dropout is linear in x with a diagonal matrix: its transpose is itself, with the mask computed again.
    return _drop(rate, cotangent, seed), np.zeros(seed.shape, jax.dtypes.float0)


_drop.defvjp(_drop_forward, _drop_backward)


def attention_kept(seeds: jax.Array, query_at: jax.Array, key_at: jax.Array, rate: float) -> jax.Array:
    """Whether an attention probability survives dropout: a hash of its place, seeded by row and head.

    The same in a kernel that never holds the probabilities as outside one. Two rounds of a 32-bit mixer; the seed
    enters before and between them, so that rows and heads differ in more than the order of the same bits.

    Args:
      seeds: uint32, broadcasts with the positions.
      query_at: int32 positions of the queries within their row.
      key_at: int32 positions of the keys.
      rate: share that is dropped.
    """
    x = (query_at.astype(jnp.uint32) << 16) ^ key_at.astype(jnp.uint32) ^ seeds
    x = x * np.uint32(0x9E3779B1)
    x = (x ^ (x >> 15)) + seeds
    x = x * np.uint32(0x85EBCA77)
    x = x ^ (x >> 13)
    x = x * np.uint32(0xC2B2AE3D)
    return x >= np.uint32(min(round(rate * _UINT32), _UINT32 - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def drop_probabilities(rate: float, probs: jax.Array, seeds: jax.Array) -> jax.Array:
    """Attention probabilities [B, heads, Lq, Lk] after dropout with seeds uint32 [B, heads]; see `attention_kept`."""
    at_q, at_k = (jax.lax.broadcasted_iota(jnp.int32, probs.shape, axis) for axis in (2, 3))
    kept = attention_kept(seeds[:, :, None, None], at_q, at_k, rate)
    return jnp.where(kept, probs * jnp.asarray(1.0 / (1.0 - rate), probs.dtype), jnp.zeros((), probs.dtype))


def _probabilities_forward(rate: float, probs: jax.Array, seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    return drop_probabilities(rate, probs, seeds), seeds


def _probabilities_backward(rate: float, seeds: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, np.ndarray]:
    return drop_probabilities(rate, cotangent, seeds), np.zeros(seeds.shape, jax.dtypes.float0)


drop_probabilities.defvjp(_probabilities_forward, _probabilities_backward)


def dropout(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
    """Sets elements to 0 with probability `rate` and divides the others by `1 - rate`.

    Args:
      x: floating, any shape.
      rate: in [0, 1); 0 returns `x`.
      rng: a PRNG key of any implementation; may be None where `rate` is 0.

    Returns:
      An array like `x`.

    Raises:
      ValueError: if `rate` is outside [0, 1), or positive without a key.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
    if rate == 0.0:
        return x
    if rng is None:
        raise ValueError(f"dropout rate {rate} needs a key, got rng=None")
    return _drop(rate, x, jax.random.bits(rng, (2,), jnp.uint32))


class Dropout(nn.Module):
    """`dropout` with a key from the "dropout" stream."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Drops elements of `x` unless `deterministic`."""
        if deterministic or self.rate == 0.0:
            return x
        return dropout(x, self.rate, self.make_rng("dropout"))
