"""Linear maps of the encoder and the heads: the last axes of an array in, features out, with logical axis names."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.model import float8


class Linear(nn.Module):
    """A linear map; parameters "kernel" [*contracted, *features] and "bias" [*features], fp32.

    Truncated normal kernel and zero bias (paper.md: init 0.02).

    Attributes:
      config: `initializer_range`.
      compute: `dtype` of the product.
      features: the output's axes.
      axes: logical axis names of the kernel.
      bias_axes: logical axis names of the bias.
      contracted: how many trailing axes of the input are summed over.
      rng: () -> key that the kernel is drawn with; None: one of its own.
      in_layers: whether it is one of a layer's: `compute.float8` and `compute.scan_layers` are about these.
    """

    config: ModelConfig
    compute: ComputeConfig
    features: tuple[int, ...]
    axes: tuple[str, ...]
    bias_axes: tuple[str, ...]
    contracted: int = 1
    rng: Callable[[], jax.Array] | None = None
    in_layers: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *contracted] -> [..., *features], in `compute.dtype`."""
        shape = (*x.shape[x.ndim - self.contracted :], *self.features)
        kernel = self.param("kernel", nn.with_logical_partitioning(self._drawn, self.axes), shape)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.bias_axes)
        bias = self.param("bias", zeros, self.features, jnp.float32)
        return affine(x, kernel, bias, self.compute, self.in_layers)

    def _drawn(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """As a matrix of inputs and outputs, so that the numbers do not depend on their axes."""
        matrix = math.prod(shape[: self.contracted]), math.prod(self.features)
        initializer = nn.initializers.truncated_normal(self.config.initializer_range)
        return initializer(key if self.rng is None else self.rng(), matrix, jnp.float32).reshape(shape)


def affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, compute: ComputeConfig, in_layers: bool = False
) -> jax.Array:
    """The linear map of `x` [..., *contracted] by an fp32 kernel [*contracted, *features] and bias [*features].

    In 16 bits its gradients are left in fp32, as they are summed: several devices that accumulate the parts of a batch
    exchange the sum of all parts, which XLA for GPUs forms in the gradients' dtype. Those of stacked layers it
    exchanges part by part and adds up in fp32, so they are rounded, which halves what is exchanged. Those of 8-bit
    products are rounded too. Others have no forward-mode derivative.

    Returns:
      [..., *features], in `compute.dtype`.
    """
    x = x.astype(compute.dtype)
    if in_layers and compute.float8:
        return _affine(x, kernel.astype(x.dtype), bias.astype(x.dtype), float8.dot_general)
    if in_layers and compute.scan_layers:
        kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    return _linear(x, kernel, bias)


def _affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dot_general: Callable[..., jax.Array] = jax.lax.dot_general
) -> jax.Array:
    contracted = kernel.ndim - bias.ndim
    axes = tuple(range(x.ndim - contracted, x.ndim)), tuple(range(contracted))
    return dot_general(x, kernel, (axes, ((), ()))) + bias


@jax.custom_vjp
def _linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`_affine` in x's dtype, whose gradients have the parameters'."""
    return _linear_forward(x, kernel, bias)[0]


def _linear_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    return _affine(x, kernel.astype(x.dtype), bias.astype(x.dtype)), (x, kernel)


def _linear_backward(residuals: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = residuals
    contracted = (x.ndim + kernel.ndim - cotangent.ndim) // 2
    of_x, of_kernel, of_bias = x.shape, kernel.shape, kernel.shape[contracted:]
    # As matrices: of arrays with more axes XLA for CPUs first copies one, transposed. Not where projections are
    # stacked: their heads, which several devices may share, are no leading axis of the features.
    if len(of_bias) <= 2:
        inputs, features = math.prod(of_kernel[:contracted]), math.prod(of_bias)
        x, kernel = x.reshape(-1, inputs), kernel.reshape(inputs, features)
        cotangent, contracted = cotangent.reshape(-1, features), 1
    rows = tuple(range(x.ndim - contracted))
    axes = tuple(range(len(rows), cotangent.ndim)), tuple(range(contracted, kernel.ndim))
    summed = functools.partial(jax.lax.dot_general, preferred_element_type=kernel.dtype)
    d_x = jax.lax.dot_general(cotangent, kernel.astype(x.dtype), (axes, ((), ())))
    d_kernel, d_bias = summed(x, cotangent, ((rows, rows), ((), ()))), cotangent.sum(axis=rows, dtype=kernel.dtype)
    return d_x.reshape(of_x), d_kernel.reshape(of_kernel), d_bias.reshape(of_bias)


_linear.defvjp(_linear_forward, _linear_backward)
