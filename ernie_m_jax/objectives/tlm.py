"""TLM, translation language modelling: restore masked tokens of a parallel pair from both sentences.

Parallel records in, one segment per pair out; every token of a segment sees every other (paper section 3.1, Figure 1
middle).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between
from ernie_m_jax.data import layout, mixture
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.model import visibility
from ernie_m_jax.objectives import batching, masking, mmlm
from ernie_m_jax.task import Example, Group, Record, Sources, Spec, Task, TaskKeys
from ernie_m_jax.tokenizer.base import shorten_pair


@dataclasses.dataclass(frozen=True)
class TLMConfig(TaskKeys):
    """Keys of `config.objectives.tlm`; see `configs/base.py`."""

    mask_ratio: float = field(metadata=between(0.01, 1))


def records(cfg: Config, keys: Any, sources: Sources) -> dict[str, Group]:
    """Parallel text, an entry per language pair; also CAMLM's."""
    del keys
    return mixture.groups(sources.parallel(), cfg.data.sampling_exponent)


def examples(record: Record, tokenizer: Any, cfg: Config, keys: TLMConfig, rng: np.random.Generator) -> list[Example]:
    """`CLS source SEP SEP target SEP` with tokens of both sides masked in place; either side may be the source."""
    order = rng.permutation(2)
    first, second = (layout.token_ids(record, int(side), tokenizer) for side in order)
    first, second = shorten_pair(first, second, cfg.data.sequence_length - 4)
    if not len(first) or not len(second):
        return []
    words, boundary = layout.pair(tokenizer, first, second)
    maskable = np.concatenate([np.arange(1, boundary - 1), np.arange(boundary + 1, len(words) - 1)])
    positions = layout.pair_positions(cfg, len(words), boundary)
    sides = order[(np.arange(len(words)) >= boundary).astype(int)]
    return mmlm.masked_in_place(words, maskable, positions, sides, record, tokenizer, cfg, keys.mask_ratio, rng)


def batched(
    records: Sequence[Record], tokenizer: Any, cfg: Config, keys: TLMConfig, draws: Draws
) -> tuple[Columns, np.ndarray]:
    """`examples` of many records."""
    order, words = batching.ordered_pairs(records, cfg.data.sequence_length - 4, tokenizer, draws)
    candidates = np.sort(np.concatenate(batching.known_of_sides(words, tokenizer)))
    languages = batching.languages(cfg, records, words.owners, order[words.owners, words.of_second.astype(int)])
    positions = batching.pair_positions(cfg, words)
    none_left = np.zeros(len(records), bool)
    ratio = keys.mask_ratio
    return batching.masked_in_place(words, candidates, positions, languages, tokenizer, cfg, ratio, draws, none_left)


def predictions(cfg: Config, keys: Any) -> float:
    """How many a full row has on average."""
    return cfg.data.sequence_length * keys.mask_ratio


def spec(cfg: Config, keys: TLMConfig) -> Spec:
    """A packed row."""
    return masking.row_spec(cfg, masking.prediction_room(cfg.data.sequence_length, keys.mask_ratio))


TASK = Task(
    config=TLMConfig,
    records=records,
    examples=examples,
    batched=batched,
    spec=spec,
    loss=masking.loss_under(visibility.FULL, predictions),
    predictions=predictions,
    requires=masking.word_head,
)
