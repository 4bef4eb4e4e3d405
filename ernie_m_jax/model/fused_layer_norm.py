"""Layer normalisation of a sum in one kernel for NVIDIA GPUs: every array is read once and written once.

Pallas, compiled by Triton. XLA makes several kernels of the backward pass, and a sixth of a training step's time.
Axes: N vectors, H width.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ernie_m_jax.model.kernels import triton

_ROWS = 4  # vectors that a program holds at a time
_ROUNDS = 16  # times it does so in the backward pass, adding up the parameters' gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def fused_layer_norm(
    terms: tuple[jax.Array, ...], scale: jax.Array, bias: jax.Array, epsilon: float, dtype: str, interpret: bool = False
) -> jax.Array:
    """`layers.layer_norm`, the same numbers; `terms` [N, H] each."""
    return _forward(terms, scale, bias, epsilon, dtype, interpret)[0]


def _blocks(terms: tuple[jax.Array, ...]) -> tuple[int, int, int]:
    """Vectors of a block, width of a block, rounds of a backward program."""
    count, width = terms[0].shape
    rows = math.gcd(count, _ROWS)
    return rows, pl.next_power_of_2(width), math.gcd(count // rows, _ROUNDS)


def _load(ref: Any, rows: slice | Any, inside: jax.Array) -> jax.Array:
    return triton.load(ref.at[rows, :], mask=inside, other=0.0).astype(jnp.float32)


def _forward_kernel(*refs: Any, count: int, width: int, rows: int, padded: int, epsilon: float) -> None:
    terms, (scale_ref, bias_ref, out_ref, mean_ref, inverse_ref) = refs[:count], refs[count:]
    columns = jnp.arange(padded)[None, :] < width
    here = pl.ds(0, rows)
    inside = jnp.broadcast_to(columns, (rows, padded))
    total = _load(terms[0], here, inside)
    for term in terms[1:]:
        total = total + _load(term, here, inside)
    mean = jnp.sum(total, axis=1) / width
    centred = jnp.where(inside, total - mean[:, None], 0.0)
    inverse = jax.lax.rsqrt(jnp.sum(centred * centred, axis=1) / width + epsilon)
    one = jnp.arange(padded) < width
    scale = triton.load(scale_ref.at[:], mask=one, other=0.0)
    bias = triton.load(bias_ref.at[:], mask=one, other=0.0)
    out = centred * inverse[:, None] * scale[None, :] + bias[None, :]
    triton.store(out_ref.at[here, :], out.astype(out_ref.dtype), mask=inside)
    mean_ref[here] = mean
    inverse_ref[here] = inverse


def _backward_kernel(*refs: Any, count: int, width: int, rows: int, padded: int, rounds: int) -> None:
    terms, (mean_ref, inverse_ref, grad_ref, scale_ref, out_ref, d_scale_ref, d_bias_ref) = refs[:count], refs[count:]
    one = jnp.arange(padded) < width
    inside = jnp.broadcast_to(one[None, :], (rows, padded))
    scale = triton.load(scale_ref.at[:], mask=one, other=0.0)

    def body(index: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_scale, d_bias = sums
        here = pl.ds(index * rows, rows)
        total = _load(terms[0], here, inside)
        for term in terms[1:]:
            total = total + _load(term, here, inside)
        inverse = inverse_ref[here][:, None]
        normal = jnp.where(inside, (total - mean_ref[here][:, None]) * inverse, 0.0)
        grad = _load(grad_ref, here, inside)
        scaled = grad * scale[None, :]
        along = jnp.sum(scaled * normal, axis=1)[:, None] / width
        level = jnp.sum(scaled, axis=1)[:, None] / width
        d_total = inverse * (scaled - level - normal * along)
        triton.store(out_ref.at[here, :], d_total.astype(out_ref.dtype), mask=inside)
        return d_scale + jnp.sum(grad * normal, axis=0), d_bias + jnp.sum(grad, axis=0)

    zeros = jnp.zeros((padded,), jnp.float32)
    d_scale, d_bias = jax.lax.fori_loop(0, rounds, body, (zeros, zeros))
    triton.store(d_scale_ref.at[:], d_scale, mask=one)
    triton.store(d_bias_ref.at[:], d_bias, mask=one)


def _call(
    kernel: Any, rows: int, padded: int, vectors: list, shared: list, outs: list, parts: int, name: str, interpret: bool
) -> Any:
    """One kernel over blocks of `rows` vectors; `vectors` [N, H] or [N] are cut, `shared` [H] are whole.

    The last `parts` outputs, [programs, H], have a row for each program. Widths are padded by what is out of bounds.
    """
    count = vectors[0].shape[0]

    def spec(array: Any) -> pl.BlockSpec:
        if array.ndim == 1:
            return pl.BlockSpec((rows,), lambda i: (i,))
        return pl.BlockSpec((rows, padded), lambda i: (i, 0))

    whole = len(outs) - parts
    own = pl.BlockSpec((None, padded), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        grid=(count // rows,),
        in_specs=[spec(array) for array in vectors] + [pl.BlockSpec((padded,), lambda i: (0,))] * len(shared),
        out_specs=[spec(out) for out in outs[:whole]] + [own] * parts,
        out_shape=outs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name=name,
    )(*vectors, *shared)


def _forward(
    terms: tuple[jax.Array, ...], scale: jax.Array, bias: jax.Array, epsilon: float, dtype: str, interpret: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    count, width = terms[0].shape
    rows, padded, _ = _blocks(terms)
    statistics = jax.ShapeDtypeStruct((count,), jnp.float32)
    outs = [jax.ShapeDtypeStruct((count, width), jnp.dtype(dtype)), statistics, statistics]
    kernel = functools.partial(
        _forward_kernel, count=len(terms), width=width, rows=rows, padded=padded, epsilon=epsilon
    )
    out, mean, inverse = _call(kernel, rows, padded, [*terms], [scale, bias], outs, 0, "layer_norm_forward", interpret)
    return out, (terms, scale, mean, inverse)


def _backward(
    epsilon: float, dtype: str, interpret: bool, residuals: tuple[Any, ...], cotangent: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    terms, scale, mean, inverse = residuals
    count, width = terms[0].shape
    rows, padded, rounds = _blocks(terms)
    programs = count // (rows * rounds)
    # One gradient serves all terms of one dtype; it is written in the widest.
    wide = jnp.result_type(*terms)
    parts = jax.ShapeDtypeStruct((programs, width), jnp.float32)
    outs = [jax.ShapeDtypeStruct((count, width), wide), parts, parts]
    kernel = functools.partial(_backward_kernel, count=len(terms), width=width, rows=rows, padded=padded, rounds=rounds)
    vectors = [*terms, mean, inverse, cotangent]
    d_total, d_scale, d_bias = _call(
        kernel, rows * rounds, padded, vectors, [scale], outs, 2, "layer_norm_backward", interpret
    )
    return tuple(d_total.astype(term.dtype) for term in terms), d_scale.sum(axis=0), d_bias.sum(axis=0)


fused_layer_norm.defvjp(_forward, _backward)
