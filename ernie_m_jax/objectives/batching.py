"""What the objectives' `batched` share: the examples of many records at once, bit for bit those of `examples`.

Texts lie one behind the other in flat arrays. Draws come in the order in which `masking` makes them for one example, so
each line here has its counterpart there; `tests/test_batched.py` compares them. A record is left to `examples` where
its text is cut into windows, and where a draw would have to be repeated.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.data import columns, layout
from ernie_m_jax.data.columns import Columns
from ernie_m_jax.data.draws import Draws
from ernie_m_jax.objectives import masking
from ernie_m_jax.task import Record


class Words(NamedTuple):
    """The tokens of an example per record, special ones included.

    Attributes:
      ids: int32 `[T]`.
      sizes: tokens of each example, int64 `[E]`; 0 where there is none.
      owners: the example of each token, int64 `[T]`.
      places: its index within the example, int64 `[T]`.
      boundary: the index from which on an example's tokens are those of the second text, int64 `[E]`.
    """

    ids: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    places: np.ndarray
    boundary: np.ndarray

    @property
    def of_second(self) -> np.ndarray:
        """Which tokens are of the second text, bool `[T]`."""
        return self.places >= self.boundary[self.owners]


def texts(records: Sequence[Record], side: int, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all records' texts, int32 one behind the other, and how many each has."""
    ids = [np.asarray(layout.token_ids(record, side, tokenizer), np.int32) for record in records]
    return np.concatenate(ids), np.array([len(one) for one in ids], np.int64)


