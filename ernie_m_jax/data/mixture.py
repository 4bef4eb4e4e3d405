"""Mixture over languages and language pairs: sources in, a task's entries with their weights out.

An entry is a language ("en"), a pair ("en-de") or a back-translation direction ("en>de"). An entry of n records is
drawn with probability proportional to n ** sampling_exponent. `order` makes each stream's sequence of records of it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m_jax.config import Config, ConfigError, SourceConfig
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


class WithLanguages:
    """The same texts with other languages: back-translation adds the language to write."""

    def __init__(self, parent: RandomAccess, languages: tuple[str, ...]):
        self._parent, self._languages = parent, languages

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._parent[index], languages=self._languages)


class Sources:
    """The text of a config, every source of it opened once however many objectives and evaluations read it."""

    def __init__(
        self,
        cfg: Config,
        monolingual: Mapping[str, SourceConfig] | None = None,
        parallel: Mapping[str, SourceConfig] | None = None,
        where: str = "data",
    ):
        """Opens nothing yet.

        Args:
          cfg: the config.
          monolingual: sources to read instead of `config.data.monolingual`, such as held-out ones.
          parallel: the same for `config.data.parallel`.
          where: of the config they stand, for messages.
        """
        self._where = where
        self._languages = cfg.languages
        self._configured: dict[sources.Kind, Mapping[str, SourceConfig]] = {
            "monolingual": cfg.data.monolingual if monolingual is None else monolingual,
            "parallel": cfg.data.parallel if parallel is None else parallel,
        }
        self._opened: dict[str, dict[str, RandomAccess]] = {}

    def monolingual(self, join_to_characters: int = 0) -> dict[str, RandomAccess]:
        """All monolingual sources, by language; short lines joined where `join_to_characters` is above 0."""
        opened = self._open("monolingual")
        if join_to_characters <= 0:
            return opened
        return {name: sources.JoinedRecords(part, join_to_characters) for name, part in opened.items()}

    def parallel(self) -> dict[str, RandomAccess]:
        """All parallel sources, by language pair."""
        return self._open("parallel")

    def texts(self) -> Iterator[str]:
        """Every different text of all sources: what a tokenizer is trained on.

        Raises:
          ConfigError: there is no source.
        """
        kinds: list[sources.Kind] = [kind for kind, configured in self._configured.items() if configured]
        if not kinds:
            raise ConfigError("config.data names no source, and config.tokenizer.path no tokenizer")
        seen = set()
        for kind in kinds:
            for sequence in self._open(kind).values():
                for index in range(len(sequence)):
                    for text in sequence[index].texts:
                        if (mark := hash(text)) not in seen:
                            seen.add(mark)
                            yield text

    def _open(self, kind: sources.Kind) -> dict[str, RandomAccess]:
        if kind not in self._opened:
            self._opened[kind] = self._read(kind)
        return self._opened[kind]

    def _read(self, kind: sources.Kind) -> dict[str, RandomAccess]:
        configured = self._configured[kind]
        if not configured:
            raise ConfigError(
                f"config.{self._where}.{kind} names no source, but an objective with a weight above 0 reads {kind} text"
            )
        parts: dict[str, list[RandomAccess]] = {}
        for name, source in configured.items():
            shown = f"{self._where}.{kind}.{name}".rstrip(".")
            for key, sequence in sources.open_source(shown, source, self._languages, kind).items():
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


def table(
    entries: Mapping[str, Group],
    shares: Mapping[str, float],
    tokens: Callable[[Record], int],
    drawn: float,
    sample: int = 3000,
) -> list[dict[str, Any]]:
    """A row per entry: records, tokens (estimated), probability, epochs.

    Args:
      entries: the mixture.
      shares: how often each is drawn.
      tokens: record -> tokens of its text.
      drawn: records that training will draw from the whole mixture.
      sample: records to count the tokens of, of all entries together; evenly spread over each.
    """
    rows = []
    for name, group in entries.items():
        number = len(group.records)
        step = max(1, number * len(entries) // sample)
        counted = [tokens(group.records[index]) for index in range(0, number, step)]
        rows.append(
            {
                "name": name,
                "records": number,
                "tokens": round(float(np.mean(counted)) * number),
                "probability": shares[name],
                "epochs": drawn * shares[name] / number,
            }
        )
    return rows
