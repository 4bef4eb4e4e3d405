"""Heads on the encoder's output: hidden states in, hidden states ready for the vocabulary or a sentence vector out."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.config_checks import HEADS
from ernie_m_jax.model.layers import LayerNorm, gelu, linear


def outputs(config: ModelConfig) -> int:
    """How many logits the head of `config.head` has."""
    return HEADS[config.head] or config.num_labels


def gather(hidden: jax.Array, at: jax.Array) -> jax.Array:
    """Hidden states `[B, L, H]` at token indices `[B, P]`, as `[B * P, H]`; an index past the end gives the last."""
    picked = jnp.take_along_axis(hidden, at[:, :, None], axis=1, mode="clip")
    return picked.reshape(-1, hidden.shape[-1])


def gather_scored(hidden: jax.Array, at: jax.Array, labels: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Hidden states at the positions to predict, those with a label first, in groups of `rows` rows.

    Args:
      hidden: [B, L, H].
      at: int32 [B, P] token indices; one past the end gives the last token.
      labels: int32 [B, P]; negative is not scored.
      rows: of a group; divides B.

    Returns:
      [B / rows, rows * P, H] and the labels int32 [B / rows, rows * P].
    """
    length, width = hidden.shape[1:]
    start = jnp.arange(rows, dtype=at.dtype)[:, None] * length
    at = (jnp.clip(at, 0, length - 1).reshape(-1, rows, at.shape[1]) + start).reshape(-1, rows * at.shape[1])
    labels = labels.reshape(at.shape)
    order = jnp.argsort(labels < 0, axis=1, stable=True)
    at, labels = (jnp.take_along_axis(array, order, axis=1) for array in (at, labels))
    picked = jnp.take_along_axis(hidden.reshape(-1, rows * length, width), at[:, :, None], axis=1, mode="clip")
    return picked, labels


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
            self.dense = linear(self.config, self.compute, width, ("embed", "embed_out"), bias_axes=("norm",))
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
        self.dense = linear(self.config, self.compute, width, ("embed", "embed_out"), bias_axes=("norm",))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [B, L, H] -> [B, H]."""
        return jnp.tanh(self.dense(hidden[:, 0]))
