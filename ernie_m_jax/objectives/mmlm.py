"""MMLM, multilingual masked language modelling: restore masked tokens of one text from the text around them.

Monolingual records in, one segment per record (or a join of short lines) out; every token of a segment sees every other
(paper section 3.1, Figure 1 left).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between
from ernie_m_jax.data import columns, layout, mixture
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.model import visibility
from ernie_m_jax.objectives import batching, masking
from ernie_m_jax.task import Example, Group, Record, Sources, Spec, Task, TaskKeys


@dataclasses.dataclass(frozen=True)
class MMLMConfig(TaskKeys):
    """Keys of `config.objectives.mmlm`; see `configs/base.py`."""

    mask_ratio: float = field(metadata=between(0.01, 1))
    join_to_characters: int = field(metadata=between(0))


def records(cfg: Config, keys: MMLMConfig, sources: Sources) -> dict[str, Group]:
    """Monolingual text, an entry per language."""
    return mixture.groups(sources.monolingual(keys.join_to_characters), cfg.data.sampling_exponent)


def examples(record: Record, tokenizer: Any, cfg: Config, keys: MMLMConfig, rng: np.random.Generator) -> list[Example]:
    """`CLS text SEP` with tokens masked in place, for each window of the text."""
    made = []
    for ids in masking.windows(layout.token_ids(record, 0, tokenizer), cfg.data.sequence_length - 2, rng):
        words = np.array([tokenizer.cls_id, *ids, tokenizer.sep_id], np.int32)
        positions = np.arange(len(words), dtype=np.int32)
        sides = np.zeros(len(words), np.int32)
        made += masked_in_place(words, positions[1:-1], positions, sides, record, tokenizer, cfg, keys.mask_ratio, rng)
    return made


def batched(
    records: Sequence[Record], tokenizer: Any, cfg: Config, keys: MMLMConfig, draws: Draws
) -> tuple[Columns, np.ndarray]:
    """`examples` of many records."""
    ids, sizes = batching.texts(records, 0, tokenizer)
    cut = sizes > cfg.data.sequence_length - 2
    words = batching.singles(ids, columns.starts(sizes), np.where(cut, 0, sizes), tokenizer)
    candidates = batching.known(words, np.ones_like(sizes), words.sizes - 1, tokenizer)
    languages = batching.languages(cfg, records, words.owners, np.zeros_like(words.owners))
    positions = words.places.astype(np.int32)
    ratio = keys.mask_ratio
    return batching.masked_in_place(words, candidates, positions, languages, tokenizer, cfg, ratio, draws, cut)


def masked_in_place(
    words: np.ndarray,
    maskable: np.ndarray,
    positions: np.ndarray,
    sides: np.ndarray,
    record: Record,
    tokenizer: Any,
    cfg: Config,
    ratio: float,
    rng: np.random.Generator,
) -> list[Example]:
    """An example in which a share of the `maskable` indices of `words` is replaced 80/10/10 and predicted.

    None if nothing can be predicted. `positions` and `sides` (which text of the record a token belongs to) are int32
    `[n]` like `words`.
    """
    maskable = masking.known(words, maskable, tokenizer)
    if not len(maskable):
        return []
    chosen = masking.choose(maskable, ratio, rng)
    replacements = masking.draw_replacements(len(chosen), tokenizer, rng)
    ids = masking.apply_replacements(words, chosen, replacements)
    languages = layout.languages_of(cfg, record.languages, sides)
    return [
        {
            "ids": ids,
            "positions": positions,
            "roles": np.zeros(len(words), np.int32),
            "languages": layout.language_ids(cfg, languages, ids == tokenizer.mask_id),
            "predict_at": chosen,
            "predict_labels": words[chosen],
        }
    ]


def predictions(cfg: Config, keys: Any) -> float:
    """How many a full row has on average."""
    return cfg.data.sequence_length * keys.mask_ratio


def spec(cfg: Config, keys: MMLMConfig) -> Spec:
    """A packed row."""
    return masking.row_spec(cfg, masking.prediction_room(cfg.data.sequence_length, keys.mask_ratio))


TASK = Task(
    config=MMLMConfig,
    records=records,
    examples=examples,
    batched=batched,
    spec=spec,
    loss=masking.loss_under(visibility.FULL, predictions),
    predictions=predictions,
    requires=masking.word_head,
)
