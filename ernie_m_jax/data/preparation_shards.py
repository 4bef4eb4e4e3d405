"""A config's text in, shards of its token ids out, in steps that any number of processes share.

    Text --cut_text--> numbers of parts --digest--> their digests --ranges, compare--> what stands there before
         --limits--> how much is kept --store--> a shard per part and way of joining

A shard holds what is left of one part, in the order of the text; lines are joined within it, by the rule of one
process. So a shard depends on the text and the job alone, not on who makes it or when. What goes from step to step is
small; what is large lies in a folder beside the shards, written whole or not at all. What is there is not made again,
so a preparation that was killed goes on. The folder's name is a digest of the job and of the versions of the files.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ernie_m_jax import atomic, stores
from ernie_m_jax.config import ConfigError
from ernie_m_jax.data import objects, prepared, records, stored_ids
from ernie_m_jax.data import preparation_duplicates as duplicates
from ernie_m_jax.data import preparation_parts as parts
from ernie_m_jax.data.preparation_parts import Part, Text
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import RandomAccess
from ernie_m_jax.tokenizer import Tokenizer

RANGE = 1 << 20  # records compared at a time, about; a table of 25 MB
LINES = 64  # lines that --max_characters keeps or leaves out together
VERSION = 1  # of what the folder holds


@dataclasses.dataclass(frozen=True)
class Job:
    """What is prepared, and how.

    Attributes:
      output: the folder of the shards, a path or URL that every process reaches.
      texts: of each language and pair, by `Text.name`.
      joins: to how many characters lines are joined, 0: not; a shard for each.
      tokenizer, style: its folder and style.
      fingerprint: the tokenizer's.
      part_bytes: of text per shard.
      max_characters: of each language or pair, about so many are kept; 0: all.
      keep_duplicates: whether repeated records are kept.
    """

    output: str
    texts: Mapping[str, Text]
    joins: tuple[int, ...]
    tokenizer: str
    style: str
    fingerprint: str
    part_bytes: int
    max_characters: float = 0
    keep_duplicates: bool = False

    def files(self, text: Text, shard: int | None = None) -> list[tuple[int, str]]:
        """To how many characters lines are joined, and the name of the file, or shard, with them so."""
        if text.kind == "parallel":
            return [(0, stored_ids.parallel_file("-".join(text.group), shard))]
        return [(join, stored_ids.monolingual_file(join, text.group[0], shard)) for join in self.joins]

    def versions(self) -> list[str]:
        """Facts of every file that is read.

        Raises:
          DataError: there is none of that name.
        """
        paths = {path for text in self.texts.values() for n in range(len(text.sources)) for path in text.files(n)[1]}
        found = []
        for path in sorted(paths):
            try:
                found.append(f"{path} {stores.facts(path)}")
            except FileNotFoundError as error:
                raise DataError(f"{path}: no such file") from error
        return found

    def work(self) -> str:
        """The name of the folder of what is done already."""
        tree = dataclasses.asdict(dataclasses.replace(self, output="", tokenizer=""))
        content = json.dumps([VERSION, tree, self.versions()], sort_keys=True)
        return f".work-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a job; each takes one element and gives those of the next.

    Attributes:
      job: what is prepared.
      work: path or URL of the folder of what is done already.
    """

    job: Job
    work: str

    def cut_text(self, name: str) -> Iterator[tuple[str, int]]:
        """A text's name -> the name and number of each of its parts."""
        text = self.job.texts[name]

        def make() -> list[Any]:
            return [dataclasses.asdict(part) for part in parts.cut(text, self.job.part_bytes, self.work)]

        for number in range(len(self._once(f"parts-{name}", make))):
            yield name, number

    def digest(self, element: tuple[str, int]) -> Iterator[tuple[str, tuple[int, int]]]:
        """A part -> its text's name; its number and how many records it has."""
        name, number = element
        path = stores.join(self.work, f"digests-{name}-{number:05d}")

        def make() -> int:
            with self._opened(name, number) as found:
                duplicates.write(path, duplicates.digests(found))
                return len(found)

        yield name, (number, self._once(f"records-{name}-{number:05d}", make))

    def ranges(self, element: tuple[str, Iterable[tuple[int, int]]]) -> Iterator[tuple[str, int, int]]:
        """A text with all its parts -> its name and ranges of buckets; nothing where a part is missing."""
        name, found = element
        counts = dict(found)
        if len(counts) < len(self._parts(name)):
            return
        total = sum(counts.values())
        if not total:
            shown = ", ".join(shown for shown, _ in self.job.texts[name].sources)
            raise DataError(f"{shown}: no data in {'-'.join(self.job.texts[name].group)!r}")
        number = min(duplicates.BUCKETS, -(-total // RANGE))
        for first, end in itertools.pairwise(np.linspace(0, duplicates.BUCKETS, number + 1).astype(int).tolist()):
            yield name, first, end

    def compare(self, element: tuple[str, int, int]) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """A range of buckets -> the text's name; the range and how many characters of it are left."""
        name, first, end = element
        path = stores.join(self.work, _repeated(name, first))

        def make() -> int:
            count = len(self._parts(name))
            tables = [
                duplicates.read(stores.join(self.work, f"digests-{name}-{number:05d}"), first, end)
                for number in range(count)
            ]
            rows, size = duplicates.repeated(tables, not self.job.keep_duplicates)
            duplicates.write_rows(path, rows)
            return size

        yield name, (first, end, self._once(f"left-{name}-{first:04d}-{end:04d}", make))

    def limits(
        self, element: tuple[str, Iterable[tuple[int, int, int]]]
    ) -> Iterator[tuple[str, int, tuple[int, ...], float]]:
        """A text with all its ranges -> each part, the ranges, and the share of the text that is kept."""
        name, found = element
        ordered = sorted(found)
        if sum(end - first for first, end, _ in ordered) < duplicates.BUCKETS:
            return
        size = sum(size for _, _, size in ordered)
        most = self.job.max_characters
        share = min(1.0, most / max(size, 1)) if most else 1.0
        for number in range(len(self._parts(name))):
            yield name, number, tuple(first for first, _, _ in ordered), share

    def store(self, element: tuple[str, int, tuple[int, ...], float]) -> Iterator[str]:
        """A part -> its shards; their names."""
        name, number, ranges, share = element

        def there(made: Mapping[str, Any]) -> bool:
            return all(stores.exists(stores.join(self.job.output, file)) for file in made)

        yield from self._once(
            f"stored-{name}-{number:05d}", lambda: self._stored(name, number, ranges, share), holds=there
        )

    def stored(self) -> dict[str, prepared.File]:
        """What the manifest says of each shard, in the order of their names.

        Raises:
          DataError: what could not be read, of all steps; a part that is missing.
        """
        problems = [name for name in stores.names(self.work) if name.startswith("error-")]
        if problems:
            said = [stores.read(stores.join(self.work, name)).decode() for name in problems]
            raise DataError("; ".join(sorted(set(said))))
        files: dict[str, prepared.File] = {}
        for name in self.job.texts:
            for number in range(len(self._parts(name))):
                path = stores.join(self.work, f"stored-{name}-{number:05d}.json")
                if not stores.exists(path):
                    raise DataError(f"{name}: part {number} was not prepared; run the same command again")
                files |= {key: prepared.File(**entry) for key, entry in json.loads(stores.read(path)).items()}
        return dict(sorted(files.items()))

    def _stored(self, name: str, number: int, ranges: tuple[int, ...], share: float) -> dict[str, Any]:
        """Writes the shards of a part; what the manifest says of each."""
        text, count = self.job.texts[name], len(self._parts(name))
        files = {}
        with self._opened(name, number) as found:
            there = [
                duplicates.read_rows(stores.join(self.work, _repeated(name, first)), count, number) for first in ranges
            ]
            left = np.ones(len(found), bool)
            left[np.concatenate(there)] = False
            within = _within(text, number, len(found), share)
            skipped = {"repeated or blank": int((~left).sum()), "over --max_characters": int((left & ~within).sum())}
            skipped = {reason: number for reason, number in skipped.items() if number}
            rows = np.flatnonzero(left & within)
            if not len(rows):
                return {}
            chosen: RandomAccess = objects.ChosenRecords(found, rows) if skipped else found
            tokenizer = _tokenizer(self.job.tokenizer, self.job.style, self.job.fingerprint)
            for join, file in self.job.files(text, number if count > 1 else None):
                lines = stored_ids.Lines(records.JoinedRecords(chosen, join) if join else chosen, tokenizer)
                made = prepared.written(self.job.output, file, lines, skipped, compressed=False)
                files[file] = dataclasses.asdict(dataclasses.replace(made, tokens=lines.tokens))
        return files

    @contextlib.contextmanager
    def _opened(self, name: str, number: int) -> Iterator[RandomAccess]:
        with parts.opened(self.job.texts[name], self._parts(name)[number]) as found:
            yield found

    def _parts(self, name: str) -> list[Part]:
        return _read_parts(stores.join(self.work, f"parts-{name}.json"))

    def _once(self, name: str, make: Callable[[], Any], holds: Callable[[Any], bool] = lambda made: True) -> Any:
        """What `make` returned when it was done, perhaps by another process before, if it `holds`; it is plain data."""
        path = stores.join(self.work, f"{name}.json")
        if stores.exists(path) and holds(made := json.loads(stores.read(path))):
            return made
        made = make()
        atomic.write(path, json.dumps(made).encode())
        return made


def told(steps: Steps, step: str, element: Any) -> list[Any]:
    """One step; what a user can mend is noted for `Steps.stored`, and goes no further.

    Without an exception, since a runner would try again, print its traces and stop the parts that are well.
    """
    try:
        return list(getattr(steps, step)(element))
    except (DataError, ConfigError, OSError) as error:
        said = " ".join(str(error).split()).encode()
        atomic.write(stores.join(steps.work, f"error-{hashlib.sha256(said).hexdigest()[:16]}"), said)
        return []


def _repeated(name: str, first: int) -> str:
    return f"repeated-{name}-{first:04d}"


def _within(text: Text, number: int, count: int, share: float) -> np.ndarray:
    """Which of a part's records a share of the text keeps, bool[N]: a hash of a pair's, or some lines', place says."""
    if share >= 1:
        return np.ones(count, bool)
    run = LINES if text.kind == "monolingual" else 1
    drawn = [
        int.from_bytes(hashlib.blake2b(f"{text.name}/{number}/{place}".encode(), digest_size=8).digest())
        for place in range(-(-count // run))
    ]
    return np.repeat(np.array(drawn, np.uint64) < np.uint64(share * 2.0**64), run)[:count]


@functools.lru_cache(maxsize=4)
def _read_parts(path: str) -> list[Part]:
    """The parts of a text, which do not change once they are written."""
    found = []
    for entry in json.loads(stores.read(path)):
        pieces = tuple(parts.Piece(**piece) for piece in entry.pop("pieces"))
        found.append(Part(**entry, pieces=pieces))
    return found


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, style: str, fingerprint: str) -> Tokenizer:
    """The job's tokenizer, once per process.

    Raises:
      ConfigError: it cannot be opened here, or is another one.
    """
    try:
        loaded = Tokenizer.load(path, style)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"config.tokenizer: {error}") from error
    if loaded.fingerprint != fingerprint:
        raise ConfigError(f"config.tokenizer.path {path}: a worker finds another tokenizer there than the command did")
    return loaded