def shortened(first: np.ndarray, second: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of pairs after `tokenizer.base.shorten_pair`."""
    kept = np.minimum(first, np.maximum((length + 1) // 2, length - second))
    fits = first + second <= length
    return np.where(fits, first, kept), np.where(fits, second, length - kept)


def ordered_pairs(records: Sequence[Record], length: int, tokenizer: Any, draws: Draws) -> tuple[np.ndarray, Words]:
    """Pairs in an order that is drawn, cut to `length` pieces together: each one's order `[E, 2]`, and the words.

    A pair of which a side is empty has no words.
    """
    swapped = (draws.words(np.ones(len(records), np.int64))[:, 0] & np.uint64(1)) == 0  # `Generator.permutation(2)`
    sides = [texts(records, side, tokenizer) for side in range(2)]
    begin = np.stack([columns.starts(sides[0][1]), columns.starts(sides[1][1]) + len(sides[0][0])])
    sizes = np.stack([sides[0][1], sides[1][1]])
    order = np.stack([swapped, ~swapped], axis=1).astype(np.int64)
    every = np.arange(len(records))
    first, second = ((begin[order[:, place], every], sizes[order[:, place], every]) for place in range(2))
    kept = shortened(first[1], second[1], length)
    exists = (kept[0] > 0) & (kept[1] > 0)
    ids = np.concatenate([sides[0][0], sides[1][0]])
    return order, pairs(ids, (first[0], kept[0]), (second[0], kept[1]), exists, tokenizer)


def pairs(
    ids: np.ndarray,
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    exists: np.ndarray,
    tokenizer: Any,
) -> Words:
    """`CLS first SEP SEP second SEP`, as `layout.pair`; `first` and `second` say where in `ids`, and sizes."""
    separators = len(tokenizer.join_pair([], [])) - 2
    one, other = first[1] * exists, second[1] * exists
    sizes = np.where(exists, one + other + 2 + separators, 0)
    begin = columns.starts(sizes)
    words = np.full(sizes.sum(), tokenizer.sep_id, np.int32)
    words[begin[exists]] = tokenizer.cls_id
    words[columns.ranges(begin + 1, one)] = ids[columns.ranges(first[0], one)]
    words[columns.ranges(begin + 1 + one + separators, other)] = ids[columns.ranges(second[0], other)]
    return _words(words, sizes, one + 2)


def singles(ids: np.ndarray, begin: np.ndarray, sizes: np.ndarray, tokenizer: Any) -> Words:
    """`CLS text SEP` of each text that is not empty."""
    whole = np.where(sizes > 0, sizes + 2, 0)
    starts = columns.starts(whole)
    words = np.full(whole.sum(), tokenizer.sep_id, np.int32)
    words[starts[sizes > 0]] = tokenizer.cls_id
    words[columns.ranges(starts + 1, sizes)] = ids[columns.ranges(begin, sizes)]
    return _words(words, whole, whole)


def _words(ids: np.ndarray, sizes: np.ndarray, boundary: np.ndarray) -> Words:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return Words(ids, sizes, owners, columns.ranges(np.zeros_like(sizes), sizes), boundary)


def known(words: Words, low: np.ndarray, end: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Places in `words.ids` of known words from index `low` of an example up to `end`, int64; see `masking.known`."""
    inside = (words.places >= low[words.owners]) & (words.places < end[words.owners])
    return np.flatnonzero(inside & (words.ids != tokenizer.unk_id))


def known_of_sides(words: Words, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The known words of the first texts of pairs, and of the second."""
    boundary = words.boundary
    first = known(words, np.ones_like(boundary), boundary - 1, tokenizer)
    return first, known(words, boundary + 1, words.sizes - 1, tokenizer)


def choose(words: Words, candidates: np.ndarray, ratio: float, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The places to predict, ascending, and how many each example has; see `masking.choose`."""
    counts = np.bincount(words.owners[candidates], minlength=len(words.sizes))
    fraction = draws.doubles(np.ones_like(counts))[:, 0]
    number = np.minimum(counts, np.maximum(1, (ratio * counts + fraction).astype(np.int64)))
    taken = draws.choices(counts, number)
    return candidates[taken[np.arange(taken.shape[1]) < counts[:, None]]], number


def replaced(
    words: np.ndarray, chosen: np.ndarray, number: np.ndarray, tokenizer: Any, draws: Draws, masks_only: bool = False
) -> np.ndarray:
    """`words` with the chosen places replaced 80/10/10; see `masking.draw_replacements` and `apply_replacements`."""
    first = masking.FIRST_ORDINARY_ID
    real = np.arange(number.max(initial=0)) < number[:, None]
    action = draws.doubles(number)[real]
    random_ids = draws.below(np.full((1, 1), tokenizer.mask_id - first), number)[real] + first
    written = np.where(action < masking.MASK_SHARE, tokenizer.mask_id, random_ids)
    kept = action >= masking.MASK_SHARE + masking.RANDOM_SHARE
    out = words.copy()
    out[chosen] = tokenizer.mask_id if masks_only else np.where(kept, words[chosen], written)
    return out


def languages(cfg: Config, records: Sequence[Record], owners: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Index in `config.languages` of each token; see `layout.languages_of`."""
    index = {code: number for number, code in enumerate(cfg.languages)}
    table = np.array([[index[code] for code in record.languages] for record in records])
    return table[owners, sides]


def pair_positions(cfg: Config, words: Words) -> np.ndarray:
    """See `layout.pair_positions`."""
    restarted = cfg.data.pair_positions == "restarted"
    return (words.places - words.boundary[words.owners] * (words.of_second & restarted)).astype(np.int32)


def masked_in_place(
    words: Words,
    candidates: np.ndarray,
    positions: np.ndarray,
    token_languages: np.ndarray,
    tokenizer: Any,
    cfg: Config,
    ratio: float,
    draws: Draws,
    left: np.ndarray,
) -> tuple[Columns, np.ndarray]:
    """As `mmlm.masked_in_place`, for an example per record; see `finished`."""
    chosen, number = choose(words, candidates, ratio, draws)
    ids = replaced(words.ids, chosen, number, tokenizer, draws)
    values = {
        "ids": ids,
        "positions": positions,
        "roles": np.zeros(len(ids), np.int32),
        "languages": layout.language_ids(cfg, token_languages, ids == tokenizer.mask_id),
        "predict_at": words.places[chosen].astype(np.int32),
        "predict_labels": words.ids[chosen],
    }
    sizes = {name: number if name.startswith("predict") else words.sizes for name in values}
    return finished(values, sizes, number > 0, draws, left)


def finished(
    values: dict[str, np.ndarray], sizes: dict[str, np.ndarray], good: np.ndarray, draws: Draws, left: np.ndarray
) -> tuple[Columns, np.ndarray]:
    """What `Task.batched` returns: the examples, and the numbers of the records that are left to `examples`.

    Args:
      values: the features, of all records.
      sizes: how many values each record has, by feature.
      good: whether a record has an example, bool `[E]`.
      draws: of the records; what they reject is left.
      left: what is left anyway, bool `[E]`; it has no values.
    """
    left = left | draws.rejected
    every = Columns(np.arange(len(left)), sizes, values)
    good = good & ~left
    return (every if good.all() else columns.take(every, good)), np.flatnonzero(left)
