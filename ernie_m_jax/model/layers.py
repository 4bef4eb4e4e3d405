"""What the encoder and the heads share: linear maps, layer normalisation and GELU, with logical axis names."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import ComputeConfig, ModelConfig


def linear(
    config: ModelConfig,
    compute: ComputeConfig,
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    *,
    contracted: int = 1,
    bias_axes: tuple[str, ...],
) -> nn.DenseGeneral:
    """A linear map over the last `contracted` axes, truncated normal kernel and zero bias (paper.md: init 0.02).

    Args:
      config: `initializer_range`.
      compute: `dtype` of the product; parameters are fp32.
      features: the output's axes.
      axes: logical axis names of the kernel.
      contracted: how many trailing axes of the input are summed over.
      bias_axes: logical axis names of the bias.

    Returns:
      An unbound Linen module.
    """
    return nn.DenseGeneral(
        features=features,
        axis=tuple(range(-contracted, 0)),
        dtype=jnp.dtype(compute.dtype),
        param_dtype=jnp.float32,
        kernel_init=nn.with_logical_partitioning(nn.initializers.truncated_normal(config.initializer_range), axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), bias_axes),
    )


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in fp32, parameters "scale" and "bias" [H].

    Attributes:
      epsilon: added to the variance.
      dtype: of the result.
    """

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x` [..., H]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",)), shape)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros_init(), ("norm",)), shape)
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x times the normal distribution function, computed in fp32.

    `jax.nn.gelu` is the same function by way of erfc; erf is cheaper and, with the derivative below, the backward pass
    keeps `x` alone.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jax.lax.erf(x * np.float32(np.sqrt(0.5))))


@gelu.defjvp
def _gelu_jvp(primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    density = np.float32(1.0 / np.sqrt(2.0 * np.pi)) * jnp.exp(-0.5 * jnp.square(wide))
    slope = _normal_cdf(wide) + wide * density
    return gelu(x), (slope * tangent.astype(jnp.float32)).astype(x.dtype)
