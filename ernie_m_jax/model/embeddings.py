"""The encoder's inputs and their embeddings: token-level integers in, the sum of the tables' rows out.

Axes: B batch, L length, H width.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.model import vocabulary
from ernie_m_jax.model.layers import LayerNorm
from ernie_m_jax.model.lookup import lookup
from ernie_m_jax.model.split import split_of


class Inputs(NamedTuple):
    """The encoder's inputs, each int32 [B, L].

    Attributes:
      ids: rows of the word table.
      positions: 0-based within the example; the encoder adds `model.first_position`.
      segments: which example of a packed row, from 1; 0 is padding.
      roles: the token's row and column in the objective's visibility table.
      languages: 0 for no language embedding at this token, k for row k - 1 of the language table.
      token_types: rows of the token type table, where the model has one; None is 0 everywhere.
    """

    ids: jax.Array
    positions: jax.Array
    segments: jax.Array
    roles: jax.Array
    languages: jax.Array
    token_types: jax.Array | None = None

    @classmethod
    def of(cls, batch: Mapping[str, jax.Array]) -> "Inputs":
        """The inputs among a batch's arrays, by name; `token_types` may be missing."""
        return cls(**{name: batch[name] for name in cls._fields if name in batch or name not in cls._field_defaults})


class Embeddings(nn.Module):
    """The tables and the embedding LayerNorm."""

    config: ModelConfig
    compute: ComputeConfig
    table_rows: int = 0
    mesh: jax.sharding.Mesh | None = None

    def setup(self) -> None:
        """Creates word, position, language and token_type (if any) and layer_norm.

        `word_copies()` is what look-up and loss take of the word table: one array, so its gradient is added up once.
        """
        words = self.config.vocab_size
        normal = nn.initializers.truncated_normal(self.config.initializer_range)
        self.word = self._parameter("word", "vocab", self.table_rows or words, vocabulary.padded(normal, words))
        self.word_copies = functools.cache(lambda: split_of(self.mesh).copies(self.word))
        self.position = self._table("position", "position", self.config.max_positions, self.config.position_init)
        if self.config.language_embedding != "none":
            self.language = self._table("language", "language", self.config.num_languages)
        if self.config.num_token_types:
            self.token_type = self._table("token_type", "token_type", self.config.num_token_types)
        self.layer_norm = LayerNorm(self.config.layer_norm_eps, self.compute, self.mesh)

    def _table(self, name: str, axis: str, rows: int, init: str = "normal") -> jax.Array:
        spread = self.config.initializer_range
        return self._parameter(
            name, axis, rows, nn.initializers.truncated_normal(spread) if init == "normal" else _sinusoids(spread)
        )

    def _parameter(self, name: str, axis: str, rows: int, initializer: jax.nn.initializers.Initializer) -> jax.Array:
        shape = (rows, self.config.hidden_size)
        return self.param(name, nn.with_logical_partitioning(initializer, (axis, "embed")), shape, jnp.float32)

    def __call__(self, inputs: Inputs) -> jax.Array:
        """The sum of the embeddings, f32 [B, L, H], before LayerNorm; an index outside a table gives NaN."""
        split = split_of(self.mesh)
        x = lookup(self.word_copies(), inputs.ids, self.config.vocab_size, split, by_word=True)
        positions = inputs.positions + self.config.first_position
        x += lookup(self.position, positions, len(self.position), split)
        if self.config.num_token_types:
            types = jnp.zeros_like(inputs.ids) if inputs.token_types is None else inputs.token_types
            x += lookup(self.token_type, types, len(self.token_type), split)
        if self.config.language_embedding == "none":
            return x
        language = lookup(self.language, jnp.maximum(inputs.languages - 1, 0), len(self.language), split)
        return x + jnp.where(inputs.languages[..., None] > 0, language, 0.0)


def _sinusoids(spread: float) -> jax.nn.initializers.Initializer:
    """Sines and cosines of the row's number at wavelengths from 2 pi to 20,000 pi, of standard deviation `spread`."""

    def initializer(key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        del key, out_sharding
        rows, width = shape
        rates = 10_000.0 ** (-np.arange((width + 1) // 2) * 2.0 / width)
        angles = np.arange(rows)[:, None] * rates
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(rows, -1)[:, :width]
        return jnp.asarray(spread * np.sqrt(2.0) * table, dtype or jnp.float32)

    return initializer
