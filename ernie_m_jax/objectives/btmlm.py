"""BTMLM, back-translation masked language modelling: align languages with monolingual text alone.

Stage 1: the current weights write, in one parallel pass and under stop-gradient, pseudo tokens of another language into
placeholders behind a monolingual sentence. Stage 2: masked words of the sentence are restored from it and the pseudo
tokens; only this is trained. Both happen in the same compiled step (paper section 3.3, Figure 3; the decisions that the
paper leaves open stand in docs/design.md).
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_fields import between, one_of
from ernie_m_jax.data import layout, mixture
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.data.records import split_pair
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.objectives import btmlm_batch, masking
from ernie_m_jax.task import Batch, Example, Group, Record, Sources, Spec, Sums, Task, TaskKeys

# Stage 1 of BTMLM (paper, Figure 3): placeholders see the source and each other, the source sees itself.
SOURCE, PLACEHOLDER = range(2)
GENERATION = np.array(
    [
        # source, placeholder (key)
        [True, False],  # source (query)
        [True, True],  # placeholder
    ]
)

# Stage 2 with `restore_from` "pseudo": a masked word sees the pseudo tokens and the other masks, as CAMLM's slots see
# the other sentence; the source's words, whose vectors nothing else then uses, see themselves.
MASKED = 2
FROM_PSEUDO = np.array(
    [
        # source, pseudo token, masked source word (key)
        [True, False, False],  # source (query)
        [False, True, False],  # pseudo token
        [False, True, True],  # masked source word
    ]
)


@dataclasses.dataclass(frozen=True)
class BTMLMConfig(TaskKeys):
    """Keys of `config.objectives.btmlm`; see `configs/base.py`."""

    mask_ratio: float = field(metadata=between(0.01, 1))
    length_ratio: float = field(metadata=between(0.1, 4))
    temperature: float = field(metadata=between(0))
    passes: int = field(metadata=between(1, 100))
    join_to_characters: int = field(metadata=between(0))
    restore_from: str = field(default="both", metadata=one_of("both", "pseudo"))
    pseudo: str = field(default="own", metadata=one_of("own", "shuffled", "other"))
    confidence_threshold: float = field(default=0.0, metadata=between(0, 1))


class PseudoTokens(NamedTuple):
    """What stage 1 wrote: `ids` and `log_probs` `[B, G]`, an entry per placeholder (or padding)."""

    ids: jax.Array
    log_probs: jax.Array


def records(cfg: Config, keys: BTMLMConfig, sources: Sources) -> dict[str, Group]:
    """Monolingual text, an entry `source>target` per direction.

    The target language is one that the parallel data pairs with the source language, drawn with the sampling exponent.

    Raises:
      ConfigError: no parallel data has the language of any monolingual text.
    """
    pair_sizes = {name: len(records) for name, records in sources.parallel().items()}
    text = sources.monolingual(keys.join_to_characters)
    source_weights = mixture.weights({name: len(records) for name, records in text.items()}, cfg.data.sampling_exponent)
    groups = {}
    for source, sequence in text.items():
        sizes: dict[str, int] = {}
        for pair, size in pair_sizes.items():
            sides = split_pair(pair, cfg.languages)
            if source in sides:
                target = sides[1 - sides.index(source)]
                sizes[target] = sizes.get(target, 0) + size
        for target, weight in mixture.weights(sizes, cfg.data.sampling_exponent).items():
            groups[f"{source}>{target}"] = Group(
                mixture.WithLanguages(sequence, (source, target)), source_weights[source] * weight
            )
    if not groups:
        raise ConfigError(
            f"btmlm has no language to write: config.data.parallel pairs {sorted(pair_sizes)}, "
            f"config.data.monolingual holds {sorted(text)}"
        )
    return groups


def examples(record: Record, tokenizer: Any, cfg: Config, keys: BTMLMConfig, rng: np.random.Generator) -> list[Example]:
    """For each window of the text, `CLS source SEP SEP placeholders SEP`."""
    made = []
    for source in masking.windows(layout.token_ids(record, 0, tokenizer), word_budget(cfg, keys), rng):
        made += source_and_placeholders(source, record, tokenizer, cfg, keys, rng)
    return made


def batched(
    records: Sequence[Record], tokenizer: Any, cfg: Config, keys: BTMLMConfig, draws: Draws
) -> tuple[Columns, np.ndarray]:
    """`examples` of many records."""
    return btmlm_batch.batched(records, tokenizer, cfg, keys, draws, word_budget(cfg, keys))


def word_budget(cfg: Config, keys: BTMLMConfig) -> int:
    """Source tokens that fit into a row together with their placeholders and the special tokens."""
    return max(int((cfg.data.sequence_length - 5) / (1 + keys.length_ratio)), 1)


def source_and_placeholders(
    source: Sequence[int], record: Record, tokenizer: Any, cfg: Config, keys: BTMLMConfig, rng: np.random.Generator
) -> list[Example]:
    """An example of one window: whole (stage 1) and with source words masked (stage 2); none if no word is known."""
    written = max(1, round(keys.length_ratio * len(source)))
    ids, boundary = layout.pair(tokenizer, source, [tokenizer.mask_id] * written)
    placeholders = np.arange(boundary + 1, len(ids) - 1, dtype=np.int32)
    of_target = np.arange(len(ids)) >= boundary
    maskable = masking.known(ids, np.arange(1, boundary - 1), tokenizer)
    if not len(maskable):
        return []
    chosen = masking.choose(maskable, keys.mask_ratio, rng)
    replacements = masking.draw_replacements(len(chosen), tokenizer, rng)
    if keys.restore_from == "pseudo":  # a word that stays would see itself
        replacements = np.full_like(replacements, tokenizer.mask_id)
    masked_ids = masking.apply_replacements(ids, chosen, replacements)
    languages = layout.languages_of(cfg, record.languages, of_target.astype(int))
    is_placeholder = np.isin(np.arange(len(ids)), placeholders)
    return [
        {
            "ids": ids,
            "masked_ids": masked_ids,
            "positions": layout.pair_positions(cfg, len(ids), boundary),
            "roles": np.where(of_target, PLACEHOLDER, SOURCE).astype(np.int32),
            "languages": layout.language_ids(cfg, languages, is_placeholder),
            # In stage 2 the placeholders hold words; the masks are in the source.
            "masked_languages": layout.language_ids(
                cfg, languages, (masked_ids == tokenizer.mask_id) & ~is_placeholder
            ),
            "generate_at": placeholders,
            "predict_at": chosen,
            "predict_labels": ids[chosen],
        }
    ]


def spec(cfg: Config, keys: BTMLMConfig) -> Spec:
    """A packed row."""
    length = cfg.data.sequence_length
    source = length / (1 + keys.length_ratio)
    room = min(length, int(-(-(source * keys.length_ratio * 1.05 + 4) // 8) * 8))
    return masking.row_spec(cfg, masking.prediction_room(source, keys.mask_ratio)) | {
        "masked_ids": ((length,), np.int32),
        "masked_languages": ((length,), np.int32),
        "generate_at": ((room,), np.int32),
    }


def predictions(cfg: Config, keys: Any) -> float:
    """How many a full row has on average."""
    return cfg.data.sequence_length / (1 + keys.length_ratio) * keys.mask_ratio


def written(cfg: Config, keys: Any) -> tuple[float, int]:
    """How many placeholders a full row has on average, and how often they are written."""
    return cfg.data.sequence_length / (1 + keys.length_ratio) * keys.length_ratio, keys.passes


def generate(
    cfg: Config,
    keys: BTMLMConfig,
    model: Any,
    params: Any,
    batch: Batch,
    rng: jax.Array,
    never: tuple[int, ...] | None = None,
) -> PseudoTokens:
    """Stage 1: every placeholder sees the source and all placeholders; all are predicted in one parallel pass.

    The ids `never` are not written; None stands for the special tokens of pre-training. Further passes (`passes` above
    1) keep each sentence's most confident tokens and mask the rest again, fewer each time (mask-predict). No gradient
    flows through the result and no dropout applies.
    """
    params = jax.lax.stop_gradient(params)
    at = batch["generate_at"]
    never = masking.special_ids(cfg.model.vocab_size) if never is None else never

    def write(ids: jax.Array, languages: jax.Array, rng: jax.Array) -> PseudoTokens:
        inputs = Inputs(ids, batch["positions"], batch["segments"], batch["roles"], languages)
        hidden = model.apply({"params": params}, inputs, GENERATION, deterministic=True, at=at, method="encode")
        hidden = hidden.reshape(-1, hidden.shape[-1])
        out = model.apply({"params": params}, hidden, rng, keys.temperature, never, method="generate")
        return PseudoTokens(out.ids.reshape(at.shape), out.log_probs.reshape(at.shape))

    def refine(index: jax.Array, tokens: PseudoTokens) -> PseudoTokens:
        again = least_confident(tokens.log_probs, segments_at(batch), 1 - index / keys.passes)
        ids = put(batch["ids"], at, jnp.where(again, put_source(batch), tokens.ids))
        kept = put(jnp.zeros_like(ids), at, (~again).astype(jnp.int32)) == 1
        new = write(ids, word_languages(cfg, batch["languages"], kept), jax.random.fold_in(rng, index))
        return PseudoTokens(*(jnp.where(again, one, other) for one, other in zip(new, tokens, strict=True)))

    tokens = write(batch["ids"], batch["languages"], jax.random.fold_in(rng, 0))
    if keys.passes > 1:
        tokens = jax.lax.fori_loop(1, keys.passes, refine, tokens)
    return jax.lax.stop_gradient(tokens)


def put(ids: jax.Array, at: jax.Array, values: jax.Array) -> jax.Array:
    """`ids` `[B, L]` with `values` `[B, G]` at indices `at` `[B, G]`; an index past the end writes nothing."""
    return ids.at[jnp.arange(ids.shape[0])[:, None], at].set(values, mode="drop")


def put_source(batch: Batch) -> jax.Array:
    """The [MASK] ids that stand at the placeholders, `[B, G]`."""
    return jnp.take_along_axis(batch["ids"], batch["generate_at"], axis=1, mode="clip")


def segments_at(batch: Batch) -> jax.Array:
    """Segment of each placeholder, `[B, G]`; 0 for padding."""
    at = batch["generate_at"]
    segments = jnp.take_along_axis(batch["segments"], at, axis=1, mode="clip")
    return jnp.where(at < batch["ids"].shape[1], segments, 0)


def least_confident(log_probs: jax.Array, segments: jax.Array, share: jax.Array) -> jax.Array:
    """True `[B, G]` at the `share` of each segment's placeholders that were written with the least confidence."""
    same = segments[:, :, None] == segments[:, None, :]
    index = jnp.arange(log_probs.shape[1])
    below = (log_probs[:, None, :] < log_probs[:, :, None]) | (
        (log_probs[:, None, :] == log_probs[:, :, None]) & (index[None, :] < index[:, None])
    )
    rank = jnp.sum(same & below, axis=2)
    return rank < jnp.floor(jnp.sum(same, axis=2) * share)


