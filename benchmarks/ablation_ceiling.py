"""A task that is no part of the package: BTMLM with real translations in place of pseudo tokens, its ceiling.

Masked words of a monolingual text are restored from it and its translation, of which nothing is masked. The
translations stand in files that no other objective reads: the real ones that `benchmarks/ablation_corpus.py` writes, or
those that a finished arm wrote once and for all (`benchmarks/ablation_written.py`).
"""

import dataclasses
from dataclasses import field
from typing import Any

import numpy as np

from ernie_m_jax.config import Config, SourceConfig
from ernie_m_jax.config_fields import between, one_of
from ernie_m_jax.data import layout, mixture, records
from ernie_m_jax.model import visibility
from ernie_m_jax.objectives import masking, mmlm
from ernie_m_jax.task import Example, Group, RandomAccess, Record, Sources, Spec, Task, TaskKeys
from ernie_m_jax.tokenizer.base import shorten_pair


@dataclasses.dataclass(frozen=True)
class CeilingConfig(TaskKeys):
    """Keys of the entry.

    Attributes:
      path: a TSV per language of the monolingual text, `{language}` in its name, with a column for every language.
      mask_ratio: share of the text's tokens to predict.
      right: share of the translation's tokens that stay; in place of the others stand wrong words, as if a generator
        that is right so often had written it.
      wrong: "random" ones, of all words alike, or those that "another" text has in these places of its translation: of
        the right language, and as frequent as words are.
    """

    path: str = ""
    mask_ratio: float = field(default=0.15, metadata=between(0.01, 1))
    right: float = field(default=1.0, metadata=between(0, 1))
    wrong: str = field(default="random", metadata=one_of("random", "another"))


class _From:
    """Pairs with the text of one language first; a field has the translation of another text."""

    def __init__(self, parent: RandomAccess, language: str):
        self._parent, self._language = parent, language

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int) -> Record:
        record, another = self._turned(index), self._turned((index + len(self) // 2) % len(self))
        return dataclasses.replace(record, fields={"another": another.texts[1]})

    def _turned(self, index: int) -> Record:
        record = self._parent[index]
        if record.languages[0] == self._language:
            return record
        return Record(record.texts[::-1], record.languages[::-1])


def open_translations(cfg: Config, keys: CeilingConfig, sources: Sources) -> dict[str, Group]:
    """An entry `source>target` per direction, drawn as BTMLM's are where every language is paired with every other."""
    del sources
    opened = {}
    for source in cfg.languages:
        pairs = tuple(f"{source}-{other}" for other in cfg.languages if other != source)
        path = keys.path.replace("{language}", source)
        config = SourceConfig(path, "auto", (), pairs, (), "train")
        for pair, sequence in records.open_source("ceiling", config, cfg.languages, "parallel").items():
            opened[pair.replace("-", ">")] = _From(sequence, source)
    return mixture.groups(opened, cfg.data.sampling_exponent)


def examples(
    record: Record, tokenizer: Any, cfg: Config, keys: CeilingConfig, rng: np.random.Generator
) -> list[Example]:
    """`CLS text SEP SEP translation SEP` with tokens of the text masked in place."""
    text, translation = (tokenizer.encode_ids(text) for text in record.texts)
    text, translation = shorten_pair(text, translation, cfg.data.sequence_length - 4)
    if not text or not translation:
        return []
    if keys.right < 1:
        others = rng.integers(masking.FIRST_ORDINARY_ID, tokenizer.mask_id, size=len(translation))
        if keys.wrong == "another" and (another := tokenizer.encode_ids(record.fields["another"])):
            others = np.resize(another, len(translation))
        translation = np.where(rng.random(len(translation)) < keys.right, translation, others)
    words, boundary = layout.pair(tokenizer, text, translation)
    positions = layout.pair_positions(cfg, len(words), boundary)
    sides = (np.arange(len(words)) >= boundary).astype(int)
    maskable = np.arange(1, boundary - 1)
    return mmlm.masked_in_place(words, maskable, positions, sides, record, tokenizer, cfg, keys.mask_ratio, rng)


def predictions(cfg: Config, keys: CeilingConfig) -> float:
    """How many a full row has on average; texts and translations take about half of it each."""
    return 0.5 * cfg.data.sequence_length * keys.mask_ratio


def spec(cfg: Config, keys: CeilingConfig) -> Spec:
    """A packed row, with room for texts that are longer than their translations."""
    return masking.row_spec(cfg, masking.prediction_room(0.65 * cfg.data.sequence_length, keys.mask_ratio))


TASK = Task(
    config=CeilingConfig,
    records=open_translations,
    examples=examples,
    spec=spec,
    loss=masking.loss_under(visibility.FULL, predictions),
    predictions=predictions,
    requires=masking.word_head,
)
