"""Linear maps whose products are computed in 8-bit floating point: `compute.float8`.

Each operand is divided by a scale of its own, one number per array, which brings its largest value to the largest of
the 8-bit type: e4m3 (3 bits of mantissa) for activations and kernels, e5m2 (a wider range) for gradients, as in
Micikevicius et al. 2022 (arXiv 2209.05433). The scale is that of the very array, not of the steps before, so there is
no state to keep and a step depends on nothing but its parameters and batch. A token's numbers depend a little on which
tokens are computed beside it: those asked for of the last layer (`ErnieM.encode`) on the others asked for.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

E4M3, E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2


class Quantized(NamedTuple):
    """An array in 8 bits; `values` times `scale`, a float32 scalar, is what it stands for."""

    values: jax.Array
    scale: jax.Array


def quantize(x: jax.Array, dtype: Any) -> Quantized:
    """The array in `dtype`, its largest magnitude at the type's largest; what is not finite stays not finite."""
    largest, most = jnp.max(jnp.abs(x)).astype(jnp.float32), float(jnp.finfo(dtype).max)
    # A scale below the smallest normal number would be flushed to zero.
    scale = jnp.where(largest > most * float(jnp.finfo(jnp.float32).tiny), largest / most, 1.0)
    return Quantized((x.astype(jnp.float32) / scale).astype(dtype), scale)


def dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **_: Any) -> jax.Array:
    """`lax.dot_general` of activations and a kernel.

    Args:
      lhs: [..., *contracted].
      rhs: [*contracted, *features].
      dimension_numbers: the last axes of `lhs` and the first of `rhs`, no batch axes.

    Returns:
      [..., *features], dtype of `lhs`.

    Raises:
      ValueError: other axes are to be contracted.
    """
    (of_lhs, of_rhs), batch = dimension_numbers
    count = len(of_rhs)
    last, first = tuple(range(lhs.ndim - count, lhs.ndim)), tuple(range(count))
    if tuple(of_lhs) != last or tuple(of_rhs) != first or any(batch):
        raise ValueError(f"the last axes are contracted with the first ones, not {dimension_numbers}")
    rows, features = lhs.shape[: lhs.ndim - count], rhs.shape[count:]
    width = math.prod(rhs.shape[:count])
    return matmul(lhs.reshape(-1, width), rhs.reshape(width, -1)).reshape(*rows, *features)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[M, K] times [K, N], in the dtype of `x`; both are rounded to 8 bits, and in the backward pass the gradient."""
    return _forward(x, kernel)[0]


def _product(one: Quantized, other: Quantized, contracted: tuple[int, int], dtype: Any) -> jax.Array:
    axes = (((contracted[0],), (contracted[1],)), ((), ()))
    out = lax.dot_general(one.values, other.values, axes, preferred_element_type=dtype)
    return (out.astype(jnp.float32) * (one.scale * other.scale)).astype(dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    operands = quantize(x, E4M3), quantize(kernel, E4M3)
    # Arrays of no values say which dtypes the gradients have.
    return _product(*operands, (1, 0), x.dtype), (*operands, jnp.zeros(0, x.dtype), jnp.zeros(0, kernel.dtype))


def _backward(residuals: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel, like_x, like_kernel = residuals
    gradient = quantize(cotangent, E5M2)
    of_x = functools.partial(_product, gradient, kernel, (1, 1))
    of_kernel = functools.partial(_product, x, gradient, (0, 0))
    return of_x(like_x.dtype), of_kernel(like_kernel.dtype)


matmul.defvjp(_forward, _backward)
