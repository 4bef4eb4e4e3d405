"""What the encoder and the heads share besides linear maps: layer normalisation and GELU."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import ComputeConfig
from ernie_m_jax.model.fused_layer_norm import fused_layer_norm
from ernie_m_jax.model.kernels import layer_norm_kernel, platform
from ernie_m_jax.model.split import POSITIONS, WHOLE, split_of


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in fp32, parameters "scale" and "bias" [H].

    Attributes:
      epsilon: added to the variance.
      compute: `dtype` of the result; `layer_norm`, how it is computed.
      mesh: the devices among which the vectors are divided by their first axis; None: one.
    """

    epsilon: float
    compute: ComputeConfig
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x: jax.Array, added: jax.Array | None = None) -> jax.Array:
        """Normalises `x` [..., H], or the sum of `x` and `added`, which is taken in fp32."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",)), shape)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros_init(), ("norm",)), shape)
        terms = (x,) if added is None else (x, added)
        split = split_of(self.mesh)
        if layer_norm_kernel(self.compute, self.mesh) != "fused" or x.shape[0] % split.parts:
            return layer_norm(terms, scale, bias, self.epsilon, self.compute.dtype)
        interpret = platform(self.mesh) == "other"

        def fused(terms: tuple[jax.Array, ...], scale: jax.Array, bias: jax.Array) -> jax.Array:
            flat = tuple(term.reshape(-1, x.shape[-1]) for term in terms)
            out = fused_layer_norm(flat, scale, bias, self.epsilon, self.compute.dtype, interpret)
            return out.reshape(terms[0].shape)

        inputs = ((POSITIONS,) * len(terms), WHOLE, WHOLE)
        return split.on_devices(fused, inputs, POSITIONS)(terms, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    terms: tuple[jax.Array, ...], scale: jax.Array, bias: jax.Array, epsilon: float, dtype: str
) -> jax.Array:
    """Layer normalisation of the sum of `terms`, [..., H] each, in fp32.

    The backward pass keeps the terms in their own dtype and two numbers per vector, where differentiating the formula
    would keep fp32 arrays.
    """
    return _layer_norm_forward(terms, scale, bias, epsilon, dtype)[0]


def _sum(terms: tuple[jax.Array, ...]) -> jax.Array:
    return functools.reduce(jnp.add, (term.astype(jnp.float32) for term in terms))


def _layer_norm_forward(
    terms: tuple[jax.Array, ...], scale: jax.Array, bias: jax.Array, epsilon: float, dtype: str
) -> tuple[jax.Array, tuple[Any, ...]]:
    total = _sum(terms)
    mean = total.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(total - mean).mean(axis=-1, keepdims=True) + epsilon)
    out = ((total - mean) * inverse * scale + bias).astype(dtype)
    return out, (terms, scale, mean, inverse)


def _layer_norm_backward(
    epsilon: float, dtype: str, residuals: tuple[Any, ...], cotangent: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    terms, scale, mean, inverse = residuals
    cotangent = cotangent.astype(jnp.float32)
    normal = (_sum(terms) - mean) * inverse
    scaled = cotangent * scale
    along = (scaled * normal).mean(axis=-1, keepdims=True)
    d_total = inverse * (scaled - scaled.mean(axis=-1, keepdims=True) - normal * along)
    tokens = tuple(range(cotangent.ndim - 1))
    d_terms = tuple(d_total.astype(term.dtype) for term in terms)
    return d_terms, (cotangent * normal).sum(axis=tokens), cotangent.sum(axis=tokens)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x times the normal distribution function, computed in fp32.

    `jax.nn.gelu` is the same function by way of erfc; erf is cheaper. It has no forward-mode derivative. The backward
    pass keeps one array of the size of `x`: in 32 bits the derivative, which costs little beside the value, in fewer
    `x`, of which the derivative would be twice the size.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jax.lax.erf(x * np.float32(np.sqrt(0.5))))


def _gelu_slope(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    density = np.float32(1.0 / np.sqrt(2.0 * np.pi)) * jnp.exp(-0.5 * jnp.square(wide))
    return _normal_cdf(wide) + wide * density


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), _gelu_slope(x) if x.dtype == jnp.float32 else x


def _gelu_backward(kept: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    slope = kept if kept.dtype == jnp.float32 else _gelu_slope(kept)
    return ((slope * cotangent.astype(jnp.float32)).astype(kept.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)
