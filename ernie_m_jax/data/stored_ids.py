"""Token ids stored once: a config's text in, ArrayRecord files of its ids out, and records of them in training.

    DIR/monolingual-JOIN-LANGUAGE.array_record   a record per line; where lines are joined (to JOIN characters), a group
    DIR/parallel-PAIR.array_record               a record per pair
    DIR/monolingual-JOIN-LANGUAGE-00042.array_record, ...   shards in place of one file, in the order of their numbers
    DIR/manifest.json                            as of every prepared folder; with the tokenizer's fingerprint

A record is uint32, little-endian: the ids of its text as the tokenizer gives them, without special tokens and uncut; of
a pair first the number of the first text's ids. So windows and masks are drawn anew in every epoch, as from text, and
the batches are the same bit for bit. Joined lines are stored joined: the ids of joined texts are not always those of
each in a row (a unigram model adds up other numbers; style "huggingface" drops a "▁" only at the beginning of a text).
"""

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ernie_m_jax import stores
from ernie_m_jax.data import prepared
from ernie_m_jax.data.array_records import SUFFIX
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import RandomAccess, Record

TASK = "corpus"  # what the manifest names instead of a task
ID = np.dtype("<u4")


def monolingual_file(join_to_characters: int, language: str, shard: int | None = None) -> str:
    """Name of a language's file, or of one of its shards."""
    return f"monolingual-{join_to_characters}-{language}{_number(shard)}{SUFFIX}"


def parallel_file(pair: str, shard: int | None = None) -> str:
    """Name of a pair's file, or of one of its shards."""
    return f"parallel-{pair}{_number(shard)}{SUFFIX}"


def _number(shard: int | None) -> str:
    return "" if shard is None else f"-{shard:05d}"


def shards(manifest: prepared.Manifest, name: str) -> list[str]:
    """The files that hold what a file of this name holds: itself, or its shards in their order, or none."""
    if name in manifest.files:
        return [name]
    start = name.removesuffix(SUFFIX)
    found = re.compile(re.escape(start) + r"-(\d{5,})" + re.escape(SUFFIX))
    numbers = {int(match[1]): match[0] for match in map(found.fullmatch, manifest.files) if match}
    return [numbers[number] for number in sorted(numbers)]


class Lines:
    """Records of text as the bytes of records of ids; counts the ids as it goes."""

    def __init__(self, records: RandomAccess, tokenizer: Any):
        """`records` are monolingual or parallel; `tokenizer` is the run's."""
        self._records, self._tokenizer = records, tokenizer
        self.tokens = 0

    def __iter__(self) -> Iterator[bytes]:
        for index in range(len(self._records)):
            sides = [self._tokenizer.encode_ids(text) for text in self._records[index].texts]
            self.tokens += sum(map(len, sides))
            counts = [[len(side)] for side in sides[:-1]]
            yield np.array([number for part in (*counts, *sides) for number in part], ID).tobytes()


class IdRecords:
    """Random access to the records of one file, or of its shards in a row; they have ids and no texts.

    Attributes:
      folder: the prepared folder.
      tokenizer: fingerprint of the tokenizer whose ids they are.
    """

    def __init__(self, folder: str, manifest: prepared.Manifest, name: str, languages: tuple[str, ...]):
        """Opens the file `name` of a prepared folder.

        Args:
          folder: its path.
          manifest: its manifest, which has the file or its shards.
          name: of the file.
          languages: one code, or the two of a pair.

        Raises:
          DataError: one is not the file that the manifest means.
        """
        self.folder, self.tokenizer = folder, manifest.tokenizer
        self._languages = languages
        self._shards = [
            prepared.checked(stores.join(folder, shard), manifest.files[shard]) for shard in shards(manifest, name)
        ]
        self._ends = list(itertools.accumulate(map(len, self._shards)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        number = bisect.bisect_right(self._ends, index)
        shard = self._shards[number]
        index += len(shard) - self._ends[number]
        content = shard.content(index)
        if len(content) % ID.itemsize:
            raise DataError(f"{shard.place(index)}: {len(content)} bytes are no ids; prepare the corpus again")
        ids = np.frombuffer(content, ID).astype(np.int32)
        if ids.size and ids.min() < 0:
            raise DataError(f"{shard.place(index)}: an id above 2**31; prepare the corpus again")
        if len(self._languages) == 1:
            return Record((), self._languages, ids=(ids,))
        cut = 1 + int(ids[0]) if ids.size else 1
        if cut > ids.size:
            raise DataError(f"{shard.place(index)}: cut short; prepare the corpus again")
        return Record((), self._languages, ids=(ids[1:cut], ids[cut:]))


class StoredText:
    """A language of a prepared folder, of which a task takes the records that it needs: lines, or joined ones.

    Attributes:
      folder, tokenizer: see `IdRecords`.
    """

    def __init__(self, folder: str, manifest: prepared.Manifest, language: str):
        self.folder, self.tokenizer = folder, manifest.tokenizer
        self._manifest, self._language = manifest, language

    def joined(self, join_to_characters: int) -> IdRecords:
        """The records of which lines were joined to about so many characters; 0: the lines themselves.

        Raises:
          DataError: they were not prepared.
        """
        name = monolingual_file(join_to_characters, self._language)
        if not shards(self._manifest, name):
            there = _joins(self._manifest, self._language)
            raise DataError(
                f"{self.folder}: prepared with join_to_characters {', '.join(map(str, there))} in {self._language!r}, "
                f"but an objective has {join_to_characters}; correct the config, or prepare the corpus again with it"
            )
        return IdRecords(self.folder, self._manifest, name, (self._language,))


def _joins(manifest: prepared.Manifest, language: str) -> list[int]:
    """For which numbers of characters a language's lines were joined."""
    pattern = re.compile(rf"monolingual-(\d+)-{re.escape(language)}(-\d{{5,}})?{re.escape(SUFFIX)}")
    return sorted({int(match[1]) for match in map(pattern.fullmatch, manifest.files) if match})


def is_stored(path: str) -> bool:
    """Whether the path of a source is a prepared folder of ids.

    Raises:
      DataError: it is a folder whose preparation did not finish.
    """
    return "{" not in path and ":" not in path.partition("://")[0] and prepared.is_prepared(path)


def open_folder(path: str, groups: list[tuple[str, ...]]) -> Mapping[str, StoredText | IdRecords]:
    """Opens the languages, or the pairs, of a prepared folder.

    Args:
      path: of the folder.
      groups: one code each, or the two of a pair.

    Raises:
      DataError: it was prepared for a task; a language or pair is missing; a file is another one than was prepared.
    """
    manifest = prepared.manifest(path)
    if manifest.task != TASK:
        raise DataError(
            f"{path}: prepared for the task {manifest.task!r}; a source takes a folder of "
            "`python -m ernie_m_jax.data.prepare corpus`"
        )
    opened: dict[str, StoredText | IdRecords] = {}
    for group in groups:
        key = "-".join(group)
        found = _joins(manifest, key) if len(group) == 1 else shards(manifest, parallel_file(key))
        if not found:
            names = (re.sub(r"(-\d{5,})?" + re.escape(SUFFIX), "", name) for name in manifest.files)
            there = ", ".join(dict.fromkeys(names)) or "nothing"
            key_of = "languages" if len(group) == 1 else "pairs"
            raise DataError(f"{path}: no data in {key!r}; prepared are: {there}. Name what is there in `{key_of}`")
        if len(group) == 1:
            opened[key] = StoredText(path, manifest, key)
        else:
            opened[key] = IdRecords(path, manifest, parallel_file(key), group)
    return opened
