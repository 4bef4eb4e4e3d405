"""Fused attention for TPUs: no [L, L] array in memory, forward or backward, dropout in the kernel.

Pallas, compiled by Mosaic. Visibility is computed in the kernel from two integers per token. Rows of an encoder are
short enough for a program to hold all keys of its heads, so it sees whole rows of probabilities: the softmax needs no
running maximum, and the backward pass computes the forward's numbers again from queries and keys alone.
A program takes 128 columns of the width, one head or several narrow ones: a head's queries are the block with the other
heads' columns set to zero, which costs the matrix unit nothing, since it is 128 deep.
Axes: B batch, L length, q query position, k key position, H heads, D head width.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ernie_m_jax.model.dropout import attention_kept
from ernie_m_jax.model.visibility import Codes

KEPT = "attention"  # what rematerialisation knows the attention's output by
_HIDDEN = -1e30  # the logit of what must not be seen; finite, so that a row that sees nothing makes no NaN
LANES = 128
_CELLS = 256 * 1024  # logits that a program holds at a time
LONGEST = _CELLS // LANES  # tokens of a row: 128 queries see all of its keys at a time


def why_not(heads: int, width: int, length: int = 0) -> str:
    """Why the kernel does not take so many heads of this width on a device, and so many tokens; "": it does."""
    if width not in (32, 64, LANES) or heads * width % LANES:
        return (
            f"each device has {heads} heads of {width}, and it takes heads of 32, 64 or {LANES}, "
            f"together a multiple of {LANES} wide"
        )
    return f"rows have {length} tokens, and it takes up to {LONGEST}" if length > LONGEST else ""


def tpu_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    codes: Codes,
    seeds: jax.Array,
    dropout_rate: float,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention with the query scaled by `D ** -0.5`; softmax in fp32.

    Args:
      query: [B, L, H, D]; D is 32, 64 or 128 and H * D a multiple of 128. L is padded to a multiple of 128.
      key: the same.
      value: the same.
      codes: who sees whom; every query must see a key.
      seeds: uint32 [B, H], of the dropout; not read where the rate is 0.
      dropout_rate: of the probabilities.
      interpret: computes the kernels with JAX operations, on any device.

    Returns:
      [B, L, H, D], dtype of `query`.

    Raises:
      ValueError: the kernel does not take the heads, or the row is longer than 4,096 tokens.
    """
    batch, length, heads, width = query.shape
    if reason := why_not(heads, width, length):
        raise ValueError(
            f"compute.attention='flash' does not run here: {reason}; --config.compute.attention=auto takes what does"
        )
    tail = -length % LANES
    flat = [jnp.pad(x.reshape(batch, length, heads * width), ((0, 0), (0, tail), (0, 0))) for x in (query, key, value)]
    places, bits = (
        None if x is None else jnp.pad(x, ((0, 0), (0, tail)), constant_values=-1)[:, None, :] for x in codes
    )
    settings = _Settings(width, dropout_rate, interpret)
    own_seeds = seeds[:, None, :] if dropout_rate > 0.0 else None
    out = checkpoint_name(_attention(*flat, Codes(cast(jax.Array, places), bits), own_seeds, settings), KEPT)
    return out[:, :length].reshape(query.shape)


class _Settings(NamedTuple):
    """What is known when the kernel is compiled: width of a head, dropout rate, whether it is interpreted."""

    width: int
    rate: float
    interpret: bool

    @property
    def heads(self) -> int:
        """Heads of a program."""
        return LANES // self.width


class _Head:
    """Logits, probabilities and dropout of one head of a program's block of queries, [q, k] each."""

    def __init__(self, settings: _Settings, number: int, queries: int, codes: tuple[Any, Any], seeds: Any):
        lanes = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) // settings.width
        self.own = lanes == number
        self._settings, self._queries, self._codes = settings, queries, codes
        self._seed: Any = None if seeds is None else seeds[0, pl.program_id(1) * settings.heads + number]

    def of(self, block: jax.Array) -> jax.Array:
        """The block [tokens, 128] with the other heads' columns set to zero."""
        return block if self._settings.heads == 1 else jnp.where(self.own, block, jnp.zeros((), block.dtype))

    def probabilities(self, queries: jax.Array, keys: jax.Array, seen: jax.Array) -> jax.Array:
        """The softmax, fp32."""
        logits = _product(self.of(queries), keys, 1, 1) * self._settings.width**-0.5
        logits = jnp.where(seen, logits, _HIDDEN)
        probs = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
        return probs / jnp.sum(probs, axis=1, keepdims=True)

    def drop(self, *arrays: jax.Array) -> list[jax.Array]:
        """The arrays [q, k], zero where dropout drops a probability and larger elsewhere."""
        rate = self._settings.rate
        if rate == 0.0:
            return list(arrays)
        at_q, at_k = (jax.lax.broadcasted_iota(jnp.int32, arrays[0].shape, axis) for axis in (0, 1))
        kept = attention_kept(self._seed, at_q + pl.program_id(2) * self._queries, at_k, rate)
        return [jnp.where(kept, array * (1.0 / (1.0 - rate)), 0.0) for array in arrays]


def _product(one: jax.Array, other: jax.Array, axis: int, other_axis: int) -> jax.Array:
    """Sum of products over an axis of each, in fp32."""
    dimensions = (((axis,), (other_axis,)), ((), ()))
    return jax.lax.dot_general(one, other, dimensions, preferred_element_type=jnp.float32)


