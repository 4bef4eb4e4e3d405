"""Fused attention for NVIDIA GPUs: no [L, L] array in memory, forward or backward, dropout in the kernel.

FlashAttention-2 (Dao 2023, arXiv 2307.08691) in Pallas, compiled by Triton. Visibility is computed in the kernel from
two integers per token, and blocks of keys with none of a block of queries' segments are never read, so a packed row
costs what its sentences cost. Dropout is a hash of the probability's place, computed again in the backward pass.
Axes: b batch, l length, q query position, k key position, h heads, d head width.
"""

import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl

from ernie_m_jax.model.dropout import attention_kept
from ernie_m_jax.model.kernels import WIDEST_HEAD, triton
from ernie_m_jax.model.tpu_attention import KEPT
from ernie_m_jax.model.visibility import Codes

_HIDDEN = -1e30  # the logit of what must not be seen; finite, so that a row that sees nothing makes no NaN
_LOG2_E = math.log2(math.e)
_SHORTEST = 16  # the least axis of a block that the matrix units take


class Blocks(NamedTuple):
    """Tile sizes of one kernel: queries and keys at a time, warps of a program and stages of its software pipeline."""

    queries: int = 64
    keys: int = 64
    warps: int = 4
    stages: int = 3


FORWARD, BACKWARD = Blocks(128, 64), Blocks(64, 64)  # the fastest of nine of each on an H100, heads of 64


def flash_attention(
    projected: jax.Array, codes: Codes, seeds: jax.Array, dropout_rate: float, interpret: bool = False
) -> jax.Array:
    """Softmax attention of queries, keys and values, the query scaled by `D ** -0.5`; softmax in fp32.

    Args:
      projected: [B, L, 3, H, D], queries, keys and values in one array, so that one product makes them and one takes
        their gradients; D at most 128. L and D are padded to what the matrix units take.
      codes: who sees whom; every query must see a key.
      seeds: uint32 [B, H], of the dropout; not read where the rate is 0.
      dropout_rate: of the probabilities.
      interpret: computes the kernels with JAX operations, on any device.

    Returns:
      [B, L, H, D], dtype of `projected`.

    Raises:
      ValueError: the heads are too wide.
    """
    length, width = projected.shape[1], projected.shape[4]
    if width > WIDEST_HEAD:
        raise ValueError(f"compute.attention='flash' takes heads of up to {WIDEST_HEAD}, got {width}")
    more = -length % _SHORTEST, max(pl.next_power_of_2(width), _SHORTEST) - width
    if any(more):
        projected = jnp.pad(projected, ((0, 0), (0, more[0]), (0, 0), (0, 0), (0, more[1])))
        tail = ((0, 0), (0, more[0]))
        places, bits = (None if x is None else jnp.pad(x, tail, constant_values=-1) for x in codes)
        codes = Codes(cast(jax.Array, places), bits)
    return _flash(projected, codes, seeds, dropout_rate, width**-0.5, interpret)[:, :length, :, :width]


def _bounds(places: jax.Array, block: int, other: int) -> jax.Array:
    """For each block of tokens the first and the last + 1 block of `other` tokens with its segments; int32 [B, n, 2].

    Padding counts as a segment behind all others, as it lies.
    """
    batch, length = places.shape
    segments = places >> 5
    ordered = jnp.where(segments <= 0, jnp.iinfo(jnp.int32).max, segments)
    own = ordered.reshape(batch, length // block, block)
    others = ordered.reshape(batch, 1, length // other, other)
    touch = (others.max(-1) >= own.min(-1)[:, :, None]) & (others.min(-1) <= own.max(-1)[:, :, None])
    first = jnp.argmax(touch, axis=2)
    last = length // other - jnp.argmax(touch[:, :, ::-1], axis=2)
    return jnp.stack([first, last], axis=-1).astype(jnp.int32)


def _visible(query_code: jax.Array, query_bits: jax.Array | None, key_code: jax.Array) -> jax.Array:
    """Whether queries see keys [q, k]: the same segment, and the key's role among the bits of the query's."""
    if query_bits is None:
        return query_code[:, None] == key_code[None, :]
    same = (query_code[:, None] >> 5) == (key_code[None, :] >> 5)
    allowed = (query_bits[:, None] >> (key_code[None, :] & 31)) & 1
    return same & (allowed == 1)


def _forward_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    code_ref: Any,
    bits_ref: Any,
    bounds_ref: Any,
    seed_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    *,
    scale: float,
    rate: float,
    block_q: int,
    block_k: int,
) -> None:
    start_q = pl.program_id(0)
    at_q = start_q * block_q + jnp.arange(block_q)
    q = q_ref[...]
    code_q = code_ref[pl.ds(start_q * block_q, block_q)]
    bits_q = None if bits_ref is None else bits_ref[pl.ds(start_q * block_q, block_q)]
    seed = seed_ref[...]

    def body(index: Any, carry: Any) -> Any:
        acc, maximum, total = carry
        here = pl.ds(index * block_k, block_k)
        k, v = k_ref[here, :], v_ref[here, :]
        logits = triton.dot(q, k.T) * (scale * _LOG2_E)
        logits = jnp.where(_visible(code_q, bits_q, code_ref[here]), logits, _HIDDEN)
        largest = jnp.maximum(maximum, jnp.max(logits, axis=1))
        shrink = jnp.exp2(maximum - largest)
        probs = jnp.exp2(logits - largest[:, None])
        total = total * shrink + jnp.sum(probs, axis=1)
        if rate > 0.0:
            at_k = index * block_k + jnp.arange(block_k)
            probs = jnp.where(attention_kept(seed, at_q[:, None], at_k[None, :], rate), probs, 0.0)
        return acc * shrink[:, None] + triton.dot(probs.astype(v.dtype), v), largest, total

    acc = jnp.zeros(q.shape, jnp.float32)
    maximum = jnp.full((block_q,), -jnp.inf, jnp.float32)
    total = jnp.zeros((block_q,), jnp.float32)
    acc, maximum, total = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], body, (acc, maximum, total))
    out_ref[...] = (acc / (total * (1.0 - rate))[:, None]).astype(out_ref.dtype)
    lse_ref[...] = maximum + jnp.log2(total)


