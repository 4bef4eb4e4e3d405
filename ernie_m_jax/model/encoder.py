"""The ERNIE-M encoder: token-level integers in, hidden states out, with the heads that every objective shares.

A post-LN Transformer encoder, the architecture of XLM-R (Ouyang et al. 2021, arXiv 2012.15674): embeddings ->
LayerNorm -> dropout -> layers of (self-attention, dropout, add, LayerNorm, FFN, dropout, add, LayerNorm). BERT and XLM
are the same encoder with other values of `ModelConfig`: first position, token types, languages, word head, epsilon.
Axes: B batch, L length, H width, N positions to predict.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax import config_fields, sharding
from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.config_checks import HEADS
from ernie_m_jax.model import generation, loss, vocabulary
from ernie_m_jax.model.attention import seen
from ernie_m_jax.model.block import layer_class, stacked_layers
from ernie_m_jax.model.dropout import Dropout
from ernie_m_jax.model.embeddings import Embeddings, Inputs
from ernie_m_jax.model.heads import MlmHead, Pooler, outputs, tokens_at
from ernie_m_jax.model.kernels import attention_backend, keeps_logits
from ernie_m_jax.model.linear import Linear
from ernie_m_jax.model.split import split_of
from ernie_m_jax.model.visibility import Codes


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
        if compute.scan_layers:
            self.layers: Any = stacked_layers(compute, config.num_layers, self.mesh)(config, compute, self.mesh)
        else:
            layer = layer_class(compute, in_loop=False)
            self.layers = [layer(config, compute, self.mesh) for _ in range(config.num_layers)]
        if config.mlm_head != "none":
            self.mlm_head = MlmHead(config, compute, self.table_rows, self.mesh)
        if config.pooler:
            self.pooler = Pooler(config, compute)
        if config.head != "none":
            self.head = Linear(config, compute, (outputs(config),), ("embed", "labels"), ("labels",))

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
        self,
        inputs: Inputs,
        table: np.ndarray,
        *,
        deterministic: bool = True,
        all_layers: bool = False,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """Encodes packed rows.

        Args:
          inputs: int32 [B, L] each.
          table: bool [R, R], static; see `visibility`.
          deterministic: without dropout; otherwise `apply` needs `rngs={"dropout": key}`.
          all_layers: return the embedding output and every layer's output.
          at: int32 [B, P], the tokens whose hidden states are needed, from 0; one past the end gives the last. What the
            last layer computes of a token after attention, no other token sees, so it is computed for these alone.

        Returns:
          In `compute.dtype` [B, L, H], or [B, P, H] of the tokens `at`, or [num_layers + 1, B, L, H] if `all_layers`.

        Raises:
          ValueError: `at` with `all_layers`, or for another number of rows.
        """
        if at is not None and all_layers:
            raise ValueError("all_layers returns every token, so at must be None")
        if at is not None and at.shape[0] != inputs.ids.shape[0]:
            raise ValueError(f"at has tokens of {at.shape[0]} rows, the inputs have {inputs.ids.shape[0]}")
        backend = attention_backend(self.compute, self.config, self.mesh, inputs.ids.shape[1])
        mask = seen(inputs.segments, inputs.roles, table, backend)
        embedded = self._by_rows(self.perturb("input_embeddings", self.embeddings(inputs)))
        x = self.embedding_dropout(self.embeddings.layer_norm(embedded), deterministic=deterministic)
        if self.compute.scan_layers:
            if at is not None and not self.is_initializing():
                return self._by_rows(self._stacked_at(x, mask, deterministic, at))
            last, kept = self.layers(x, mask, deterministic, all_layers)
            if at is not None:
                last = tokens_at(last, at)
            return jnp.concatenate([x[None], kept]) if all_layers else self._by_rows(last)
        outputs = [x]
        for layer in self.layers[:-1]:
            outputs.append(layer(outputs[-1], mask, deterministic, all_layers)[0])
        outputs.append(self.layers[-1](outputs[-1], mask, deterministic, all_layers, at)[0])
        return jnp.stack(outputs) if all_layers else self._by_rows(outputs[-1])

    def _stacked_at(self, x: jax.Array, mask: jax.Array | Codes, deterministic: bool, at: jax.Array) -> jax.Array:
        """The stacked layers but the last, and the last by itself; where they are a loop its parameters are a copy."""
        config, compute, before = self.config, self.compute, self.config.num_layers - 1
        params = nn.meta.unbox(self.layers.variables.get("params", {}))
        if (found := {leaf.shape[0] for leaf in jax.tree.leaves(params)}) != {before + 1}:
            there = f"stacks of {', '.join(map(str, sorted(found)))}" if found else "none"
            raise ValueError(f"compute.scan_layers takes parameters of {before + 1} layers stacked; there are {there}")

        def run(kind: type[nn.Module], part: int | slice, x: jax.Array, *tokens: jax.Array) -> jax.Array:
            rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
            own = {"params": jax.tree.map(lambda stacked: stacked[part], params)}
            return kind(config, compute, self.mesh, parent=None).apply(
                own, x, mask, deterministic, False, *tokens, rngs=rngs
            )[0]

        if before:
            x = run(stacked_layers(compute, before, self.mesh), slice(before), x)
        return run(layer_class(compute, in_loop=False), before, x, at)

    def _by_rows(self, x: jax.Array) -> jax.Array:
        return x if self.mesh is None else jax.lax.with_sharding_constraint(x, sharding.batch_sharding(self.mesh))

    def score(self, hidden: jax.Array, labels: jax.Array, room: int = 0) -> loss.Scores:
        """Scores positions to predict with the masked language model head.

        Called in the same `apply` as `encode` (`masking.prediction_sums`), several devices exchange the word table's
        gradient once; in another, twice.

        Args:
          hidden: [..., H], the encoder's output at those positions.
          labels: int32 [...]; negative is not scored.
          room: as in `loss.vocabulary_cross_entropy`, for positions in groups.

        Returns:
          Scores: negative log-likelihood f32 [...] in nats (0 where not scored) and correct bool [...].
        """
        compute, devices = self.compute, (split_of(self.mesh), vocabulary.words_axis(self.mesh))
        x, _, bias = self._predicted(hidden)
        table = self.embeddings.word_copies()
        return loss.vocabulary_cross_entropy(
            x, table, bias, labels, compute.vocab_chunk, room, keeps_logits(compute, self.mesh), *devices
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
        devices = (split_of(self.mesh), vocabulary.words_axis(self.mesh))
        if temperature == 0.0:
            return generation.vocabulary_argmax(*arguments, *devices)
        if rng is None:
            raise ValueError(f"temperature {temperature} samples and needs a key, got rng=None")
        return generation.vocabulary_sample(*arguments, rng, temperature, *devices)

    def predict(self, hidden: jax.Array) -> jax.Array:
        """The masked language model's logits, f32 [N, V], of the encoder's output [N, H]; for a few positions only."""
        x, table, bias = self._predicted(hidden)
        axis = vocabulary.words_axis(self.mesh)
        logits = vocabulary.products(x, table.astype(x.dtype), axis)
        return ((logits if axis else logits.T) + bias)[:, : self.config.vocab_size]

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
