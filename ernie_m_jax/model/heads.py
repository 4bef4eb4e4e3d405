"""Heads on the encoder's output: hidden states in, hidden states ready for the vocabulary or a sentence vector out."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.config_checks import HEADS
from ernie_m_jax.model.layers import LayerNorm, gelu
from ernie_m_jax.model.linear import Linear


def outputs(config: ModelConfig) -> int:
    """How many logits the head of `config.head` has."""
    return HEADS[config.head] or config.num_labels


def tokens_at(hidden: jax.Array, at: jax.Array) -> jax.Array:
    """Of `[B, L, ...]` what stands at token indices `[B, P]`, `[B, P, ...]`; an index past the end gives the last."""
    return jnp.take_along_axis(hidden, at.reshape(*at.shape, *(1,) * (hidden.ndim - 2)), axis=1, mode="clip")


def scored_first(hidden: jax.Array, labels: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Groups of `rows` rows, in each the positions with a label first.

    Args:
      hidden: [B, P, H], the hidden states at the positions to predict.
      labels: int32 [B, P]; negative is not scored.
      rows: of a group; divides B.

    Returns:
      [B / rows, rows * P, H] and the labels int32 [B / rows, rows * P].
    """
    labels = labels.reshape(-1, rows * labels.shape[1])
    order = jnp.argsort(labels < 0, axis=1, stable=True)
    grouped = hidden.reshape(*labels.shape, hidden.shape[-1])
    return tokens_at(grouped, order), tokens_at(labels, order)


class MlmHead(nn.Module):
    """The masked language model's head; its decoder is the word table.

    "dense": dense, exact GELU, LayerNorm before it (XLM-R's lm_head, BERT's cls.predictions); "plain": nothing (XLM).
    `bias` [V] is the decoder's bias; the product with the table is left to `loss`, which never holds it whole.
    """

    config: ModelConfig
    compute: ComputeConfig
    table_rows: int = 0
    mesh: jax.sharding.Mesh | None = None

    def setup(self) -> None:
        """Creates dense, layer_norm and the decoder's bias."""
        width = self.config.hidden_size
        if self.config.mlm_head == "dense":
            self.dense = Linear(self.config, self.compute, (width,), ("embed", "embed_out"), ("norm",))
            self.layer_norm = LayerNorm(self.config.layer_norm_eps, self.compute, self.mesh)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
        self.bias = self.param("bias", zeros, (self.table_rows or self.config.vocab_size,), jnp.float32)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., H] of positions to predict -> [..., H] to be multiplied with the word table."""
        return self.layer_norm(gelu(self.dense(hidden))) if self.config.mlm_head == "dense" else hidden


class Pooler(nn.Module):
    """The sentence vector: first token, dense, tanh."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self) -> None:
        """Creates dense."""
        width = self.config.hidden_size
        self.dense = Linear(self.config, self.compute, (width,), ("embed", "embed_out"), ("norm",))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [B, L, H] -> [B, H]."""
        return jnp.tanh(self.dense(hidden[:, 0]))