def _backward_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    code_ref: Any,
    bits_ref: Any,
    bounds_ref: Any,
    seed_ref: Any,
    grad_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    out_ref: Any,
    *,
    scale: float,
    rate: float,
    block: int,
) -> None:
    """Gradients of one block of tokens: as keys and values over its queries, then as queries over its keys."""
    at = pl.program_id(0) * block + jnp.arange(block)
    own = pl.ds(pl.program_id(0) * block, block)
    seed, code, bits = seed_ref[...], code_ref[own], None if bits_ref is None else bits_ref[own]

    def both(
        queries: Any, keys: Any, values: Any, grad: Any, lse: Any, delta: Any, seen: Any, keep: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Probabilities after dropout and the gradient of the logits, [q, k] each."""
        probs = jnp.exp2(triton.dot(queries, keys.T) * (scale * _LOG2_E) - lse[:, None])
        probs = jnp.where(seen, probs, 0.0)
        d_probs = triton.dot(grad, values.T)
        dropped = probs
        if keep is not None:
            dropped = jnp.where(keep, probs * (1.0 / (1.0 - rate)), 0.0)
            d_probs = jnp.where(keep, d_probs * (1.0 / (1.0 - rate)), 0.0)
        return dropped.astype(grad.dtype), (probs * (d_probs - delta[:, None])).astype(queries.dtype)

    def kept_at(at_q: Any, at_k: Any) -> jax.Array | None:
        return attention_kept(seed, at_q[:, None], at_k[None, :], rate) if rate > 0.0 else None

    k, v = k_ref[own, :], v_ref[own, :]

    def over_queries(index: Any, carry: Any) -> Any:
        dk, dv = carry
        here = pl.ds(index * block, block)
        q, grad = q_ref[here, :], grad_ref[here, :]
        seen = _visible(code_ref[here], None if bits_ref is None else bits_ref[here], code)
        keep = kept_at(index * block + jnp.arange(block), at)
        dropped, d_logits = both(q, k, v, grad, lse_ref[here], delta_ref[here], seen, keep)
        return dk + triton.dot(d_logits.T, q), dv + triton.dot(dropped.T, grad)

    zeros = jnp.zeros(k.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], over_queries, (zeros, zeros))
    out_ref[:, 1, :] = (dk * scale).astype(out_ref.dtype)
    out_ref[:, 2, :] = dv.astype(out_ref.dtype)

    q, grad, lse, delta = q_ref[own, :], grad_ref[own, :], lse_ref[own], delta_ref[own]

    def over_keys(index: Any, dq: Any) -> jax.Array:
        here = pl.ds(index * block, block)
        k, v = k_ref[here, :], v_ref[here, :]
        keep = kept_at(at, index * block + jnp.arange(block))
        d_logits = both(q, k, v, grad, lse, delta, _visible(code, bits, code_ref[here]), keep)[1]
        return dq + triton.dot(d_logits, k)

    dq = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], over_keys, zeros)
    out_ref[:, 0, :] = (dq * scale).astype(out_ref.dtype)


class _Specs(NamedTuple):
    """What a program over (block of tokens, row, head) takes of each array."""

    length: int
    width: int
    block: int

    def plane(self, which: int, whole: bool) -> pl.BlockSpec:
        """Of [B, L, 3, H, D]: queries (0), keys (1) or values (2), all tokens or its own block of them."""
        return pl.BlockSpec(
            (None, self.length if whole else self.block, None, None, self.width),
            lambda i, b, h: (b, 0 if whole else i, which, h, 0),
        )

    def heads(self, whole: bool) -> pl.BlockSpec:
        """Of [B, L, H, D]: all tokens or its own block."""
        return pl.BlockSpec(
            (None, self.length if whole else self.block, None, self.width),
            lambda i, b, h: (b, 0 if whole else i, h, 0),
        )

    def statistics(self, whole: bool) -> pl.BlockSpec:
        """Of [B, H, L]: all tokens or its own block."""
        size = self.length if whole else self.block
        return pl.BlockSpec((None, None, size), lambda i, b, h: (b, h, 0 if whole else i))

    def visibility(self, codes: Codes) -> list[pl.BlockSpec | None]:
        """Of the codes [B, L], the bounds [B, blocks, 2] and the seeds [B, H]."""
        tokens = pl.BlockSpec((None, self.length), lambda i, b, h: (b, 0))
        return [
            *(None if array is None else tokens for array in codes),
            pl.BlockSpec((None, None, 2), lambda i, b, h: (b, i, 0)),
            pl.BlockSpec((None, None), lambda i, b, h: (b, h)),
        ]


def _call(
    name: str, kernel: Any, blocks: Blocks, shape: tuple[int, ...], ins: list, outs: list, shapes: list,
    operands: list, interpret: bool,
) -> list[jax.Array]:  # fmt: skip
    batch, length, _, heads, _ = shape
    return pl.pallas_call(
        kernel,
        grid=(length // blocks.queries, batch, heads),
        in_specs=ins,
        out_specs=outs,
        out_shape=shapes,
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name=name,
    )(*operands)


def _fitted(blocks: Blocks, length: int) -> Blocks:
    return blocks._replace(queries=math.gcd(blocks.queries, length), keys=math.gcd(blocks.keys, length))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _flash(projected: Any, codes: Codes, seeds: Any, rate: float, scale: float, interpret: bool) -> jax.Array:
    return _flash_forward(projected, codes, seeds, rate, scale, interpret)[0]


def _flash_forward(
    projected: Any, codes: Codes, seeds: Any, rate: float, scale: float, interpret: bool
) -> tuple[jax.Array, Any]:
    batch, length, _, heads, width = projected.shape
    blocks = _fitted(FORWARD, length)
    specs = _Specs(length, width, blocks.queries)
    bounds = _bounds(codes.places, blocks.queries, blocks.keys)
    out, lse = _call(
        "flash_attention_forward",
        functools.partial(_forward_kernel, scale=scale, rate=rate, block_q=blocks.queries, block_k=blocks.keys),
        blocks,
        projected.shape,
        [specs.plane(0, False), specs.plane(1, True), specs.plane(2, True), *specs.visibility(codes)],
        [specs.heads(False), specs.statistics(False)],
        [
            jax.ShapeDtypeStruct((batch, length, heads, width), projected.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        [projected] * 3 + [*codes, bounds, seeds],
        interpret,
    )
    # Both by name: with either missing, rematerialisation would run this kernel again.
    out, lse = checkpoint_name(out, KEPT), checkpoint_name(lse, KEPT)
    return out, (projected, codes, seeds, out, lse)


def _flash_backward(rate: float, scale: float, interpret: bool, residuals: Any, grad: Any) -> tuple[Any, None, None]:
    projected, codes, seeds, out, lse = residuals
    delta = jnp.einsum("blhd,blhd->bhl", out.astype(jnp.float32), grad.astype(jnp.float32))
    length, width = projected.shape[1], projected.shape[4]
    blocks = _fitted(BACKWARD, length)
    specs = _Specs(length, width, blocks.queries)
    (d_projected,) = _call(
        "flash_attention_backward",
        functools.partial(_backward_kernel, scale=scale, rate=rate, block=blocks.queries),
        blocks,
        projected.shape,
        [*(specs.plane(which, True) for which in range(3)), *specs.visibility(codes), specs.heads(True)]
        + [specs.statistics(True)] * 2,
        [pl.BlockSpec((None, blocks.queries, 3, None, width), lambda i, b, h: (b, i, 0, h, 0))],
        [jax.ShapeDtypeStruct(projected.shape, projected.dtype)],
        [projected] * 3 + [*codes, _bounds(codes.places, blocks.queries, blocks.queries), seeds, grad, lse, delta],
        interpret,
    )
    return d_projected, None, None


_flash.defvjp(_flash_forward, _flash_backward)
