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
from ernie_m_jax.data import stored_ids
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
        opening: Callable[..., dict[str, Any]] = sources.open_source,
    ):
        """Opens nothing yet.

        Args:
          cfg: the config.
          monolingual: sources to read instead of `config.data.monolingual`, such as held-out ones.
          parallel: the same for `config.data.parallel`.
          where: of the config they stand, for messages.
          opening: opens a source; see `records.open_source`.
        """
        self._where, self._opening = where, opening
        self._languages = cfg.languages
        self._configured: dict[sources.Kind, Mapping[str, SourceConfig]] = {
            "monolingual": cfg.data.monolingual if monolingual is None else monolingual,
            "parallel": cfg.data.parallel if parallel is None else parallel,
        }
        self._opened: dict[str, dict[str, list[Any]]] = {}

    def monolingual(self, join_to_characters: int = 0) -> dict[str, RandomAccess]:
        """All monolingual sources, by language; short lines joined where `join_to_characters` is above 0."""
        join = max(join_to_characters, 0)
        return {name: _joined(parts, join) for name, parts in self._open("monolingual").items()}

    def parallel(self) -> dict[str, RandomAccess]:
        """All parallel sources, by language pair."""
        return {name: _concatenated(parts) for name, parts in self._open("parallel").items()}

    def holds_ids(self) -> bool:
        """Whether any source that was opened holds ids instead of text."""
        return any(_is_stored(part) for opened in self._opened.values() for parts in opened.values() for part in parts)

    def check_tokenizer(self, fingerprint: str) -> None:
        """Compares the run's tokenizer with that of the stored ids that were opened.

        Raises:
          ConfigError: they are another tokenizer's.
        """
        for kind, opened in self._opened.items():
            for part in (part for parts in opened.values() for part in parts if _is_stored(part)):
                if part.tokenizer != fingerprint:
                    raise ConfigError(
                        f"config.{self._where}.{kind}: the ids in {part.folder} are of the tokenizer "
                        f"{part.tokenizer[:12]}, the run's is {fingerprint[:12]} (fingerprints): set "
                        "config.tokenizer.path and style to the one they were prepared with, or prepare them again"
                    )

    def texts(self) -> Iterator[str]:
        """Every different text of all sources: what a tokenizer is trained on.

        Raises:
          ConfigError: there is no source.
        """
        kinds: list[sources.Kind] = [kind for kind, configured in self._configured.items() if configured]
        if not kinds:
            raise ConfigError("config.data names no source, and config.tokenizer.path no tokenizer")
        for part in (part for kind in kinds for parts in self._open(kind).values() for part in parts):
            if _is_stored(part):
                raise ConfigError(
                    f"config.tokenizer.path is empty, but {part.folder} holds ids and no text to train a tokenizer on: "
                    "set it to the tokenizer that they were prepared with"
                )
        seen = set()
        for kind in kinds:
            for sequence in map(_concatenated, self._open(kind).values()):
                for index in range(len(sequence)):
                    for text in sequence[index].texts:
                        if (mark := hash(text)) not in seen:
                            seen.add(mark)
                            yield text

    def _open(self, kind: sources.Kind) -> dict[str, list[Any]]:
        if kind not in self._opened:
            self._opened[kind] = self._read(kind)
        return self._opened[kind]

    def _read(self, kind: sources.Kind) -> dict[str, list[Any]]:
        configured = self._configured[kind]
        if not configured:
            raise ConfigError(
                f"config.{self._where}.{kind} names no source, but an objective with a weight above 0 reads {kind} text"
            )
        parts: dict[str, list[Any]] = {}
        for name, source in configured.items():
            shown = f"{self._where}.{kind}.{name}".rstrip(".")
            # Only training checks whose ids they are; what evaluates reads text.
            opened = self._opening(shown, source, self._languages, kind, takes_ids=self._where == "data")
            for key, sequence in opened.items():
                parts.setdefault(key, []).append(sequence)
        return parts


def _is_stored(part: Any) -> bool:
    return isinstance(part, stored_ids.StoredText | stored_ids.IdRecords)


def _concatenated(parts: Sequence[RandomAccess]) -> RandomAccess:
    return parts[0] if len(parts) == 1 else Concatenation(parts)


def _joined(parts: Sequence[Any], join_to_characters: int) -> RandomAccess:
    """A language's sources as one sequence, its lines joined; where ids are stored, they were joined beforehand."""
    stored = [part.joined(join_to_characters) for part in parts if _is_stored(part)]
    texts = [part for part in parts if not _is_stored(part)]
    if join_to_characters and texts:
        texts = [sources.JoinedRecords(_concatenated(texts), join_to_characters)]
    return _concatenated([*texts, *stored])


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
