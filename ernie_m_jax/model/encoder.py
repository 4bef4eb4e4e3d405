"""The ERNIE-M encoder: token-level integers in, hidden states out, with the heads that every objective shares.

A post-LN Transformer encoder, the architecture of XLM-R (Ouyang et al. 2021, arXiv 2012.15674): embeddings ->
LayerNorm -> dropout -> layers of (self-attention, dropout, add, LayerNorm, FFN, dropout, add, LayerNorm). BERT and XLM
are the same encoder with other values of `ModelConfig`: first position, token types, languages, word head, epsilon.
Axes: B batch, L length, H width, N positions to predict.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ernie_m_jax import config_fields, sharding
from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.config_checks import HEADS
from ernie_m_jax.model import float8, generation, loss, vocabulary
from ernie_m_jax.model.attention import KEPT, attention, fused_attention, seen
from ernie_m_jax.model.dropout import Dropout
from ernie_m_jax.model.embeddings import Embeddings, Inputs
from ernie_m_jax.model.heads import MlmHead, Pooler, outputs
from ernie_m_jax.model.kernels import attention_backend, platform
from ernie_m_jax.model.layers import LayerNorm, gelu, linear
from ernie_m_jax.model.split import split_of
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
        same = self.make_rng("params") if config.key_init == "query" and self.is_initializing() else None
        projection = functools.partial(linear, config, compute, float8=compute.float8)
        self.query = projection(heads, ("embed", *axes), bias_axes=axes, rng=same)
        self.key = projection(heads, ("embed", *axes), bias_axes=axes, rng=same)
        self.value = projection(heads, ("embed", *axes), bias_axes=axes)
        self.output = projection(config.hidden_size, (*axes, "embed"), contracted=2, bias_axes=("norm",))

    def __call__(self, x: jax.Array, mask: jax.Array | Codes, deterministic: bool) -> jax.Array:
        """Mixes `x` [B, L, H] under `mask`, bool [B, 1, L, L] or what the fused kernel takes (`attention.seen`)."""
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
        return self.output(mixed_blhd)

    def _stacked(self, x: jax.Array, parts: Sequence[nn.Module]) -> jax.Array:
        """The projections of `x` [B, L, H] in one product, [B, L, 3, heads, head_dim]."""
        dtype = jnp.dtype(self.compute.dtype)
        params = [{name: part.get_variable("params", name) for name in ("kernel", "bias")} for part in parts]
        if missing := [part.name for part, own in zip(parts, params, strict=True) if None in own.values()]:
            raise ValueError(f"the parameters have no kernel or bias of {'/'.join(self.path)}/{missing[0]}")
        kernel, bias = (
            jnp.stack([own[name] for own in nn.meta.unbox(params)], axis=axis).astype(dtype)
            for name, axis in (("kernel", 1), ("bias", 0))
        )
        x = x.astype(dtype)
        if self.compute.float8:
            return float8.dot_general(x, kernel, (((2,), (0,)), ((), ()))) + bias
        return jnp.einsum("blh,hpnd->blpnd", x, kernel) + bias


class FeedForward(nn.Module):
    """Dense, exact GELU, dense; no dropout inside."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self) -> None:
        """Creates intermediate and output."""
        config, compute = self.config, self.compute
        dense = functools.partial(linear, config, compute, float8=compute.float8)
        self.intermediate = dense(config.ffn_size, ("embed", "ffn"), bias_axes=("ffn",))
        self.output = dense(config.hidden_size, ("ffn", "embed"), bias_axes=("norm",))

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
        self, x: jax.Array, mask: jax.Array | Codes, deterministic: bool, keep: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the layer's output [B, L, H], and once more if `keep`, in the form that `nn.scan` stacks."""
        mixed = self.dropout(self.attention(x, mask, deterministic), deterministic=deterministic)
        x = self.attention_layer_norm(x, mixed)
        widened = self.dropout(self.ffn(x), deterministic=deterministic)
        x = self.ffn_layer_norm(x, widened)
        return x, x if keep else None


