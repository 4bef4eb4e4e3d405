"""BTMLM's examples of many records at once; `btmlm.examples` says what they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.data import columns, layout
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.objectives import batching
from ernie_m_jax.task import Record


def batched(
    records: Sequence[Record], tokenizer: Any, cfg: Config, keys: Any, draws: Draws, budget: int
) -> tuple[Columns, np.ndarray]:
    """`examples` of many records; a text of more than `budget` ids has several windows and is left."""
    ids, lengths = batching.texts(records, 0, tokenizer)
    cut = lengths > budget
    source = np.where(cut, 0, lengths)
    exists = source > 0
    written = np.where(exists, np.maximum(1, np.rint(keys.length_ratio * source)), 0).astype(np.int64)
    # The second text of each is so many of the masks behind all texts.
    masks = np.full(written.max(initial=0), tokenizer.mask_id, np.int32)
    ends = np.full_like(lengths, len(ids))
    first, second = (columns.starts(lengths), source), (ends, written)
    words = batching.pairs(np.concatenate([ids, masks]), first, second, exists, tokenizer)
    chosen, number = batching.choose(words, batching.known_of_sides(words, tokenizer)[0], keys.mask_ratio, draws)
    masks_only = keys.restore_from == "pseudo"
    masked = batching.replaced(words.ids, chosen, number, tokenizer, draws, masks_only)
    of_target = words.of_second
    at = words.places
    is_placeholder = of_target & (at > words.boundary[words.owners]) & (at < words.sizes[words.owners] - 1)
    languages = batching.languages(cfg, records, words.owners, of_target.astype(int))
    values = {
        "ids": words.ids,
        "masked_ids": masked,
        "positions": batching.pair_positions(cfg, words),
        "roles": of_target.astype(np.int32),
        "languages": layout.language_ids(cfg, languages, is_placeholder),
        "masked_languages": layout.language_ids(cfg, languages, (masked == tokenizer.mask_id) & ~is_placeholder),
        "generate_at": at[is_placeholder].astype(np.int32),
        "predict_at": at[chosen].astype(np.int32),
        "predict_labels": words.ids[chosen],
    }
    placeholders = np.bincount(words.owners[is_placeholder], minlength=len(records))
    sizes = dict.fromkeys(values, words.sizes) | {"generate_at": placeholders}
    sizes |= {"predict_at": number, "predict_labels": number}
    return batching.finished(values, sizes, number > 0, draws, cut)
