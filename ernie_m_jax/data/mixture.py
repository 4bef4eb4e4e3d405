"""Mixture over languages and language pairs: records in, one endless random-access sequence of records out.

An entry is a language ("en"), a pair ("en-de") or a back-translation direction ("en>de"). One of n records is drawn
with probability proportional to n ** alpha; within an entry each epoch is a new permutation. Grain does the index
arithmetic, so a record is a function of (seed, index) and nothing is kept in memory.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import records as sources
from ernie_m_jax.task import Group, RandomAccess, Record


class Concatenation:
    """Several sequences of records as one."""

    def __init__(self, parts: Sequence[RandomAccess]):
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: int) -> Record:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def lengths(self) -> np.ndarray:
        """Characters of each record's first text, int64 `[N]`; DataError where a part cannot tell them."""
        return np.concatenate([sources.lengths(part) for part in self._parts])


class WithLanguages:
    """The same texts with other languages: back-translation adds the language to write."""

    def __init__(self, parent: RandomAccess, languages: tuple[str, ...]):
        self._parent, self._languages = parent, languages

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._parent[index], languages=self._languages)


def open_monolingual(cfg: Config, join_characters: int = 0) -> dict[str, RandomAccess]:
    """All monolingual sources, by language; short lines joined where `join_characters` is above 0."""
    opened = _open(cfg, "monolingual", cfg.data.monolingual)
    if join_characters <= 0:
        return opened
    try:
        return {name: sources.JoinedLines(part, join_characters) for name, part in opened.items()}
    except sources.DataError as error:
        raise sources.DataError(f"{error}; set the objective's join_characters to 0") from None


def open_parallel(cfg: Config) -> dict[str, RandomAccess]:
    """All parallel sources, by language pair."""
    return _open(cfg, "parallel", cfg.data.parallel)


def _open(cfg: Config, kind: sources.Kind, configured: Mapping[str, Any]) -> dict[str, RandomAccess]:
    if not configured:
        raise ConfigError(
            f"config.data.{kind} names no source, but an objective with a weight above 0 reads {kind} text"
        )
    parts: dict[str, list[RandomAccess]] = {}
    for name, source in configured.items():
        for key, sequence in sources.open_source(f"data.{kind}.{name}", source, cfg.languages, kind).items():
            parts.setdefault(key, []).append(sequence)
    return {key: group[0] if len(group) == 1 else Concatenation(group) for key, group in parts.items()}


def weights(sizes: Mapping[str, int], alpha: float) -> dict[str, float]:
    """Sampling probabilities: proportional to size ** alpha, sum 1."""
    raised = {name: float(size) ** alpha for name, size in sizes.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


def groups(opened: Mapping[str, RandomAccess], alpha: float) -> dict[str, Group]:
    """The opened sequences as a mixture's entries."""
    share = weights({name: len(sequence) for name, sequence in opened.items()}, alpha)
    return {name: Group(sequence, share[name]) for name, sequence in opened.items()}


def mix(entries: Mapping[str, Group], seed: int) -> grain.MapDataset:
    """The endless mixture; each entry's every epoch is shuffled anew."""
    names = sorted(entries)
    datasets = [
        grain.MapDataset.source(entries[name].records).shuffle(seed=seed + place).repeat()
        for place, name in enumerate(names)
    ]
    return grain.MapDataset.mix(datasets, weights=[entries[name].weight for name in names])


def table(
    entries: Mapping[str, Group], size: Callable[[Record], tuple[int, float]], rows: float, sample: int = 300
) -> list[dict[str, Any]]:
    """A row an entry: records, tokens (estimated from `sample` records), probability, epochs over `rows` full rows.

    Args:
      entries: the mixture.
      size: record -> tokens of its text, and the share of a packed row that its example takes.
      rows: packed rows that training will draw from the whole mixture.
      sample: records an entry to measure; evenly spread.
    """
    total = sum(group.weight for group in entries.values())
    tokens, shares = {}, {}
    for name, group in entries.items():
        number = len(group.records)
        sizes = [size(group.records[index]) for index in range(0, number, -(-number // sample))]
        tokens[name], shares[name] = np.mean(sizes, axis=0)
    # Entries are drawn by record: a row holds 1 / (mean share) records of the mixture.
    drawn = rows / max(sum(entries[name].weight / total * shares[name] for name in entries), 1e-9)
    return [
        {
            "name": name,
            "records": len(group.records),
            "tokens": round(tokens[name] * len(group.records)),
            "probability": group.weight / total,
            "epochs": drawn * group.weight / total / len(group.records),
        }
        for name, group in entries.items()
    ]