class ErnieM(nn.Module):
    """The encoder with the heads that are configured: masked language model, pooler, a fine-tuning task's.

    Parameters are those of `model.init(key, inputs, table)["params"]`, boxed with logical axis names
    (`flax.linen.meta.unbox` opens them). `init` also returns a "perturbations" collection, to be left out.
    To differentiate with respect to the embedding sum of each token, before the embedding LayerNorm, pass
    `{"params": params, "perturbations": {"input_embeddings": zeros f32 [B, L, H]}}` to `apply`; without that collection
    the hook does nothing.

    Attributes:
      mesh: the devices over which the rows [B, ...] of a batch are spread, and the vocabulary's loss and generation
        with them (`split`). None leaves it to the compiler, and is for one device where a kernel of ours computes. Told
        nothing, XLA takes over the sharding of the tables' width (fsdp): each device then computes a part of the width
        of all rows, and activations are exchanged in every layer instead of parameters.
      table_rows: rows of the word table and of the decoder's bias, where devices hold more than there are words
        (`sharding.table_rows`): zeros that no token is and that are never predicted. 0: a row per word.
    """

    config: ModelConfig
    compute: ComputeConfig
    mesh: jax.sharding.Mesh | None = None
    table_rows: int = 0

    def setup(self) -> None:
        """Creates embeddings, layers (one stacked module, or layers_0, layers_1, ...), mlm_head, pooler and head."""
        config, compute = self.config, self.compute
        config_fields.check(config, "config.model")
        config_fields.check(compute, "config.compute")
        self.embeddings = Embeddings(config, compute, self.table_rows, self.mesh)
        self.embedding_dropout = Dropout(config.hidden_dropout)
        layer: Any = Layer
        if compute.remat != "none":
            # Inside scan the barrier against common subexpression elimination is not needed and costs time.
            layer = nn.remat(
                Layer,
                policy=_REMAT_POLICIES[compute.remat],
                prevent_cse=not compute.scan_layers,
                static_argnums=(3, 4),  # deterministic, keep; 0 is the module
            )
        if compute.scan_layers:
            self.layers = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
                length=config.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(config, compute, self.mesh)
        else:
            self.layers = [layer(config, compute, self.mesh) for _ in range(config.num_layers)]
        if config.mlm_head != "none":
            self.mlm_head = MlmHead(config, compute, self.table_rows, self.mesh)
        if config.pooler:
            self.pooler = Pooler(config, compute)
        if config.head != "none":
            self.head = linear(config, compute, outputs(config), ("embed", "labels"), bias_axes=("labels",))

    def __call__(self, inputs: Inputs, table: np.ndarray) -> jax.Array:
        """Touches every parameter, for `init`; returns what `encode` returns."""
        hidden = self.encode(inputs, table)
        if self.config.mlm_head != "none":
            self.mlm_head(hidden[:, :1])
        if self.config.pooler:
            self.pooler(hidden)
        if self.config.head != "none":
            self.head(hidden)
        return hidden

    def encode(
        self, inputs: Inputs, table: np.ndarray, *, deterministic: bool = True, all_layers: bool = False
    ) -> jax.Array:
        """Encodes packed rows.

        Args:
          inputs: int32 [B, L] each.
          table: bool [R, R], static; see `visibility`.
          deterministic: without dropout; otherwise `apply` needs `rngs={"dropout": key}`.
          all_layers: return the embedding output and every layer's output.

        Returns:
          [B, L, H] in `compute.dtype`, or [num_layers + 1, B, L, H] if `all_layers`.
        """
        backend = attention_backend(self.compute, self.config, self.mesh, inputs.ids.shape[1])
        mask = seen(inputs.segments, inputs.roles, table, backend)
        embedded = self._by_rows(self.perturb("input_embeddings", self.embeddings(inputs)))
        x = self.embedding_dropout(self.embeddings.layer_norm(embedded), deterministic=deterministic)
        if self.compute.scan_layers:
            last, kept = self.layers(x, mask, deterministic, all_layers)
            return jnp.concatenate([x[None], kept]) if all_layers else self._by_rows(last)
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], mask, deterministic, all_layers)[0])
        return jnp.stack(outputs) if all_layers else self._by_rows(outputs[-1])

    def _by_rows(self, x: jax.Array) -> jax.Array:
        return x if self.mesh is None else jax.lax.with_sharding_constraint(x, sharding.batch_sharding(self.mesh))

    def score(self, hidden: jax.Array, labels: jax.Array, room: int = 0) -> loss.Scores:
        """Scores positions to predict with the masked language model head.

        Args:
          hidden: [..., H], the encoder's output at those positions.
          labels: int32 [...]; negative is not scored.
          room: as in `loss.vocabulary_cross_entropy`, for positions in groups.

        Returns:
          Scores: negative log-likelihood f32 [...] in nats (0 where not scored) and correct bool [...].
        """
        compute = self.compute
        return loss.vocabulary_cross_entropy(
            *self._predicted(hidden), labels, compute.vocab_chunk, room, compute.keep_logits, split_of(self.mesh)
        )

    def generate(
        self, hidden: jax.Array, rng: jax.Array | None, temperature: float, never: tuple[int, ...] = ()
    ) -> generation.Generated:
        """Writes a token at each position: the most probable one, or a draw.

        Args:
          hidden: [N, H], the encoder's output at those positions.
          rng: a PRNG key; may be None if `temperature` is 0.
          temperature: 0 for the most probable token, otherwise that of the softmax.
          never: ids that are not written, such as the special tokens'; their probability counts as 0.

        Returns:
          Generated: ids int32 [N] and log-probabilities f32 [N] at temperature 1.

        Raises:
          ValueError: if `temperature` is negative, or positive without a key.
        """
        x, table, bias = self._predicted(hidden)
        arguments = (x, table, vocabulary.without(bias, never), self.compute.vocab_chunk)
        if temperature == 0.0:
            return generation.vocabulary_argmax(*arguments, split=split_of(self.mesh))
        if rng is None:
            raise ValueError(f"temperature {temperature} samples and needs a key, got rng=None")
        return generation.vocabulary_sample(*arguments, rng, temperature, split_of(self.mesh))

    def predict(self, hidden: jax.Array) -> jax.Array:
        """The masked language model's logits, f32 [N, V], of the encoder's output [N, H]; for a few positions only."""
        x, table, bias = self._predicted(hidden)
        logits = jnp.einsum("nh,vh->nv", x, table.astype(x.dtype), preferred_element_type=jnp.float32) + bias
        return logits[:, : self.config.vocab_size]

    def _predicted(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What `loss` takes: hidden states after the head's own layers, the decoder's table [V, H] and bias [V].

        V counts the rows behind the words as well, which have no probability.
        """
        if self.config.mlm_head == "none":
            raise ValueError("model.mlm_head is 'none'; score, generate and predict need 'dense' or 'plain'")
        bias = vocabulary.only_words(self.mlm_head.bias, self.config.vocab_size)
        return self.mlm_head(hidden), self.embeddings.word, bias

    def pool(self, hidden: jax.Array) -> jax.Array:
        """The sentence vector [B, H] of the encoder's output [B, L, H]: first token, dense, tanh.

        Raises:
          ValueError: if the model has no pooler.
        """
        if not self.config.pooler:
            raise ValueError("model.pooler is False; pool needs True")
        return self.pooler(hidden)

    def classify(self, hidden: jax.Array) -> jax.Array:
        """The fine-tuning head's logits, in `compute.dtype`.

        Args:
          hidden: what the head takes: pooled vectors [B, H] (`pool`; dropout, where a task has it,
            between the two) for sequence_classification and multiple_choice, the encoder's output [B, L, H] otherwise.

        Returns:
          [..., outputs]: a logit per label; one for multiple_choice; start and end for the two span heads (for
          information_extraction their sigmoids are the probabilities).

        Raises:
          ValueError: if the model has no head.
        """
        if self.config.head == "none":
            raise ValueError(f"model.head is 'none'; classify needs one of {', '.join(HEADS)}")
        return self.head(hidden)
