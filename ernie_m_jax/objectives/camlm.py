"""CAMLM, cross-attention masked language modelling: restore a word from the *other* sentence of a pair only.

Parallel records in, one segment per pair out. The original words stay; each masked word gets an extra [MASK] slot with
the word's own position, which sees the whole other sentence and its own side's slots, never its own sentence's words
(paper section 3.2, Figure 1 right; docs/design.md, contract 2).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between
from ernie_m_jax.data import columns, layout
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.objectives import batching, masking, tlm
from ernie_m_jax.task import Example, Record, Spec, Task, TaskKeys
from ernie_m_jax.tokenizer.base import shorten_pair

# Who sees whom (paper, Figure 1c): slots see the other sentence's words, all of them, and their own sentence's slots.
# The figure does not draw the words' rows; words that saw a slot or the other sentence would carry the answers to the
# slots within two layers, so they see their own sentence's words only.
SOURCE_WORD, TARGET_WORD, SOURCE_SLOT, TARGET_SLOT = range(4)
TABLE = np.array(
    [
        # source word, target word, source slot, target slot (key)
        [True, False, False, False],  # source word (query)
        [False, True, False, False],  # target word
        [False, True, True, False],  # source slot
        [True, False, False, True],  # target slot
    ]
)


@dataclasses.dataclass(frozen=True)
class CAMLMConfig(TaskKeys):
    """Keys of `config.objectives.camlm`; see `configs/base.py`."""

    mask_ratio: float = field(metadata=between(0.01, 1))


def examples(record: Record, tokenizer: Any, cfg: Config, keys: CAMLMConfig, rng: np.random.Generator) -> list[Example]:
    """`CLS source SEP SEP target SEP`, then the source's slots, then the target's.

    [CLS] and the first separator have the source's role, the other two separators the target's.
    """
    ratio = keys.mask_ratio
    order = rng.permutation(2)
    first, second = (layout.token_ids(record, int(side), tokenizer) for side in order)
    sides = shorten_pair(first, second, word_budget(cfg.data.sequence_length, ratio))
    if not all(map(len, sides)):
        return []
    words, boundary = layout.pair(tokenizer, *sides)
    places = (np.arange(1, boundary - 1), np.arange(boundary + 1, len(words) - 1))
    chosen = [masking.choose(masking.known(words, place, tokenizer), ratio, rng) for place in places]
    slots = np.concatenate(chosen)
    if not len(slots):
        return []
    of_target = np.arange(len(words)) >= boundary
    positions = layout.pair_positions(cfg, len(words), boundary)
    slot_of_target = np.repeat([False, True], [len(side) for side in chosen])
    is_slot = np.arange(len(words) + len(slots)) >= len(words)
    sides = order[np.concatenate([of_target, slot_of_target]).astype(int)]
    return [
        {
            "ids": np.concatenate([words, np.full(len(slots), tokenizer.mask_id)]).astype(np.int32),
            "positions": np.concatenate([positions, positions[slots]]),
            "roles": np.concatenate(
                [
                    np.where(of_target, TARGET_WORD, SOURCE_WORD),
                    np.where(slot_of_target, TARGET_SLOT, SOURCE_SLOT),
                ]
            ).astype(np.int32),
            "languages": layout.language_ids(cfg, layout.languages_of(cfg, record.languages, sides), is_slot),
            "predict_at": (len(words) + np.arange(len(slots))).astype(np.int32),
            "predict_labels": words[slots],
        }
    ]


def batched(
    records: Sequence[Record], tokenizer: Any, cfg: Config, keys: CAMLMConfig, draws: Draws
) -> tuple[Columns, np.ndarray]:
    """`examples` of many records."""
    ratio, length = keys.mask_ratio, cfg.data.sequence_length
    order, words = batching.ordered_pairs(records, word_budget(length, ratio), tokenizer, draws)
    chosen, numbers = zip(
        *[batching.choose(words, known, ratio, draws) for known in batching.known_of_sides(words, tokenizer)],
        strict=True,
    )
    # Each example's words, then its first side's slots, then its second's: where each comes from in the three.
    parts = np.stack([words.sizes, *numbers])
    begin = columns.starts(parts.T.ravel()).reshape(-1, 3)
    number = numbers[0] + numbers[1]
    sizes = words.sizes + number
    at = [columns.ranges(begin[:, place], parts[place]) for place in range(3)]
    source, is_slot = np.empty(sizes.sum(), np.int64), np.zeros(sizes.sum(), bool)
    for place, tokens in enumerate((np.arange(len(words.ids)), *chosen)):
        source[at[place]], is_slot[at[place]] = tokens, place > 0
    of_target = words.of_second[source]
    ids = np.where(is_slot, tokenizer.mask_id, words.ids[source]).astype(np.int32)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    languages = batching.languages(cfg, records, owners, order[owners, of_target.astype(int)])
    slot_at = np.flatnonzero(is_slot)
    values = {
        "ids": ids,
        "positions": batching.pair_positions(cfg, words)[source],
        "roles": (2 * is_slot + of_target).astype(np.int32),
        "languages": layout.language_ids(cfg, languages, is_slot),
        "predict_at": (slot_at - columns.starts(sizes)[owners[slot_at]]).astype(np.int32),
        "predict_labels": words.ids[source[slot_at]],
    }
    every = {name: number if name.startswith("predict") else sizes for name in values}
    return batching.finished(values, every, number > 0, draws, np.zeros(len(records), bool))


def word_budget(length: int, ratio: float) -> int:
    """Words of both sides that fit into `length` tokens together with their slots and the four special tokens."""
    return int((length - 4 - 2) / (1 + ratio))  # 2: each side's number of slots is rounded at random


def predictions(cfg: Config, keys: Any) -> float:
    """How many a full row has on average."""
    return cfg.data.sequence_length / (1 + keys.mask_ratio) * keys.mask_ratio


def spec(cfg: Config, keys: CAMLMConfig) -> Spec:
    """A packed row; at most a slot in `1 + 1 / ratio` tokens."""
    ratio = keys.mask_ratio
    return masking.row_spec(cfg, masking.prediction_room(cfg.data.sequence_length / (1 + ratio), ratio))


TASK = Task(
    config=CAMLMConfig,
    records=tlm.records,
    examples=examples,
    batched=batched,
    spec=spec,
    loss=masking.loss_under(TABLE, predictions),
    predictions=predictions,
    requires=masking.word_head,
)