def word_languages(cfg: Config, languages: jax.Array, words: jax.Array) -> jax.Array:
    """`languages` `[B, L]` once the tokens `words` `[B, L]` are words, no longer slots (docs/design.md, contract 3)."""
    return jnp.where(words, 0, languages) if cfg.model.language_embedding == "slots" else languages


def loss(
    cfg: Config, keys: BTMLMConfig, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
) -> Sums:
    """Negative log-likelihood of the masked source words given the source, its masks and the pseudo tokens.

    Beside loss and accuracy: `pseudo_novel`, the share of pseudo tokens that are not among the source's own tokens, and
    `pseudo_confidence`, their mean probability.
    """
    generate_rng, dropout_rng = jax.random.split(rng)
    tokens = generate(cfg, keys, model, params, batch, generate_rng)
    batch = with_pseudo(cfg, keys, batch, tokens, generate_rng)
    ids = batch["masked_ids"]
    roles, table = jnp.zeros_like(ids), visibility.FULL
    if keys.restore_from == "pseudo":
        at = batch["predict_at"]
        roles, table = put(batch["roles"], at, jnp.full_like(at, MASKED)), FROM_PSEUDO
    inputs = Inputs(ids, batch["positions"], batch["segments"], roles, batch["masked_languages"])
    encoder = functools.partial(model.apply, {"params": params}, rngs={"dropout": dropout_rng})
    sums = masking.prediction_sums(encoder, inputs, table, batch, predictions(cfg, keys), deterministic=deterministic)
    return sums | pseudo_sums(batch, tokens)


