"""How one or two texts lie in a row: special tokens, positions, languages. Token ids in, an example's features out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.task import Record


def token_ids(record: Record, side: int, tokenizer: Any) -> Any:
    """Ids of text `side` of a record, no special tokens: int32 `[n]` where they are stored, else a list."""
    return record.ids[side] if record.ids else tokenizer.encode_ids(record.texts[side])


def language_ids(cfg: Config, languages: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Which tokens get a language embedding: 0 adds none, k adds row k - 1 (docs/design.md, contract 3).

    Args:
      cfg: the config; `model.language_embedding` decides.
      languages: index in `config.languages` of each token, `[n]`.
      masks: whether the token is a [MASK] that must say which language to write, `[n]`.
    """
    mode = cfg.model.language_embedding
    told = {"all": np.ones_like(masks), "slots": masks, "none": np.zeros_like(masks)}[mode]
    return np.where(told, languages + 1, 0).astype(np.int32)


def languages_of(cfg: Config, codes: Sequence[str], sides: np.ndarray) -> np.ndarray:
    """Index in `config.languages` of each token, given the codes of a record's texts and each token's side (0 or 1)."""
    return np.array([cfg.languages.index(code) for code in codes])[sides]


def pair_positions(cfg: Config, count: int, boundary: int) -> np.ndarray:
    """Positions of a pair's `count` tokens; from `boundary` on they are the target's and may start again at 0."""
    positions = np.arange(count, dtype=np.int32)
    if cfg.data.pair_positions == "restarted":
        positions[boundary:] -= boundary
    return positions


def pair(tokenizer: Any, first: Sequence[int], second: Sequence[int]) -> tuple[np.ndarray, int]:
    """`CLS first SEP SEP second SEP` int32, with as many separators between as the tokenizer's family has.

    Returns:
      The ids, and the index of the first token that belongs to the second text: the separator before it where there are
      two, else its first piece.
    """
    ids = np.array(tokenizer.join_pair(first, second), np.int32)
    return ids, len(first) + 2
