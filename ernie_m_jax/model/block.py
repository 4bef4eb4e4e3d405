"""One layer of the encoder: hidden states and who sees whom in, hidden states out; and a stack of layers.

Post-LN: self-attention, dropout, add, LayerNorm, FFN, dropout, add, LayerNorm. Axes: B batch, L length, H width, P
tokens whose output is needed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.model.attention import KEPT, attention, fused_attention
from ernie_m_jax.model.dropout import Dropout
from ernie_m_jax.model.heads import tokens_at
from ernie_m_jax.model.kernels import platform
from ernie_m_jax.model.layers import LayerNorm, gelu
from ernie_m_jax.model.linear import Linear, affine
from ernie_m_jax.model.visibility import Codes

# What the backward pass keeps of a layer instead of computing it again: everything, the linear maps' outputs, the
# attention's output (with a fused kernel that spares its forward pass), both, nothing.
# "dots" leaves out products with a batch axis, so neither the attention's logits nor its output are kept.
_ATTENTION = jax.checkpoint_policies.save_only_these_names(KEPT)
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_REMAT_POLICIES = {
    "dots_attention": jax.checkpoint_policies.save_from_both_policies(_DOTS, _ATTENTION),
    "dots": _DOTS,
    "attention": _ATTENTION,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class SelfAttention(nn.Module):
    """Multi-head self-attention; each projection is [H, heads, head_dim]."""

    config: ModelConfig
    compute: ComputeConfig
    mesh: jax.sharding.Mesh | None = None

    def setup(self) -> None:
        """Creates query, key, value and output."""
        config, compute = self.config, self.compute
        heads = (config.num_heads, config.hidden_size // config.num_heads)
        axes = ("heads", "head_dim")
        key = self.make_rng("params") if config.key_init == "query" and self.is_initializing() else None
        same = None if key is None else lambda: key
        projection = functools.partial(Linear, config, compute, in_layers=True)
        self.query = projection(heads, ("embed", *axes), axes, rng=same)
        self.key = projection(heads, ("embed", *axes), axes, rng=same)
        self.value = projection(heads, ("embed", *axes), axes)
        self.output = projection((config.hidden_size,), (*axes, "embed"), ("norm",), contracted=2)

    def __call__(
        self, x: jax.Array, mask: jax.Array | Codes, deterministic: bool, at: jax.Array | None = None
    ) -> jax.Array:
        """Mixes `x` [B, L, H] under `mask`, bool [B, 1, L, L] or what the fused kernel takes (`attention.seen`).

        Returns:
          [B, L, H], or [B, P, H] of the tokens `at` [B, P].
        """
        rate = 0.0 if deterministic else self.config.attention_dropout
        rng = self.make_rng("dropout") if rate > 0.0 else None
        parts = (self.query, self.key, self.value)
        if not isinstance(mask, Codes):
            query, key, value = (part(x) for part in parts)
            options: dict[str, Any] = {
                "backend": "cudnn" if self.compute.attention == "cudnn" else "xla",
                "dropout_rate": rate,
                "dropout_rng": rng,
            }
            mixed_blhd = checkpoint_name(attention(query, key, value, mask, **options), KEPT)
        elif self.is_initializing():  # the parameters are made where the projections are called
            mixed_blhd = sum(part(x) for part in parts)
        else:
            projected = [part(x) for part in parts] if platform(self.mesh) == "tpu" else [self._stacked(x, parts)]
            mixed_blhd = fused_attention(projected, mask, mesh=self.mesh, dropout_rate=rate, dropout_rng=rng)
        return self.output(mixed_blhd if at is None else tokens_at(mixed_blhd, at))

    def _stacked(self, x: jax.Array, parts: Sequence[nn.Module]) -> jax.Array:
        """The projections of `x` [B, L, H] in one product, [B, L, 3, heads, head_dim]."""
        params = [{name: part.get_variable("params", name) for name in ("kernel", "bias")} for part in parts]
        if missing := [part.name for part, own in zip(parts, params, strict=True) if None in own.values()]:
            raise ValueError(f"the parameters have no kernel or bias of {'/'.join(self.path)}/{missing[0]}")
        kernel, bias = (
            jnp.stack([own[name] for own in nn.meta.unbox(params)], axis=axis)
            for name, axis in (("kernel", 1), ("bias", 0))
        )
        return affine(x, kernel, bias, self.compute, in_layers=True)


class FeedForward(nn.Module):
    """Dense, exact GELU, dense; no dropout inside."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self) -> None:
        """Creates intermediate and output."""
        config, compute = self.config, self.compute
        dense = functools.partial(Linear, config, compute, in_layers=True)
        self.intermediate = dense((config.ffn_size,), ("embed", "ffn"), ("ffn",))
        self.output = dense((config.hidden_size,), ("ffn", "embed"), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, H] -> [B, L, H]."""
        return self.output(gelu(self.intermediate(x)))


class Layer(nn.Module):
    """One post-LN layer; residual sums are taken in fp32, inside the LayerNorm that follows."""

    config: ModelConfig
    compute: ComputeConfig
    mesh: jax.sharding.Mesh | None = None

    def setup(self) -> None:
        """Creates attention, ffn, their layer norms and dropouts."""
        self.attention = SelfAttention(self.config, self.compute, self.mesh)
        self.attention_layer_norm = LayerNorm(self.config.layer_norm_eps, self.compute, self.mesh)
        self.ffn = FeedForward(self.config, self.compute)
        self.ffn_layer_norm = LayerNorm(self.config.layer_norm_eps, self.compute, self.mesh)
        self.dropout = Dropout(self.config.hidden_dropout)

    def __call__(
        self, x: jax.Array, mask: jax.Array | Codes, deterministic: bool, keep: bool, at: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """The layer's output [B, L, H], or [B, P, H] of the tokens `at` [B, P] alone.

        Returns:
          The output, and once more if `keep`, in the form that `nn.scan` stacks.
        """
        mixed = self.dropout(self.attention(x, mask, deterministic, at), deterministic=deterministic)
        x = self.attention_layer_norm(x if at is None else tokens_at(x, at), mixed)
        widened = self.dropout(self.ffn(x), deterministic=deterministic)
        x = self.ffn_layer_norm(x, widened)
        return x, x if keep else None


def layer_class(compute: ComputeConfig, in_loop: bool) -> Any:
    """`Layer` with the backward pass of `compute.remat`, by itself or inside a compiled loop over layers."""
    if compute.remat == "none":
        return Layer
    return nn.remat(
        Layer,
        policy=_REMAT_POLICIES[compute.remat],
        # Inside a loop the barrier against common subexpression elimination is not needed and costs time.
        prevent_cse=not in_loop,
        static_argnums=(3, 4),  # deterministic, keep; 0 is the module
    )


def stacked_layers(compute: ComputeConfig, count: int, mesh: jax.sharding.Mesh | None = None) -> Any:
    """`count` layers one after the other, of which each parameter is one array.

    On GPUs the compiler sees all of them, elsewhere a loop. A loop keeps what the backward pass needs in arrays of all
    layers, into which a GPU copies each layer's and out again (`benchmarks/RESULTS.md` has the bytes). The numbers,
    dropout's too, are the same.
    """
    unrolled = platform(mesh) == "gpu"
    return nn.scan(
        layer_class(compute, in_loop=not unrolled),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
        length=count,
        unroll=count if unrolled else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