def _visible(places_ref: Any, bits_ref: Any, queries: int) -> jax.Array:
    """Whether a program's queries see the keys, bool [q, k]: see `visibility.Codes`."""
    own = pl.ds(pl.multiple_of(pl.program_id(2) * queries, LANES), queries)

    def column(ref: Any) -> jax.Array:
        return jnp.broadcast_to(ref[:, own], (LANES, queries)).T[:, :1]

    place_q, place_k = column(places_ref), places_ref[...]
    if bits_ref is None:
        return place_q == place_k
    allowed = (column(bits_ref) >> (place_k & 31)) & 1
    return ((place_q >> 5) == (place_k >> 5)) & (allowed == 1)


def _forward_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, places_ref: Any, bits_ref: Any, seeds_ref: Any, out_ref: Any,
    *, settings: _Settings,
) -> None:  # fmt: skip
    queries = q_ref.shape[0]
    seen = _visible(places_ref, bits_ref, queries)
    out = jnp.zeros(q_ref.shape, jnp.float32)
    for number in range(settings.heads):
        head = _Head(settings, number, queries, (places_ref, bits_ref), seeds_ref)
        (probs,) = head.drop(head.probabilities(q_ref[...], k_ref[...], seen))
        out = out + head.of(_product(probs.astype(v_ref.dtype), v_ref[...], 1, 0))
    out_ref[...] = out.astype(out_ref.dtype)


def _backward_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, places_ref: Any, bits_ref: Any, seeds_ref: Any, grad_ref: Any,
    dq_ref: Any, dk_ref: Any, dv_ref: Any, dk_sum: Any, dv_sum: Any, *, settings: _Settings,
) -> None:  # fmt: skip
    """Gradients of a block of queries, and of all keys and values, added up over the blocks."""
    queries, scale = q_ref.shape[0], settings.width**-0.5

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    seen = _visible(places_ref, bits_ref, queries)
    dq = jnp.zeros(q_ref.shape, jnp.float32)
    for number in range(settings.heads):
        head = _Head(settings, number, queries, (places_ref, bits_ref), seeds_ref)
        q, grad = head.of(q_ref[...]), head.of(grad_ref[...])
        # A query that sees nothing has probabilities, which nothing may learn from.
        probs = jnp.where(seen, head.probabilities(q, k_ref[...], seen), 0.0)
        dropped, d_probs = head.drop(probs, _product(grad, v_ref[...], 1, 1))
        d_logits = probs * (d_probs - jnp.sum(d_probs * probs, axis=1, keepdims=True)) * scale
        d_logits = d_logits.astype(q.dtype)
        dq = dq + head.of(_product(d_logits, k_ref[...], 1, 0))
        dk_sum[...] += _product(d_logits, q, 0, 0)
        dv_sum[...] += _product(dropped.astype(grad.dtype), grad, 0, 0)
    dq_ref[...] = dq.astype(dq_ref.dtype)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
        dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)


def _call(name: str, kernel: Any, operands: list, blocks: str, outs: str, settings: _Settings) -> list[jax.Array]:
    """One kernel over (row, 128 columns, block of queries).

    `blocks` says how each operand is cut and `outs` each result: "q" [B, L, H * D], its own block of queries; "k" the
    same, all tokens; "c" codes [B, 1, L] and "s" seeds [B, 1, H], whole rows of them.
    """
    batch, length, columns = operands[0].shape
    heads = columns // settings.width
    queries = max([LANES, *(size for size in (256, 512) if length % size == 0 and size * length <= _CELLS)])
    specs = {
        "q": pl.BlockSpec((None, queries, LANES), lambda b, h, i: (b, i, h)),
        "k": pl.BlockSpec((None, length, LANES), lambda b, h, i: (b, 0, h)),
        "c": pl.BlockSpec((None, 1, length), lambda b, h, i: (b, 0, 0)),
        "s": pl.BlockSpec((None, 1, heads), lambda b, h, i: (b, 0, 0), memory_space=pltpu.SMEM),
    }
    sums = [pltpu.VMEM((length, LANES), jnp.float32)] * outs.count("k")
    return pl.pallas_call(
        functools.partial(kernel, settings=settings),
        grid=(batch, columns // LANES, length // queries),
        in_specs=[None if x is None else specs[kind] for kind, x in zip(blocks, operands, strict=True)],
        out_specs=[specs[kind] for kind in outs],
        out_shape=[jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype)] * len(outs),
        scratch_shapes=sums,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=settings.interpret,
        name=name,
    )(*operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(query: Any, key: Any, value: Any, codes: Codes, seeds: Any, settings: _Settings) -> jax.Array:
    operands = [query, key, value, *codes, seeds]
    return _call("tpu_attention_forward", _forward_kernel, operands, "qkkccs", "q", settings)[0]


def _attention_forward(query: Any, key: Any, value: Any, codes: Codes, seeds: Any, settings: _Settings) -> Any:
    return _attention(query, key, value, codes, seeds, settings), (query, key, value, codes, seeds)


def _attention_backward(settings: _Settings, residuals: Any, grad: jax.Array) -> tuple[Any, ...]:
    query, key, value, codes, seeds = residuals
    operands = [query, key, value, *codes, seeds, grad]
    grads = _call("tpu_attention_backward", _backward_kernel, operands, "qkkccsq", "qkk", settings)
    return *grads, None, None


_attention.defvjp(_attention_forward, _attention_backward)
