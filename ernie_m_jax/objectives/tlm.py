"""TLM, translation language modelling: restore masked tokens of a parallel pair from both sentences.

Parallel records in, one segment a pair out; every token of a segment sees every other (paper section 3.1, Figure 1
middle).
"""

import dataclasses
from dataclasses import field
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between
from ernie_m_jax.data import mixture
from ernie_m_jax.model import visibility
from ernie_m_jax.objectives import masking, mmlm
from ernie_m_jax.task import Example, Group, Record, Spec, Task


@dataclasses.dataclass(frozen=True)
class TLMConfig:
    """Keys of `config.objectives.tlm`; see `configs/base.py`."""

    mask_ratio: float = field(metadata=between(0.01, 1))


def records(cfg: Config) -> dict[str, Group]:
    """Parallel text, an entry a language pair."""
    return mixture.groups(mixture.open_parallel(cfg), cfg.data.sampling_exponent)


def examples(record: Record, tokenizer: Any, cfg: Config, rng: np.random.Generator) -> list[Example]:
    """`CLS source SEP SEP target SEP` with tokens of both sides masked in place; either side may be the source."""
    order = rng.permutation(2)
    first, second = (tokenizer.encode_ids(record.texts[i]) for i in order)
    first, second = masking.shorten_pair(first, second, cfg.data.sequence_length - 4)
    if not first or not second:
        return []
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    words = np.array([cls, *first, sep, sep, *second, sep], np.int32)
    boundary = len(first) + 2  # the second separator is the target's
    maskable = np.concatenate([np.arange(1, boundary - 1), np.arange(boundary + 1, len(words) - 1)])
    positions = masking.pair_positions(cfg, len(words), boundary)
    sides = order[(np.arange(len(words)) >= boundary).astype(int)]
    ratio = cfg.objectives["tlm"].mask_ratio
    return mmlm.masked_in_place(words, maskable, positions, sides, record, tokenizer, cfg, ratio, rng)


def spec(cfg: Config) -> Spec:
    """A packed row."""
    return masking.row_spec(cfg, masking.prediction_room(cfg.data.sequence_length, cfg.objectives["tlm"].mask_ratio))


TASK = Task(config=TLMConfig, records=records, examples=examples, spec=spec, loss=masking.loss_under(visibility.FULL))