def with_pseudo(cfg: Config, keys: BTMLMConfig, batch: Batch, tokens: PseudoTokens, rng: jax.Array) -> Batch:
    """The batch with pseudo tokens in `masked_ids`; below the threshold the placeholder's [MASK] and slot stay."""
    at, ids = batch["generate_at"], mixed(keys, batch, tokens.ids, rng)
    languages = batch["masked_languages"]
    if keys.confidence_threshold:
        unsure = mixed(keys, batch, tokens.log_probs, rng) < jnp.log(keys.confidence_threshold)
        ids = jnp.where(unsure, put_source(batch), ids)
        slots = put(jnp.zeros_like(languages), at, unsure.astype(languages.dtype)) == 1
        languages = jnp.where(slots, batch["languages"], languages)
    return {**batch, "masked_ids": put(batch["masked_ids"], at, ids), "masked_languages": languages}


def mixed(keys: BTMLMConfig, batch: Batch, ids: jax.Array, rng: jax.Array) -> jax.Array:
    """The pseudo tokens, or what is known of each, `[B, G]` for stage 2: a sentence's own, or for a control not quite.

    "shuffled" are a sentence's own in random order; "other" are those of the row before, whose sentences, and mostly
    languages, are others; where that row has fewer, its own.

    Raises:
      ValueError: "other" where there is one row at a time.
    """
    if keys.pseudo == "own":
        return ids
    if keys.pseudo == "other":
        if len(ids) == 1:
            raise ValueError("btmlm.pseudo='other' takes another row's tokens, but the batch has one row at a time")
        there = jnp.roll(segments_at(batch) > 0, 1, axis=0)
        return jnp.where(there, jnp.roll(ids, 1, axis=0), ids)
    # Placeholders of a segment stand together and the segments in order, padding behind them.
    segments = segments_at(batch)
    last = jnp.where(segments > 0, segments, jnp.iinfo(segments.dtype).max)
    order = jnp.lexsort((jax.random.uniform(rng, ids.shape), last), axis=1)
    return jnp.take_along_axis(ids, order, axis=1)


def pseudo_sums(batch: Batch, tokens: PseudoTokens) -> Sums:
    """How far the pseudo tokens are from a copy of the source, and how sure the generator was."""
    segments = segments_at(batch)
    source = (batch["roles"] == SOURCE) & (batch["segments"] > 0)
    copied = jnp.any(
        (tokens.ids[:, :, None] == batch["ids"][:, None, :])
        & (segments[:, :, None] == batch["segments"][:, None, :])
        & source[:, None, :],
        axis=2,
    )
    valid = (segments > 0).astype(jnp.float32)
    number = jnp.sum(valid)
    return {
        "pseudo_novel": (jnp.sum(valid * ~copied), number),
        "pseudo_confidence": (jnp.sum(valid * jnp.exp(tokens.log_probs)), number),
    }


TASK = Task(
    config=BTMLMConfig,
    records=records,
    examples=examples,
    batched=batched,
    spec=spec,
    loss=loss,
    predictions=predictions,
    written=written,
    requires=masking.word_head,
    columns={"pseudo_novel": "pseudo novel", "pseudo_confidence": "confidence"},
)
