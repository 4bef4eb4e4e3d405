"""A config's text in, shards of its token ids out, in steps that any number of processes share.

    Text --cut_text--> numbers of parts --digest--> their digests --ranges, compare--> what stands there before
         --limits--> how much is kept --store--> a shard per part and way of joining

A shard holds what is left of one part, in the order of the text; lines are joined within it, by the rule of one
process. So a shard depends on the text and the job alone, not on who makes it or when. What goes from step to step is
small; what is large lies in a folder beside the shards, written whole or not at all. What is there is not made again,
so a preparation that was killed goes on. The folder's name is a digest of the job and of the versions of the files.
"""

import collections
import contextlib
import dataclasses
import functools
import gzip
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

RANGE = 1 << 23  # records compared at a time, about; a table of 200 MB
LINES = 64  # lines that --max_characters keeps or leaves out together, or fewer
RUN = 6400  # characters of such lines, about, where lines are long
VERSION = 2  # of what the folder holds
Kept = tuple[float, int]  # which share of a text is kept, and how many of its records in a row together


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
        paths = {path for text in self.texts.values() for n in range(len(text.sources)) for path in text.facts(n)}
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
                try:
                    table = duplicates.digests(found)
                except DataError as error:
                    raise DataError(f"{self._shown(name, number)}: {error}") from error
                duplicates.write(path, table)
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

    def compare(self, element: tuple[str, int, int]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """A range of buckets -> the text's name; the range, and how many characters and records of it are left."""
        name, first, end = element
        path = stores.join(self.work, _repeated(name, first))

        def make() -> list[int]:
            count = len(self._parts(name))
            tables = [
                duplicates.read(stores.join(self.work, f"digests-{name}-{number:05d}"), first, end)
                for number in range(count)
            ]
            rows, size = duplicates.repeated(tables, not self.job.keep_duplicates)
            duplicates.write_rows(path, rows)
            return [size, sum(map(len, tables)) - sum(map(len, rows))]

        size, left = self._once(f"left-{name}-{first:04d}-{end:04d}", make)
        yield name, (first, end, size, left)

    def limits(
        self, element: tuple[str, Iterable[tuple[int, int, int, int]]]
    ) -> Iterator[tuple[str, int, tuple[int, ...], Kept]]:
        """A text with all its ranges -> each part, the ranges, and what is kept of the text."""
        name, found = element
        ordered = sorted(found)
        if sum(end - first for first, end, _, _ in ordered) < duplicates.BUCKETS:
            return
        size, left = (sum(column) for column in list(zip(*ordered, strict=True))[2:])
        most = self.job.max_characters
        share = min(1.0, most / max(size, 1)) if most else 1.0
        run = max(1, min(LINES, RUN * left // max(size, 1))) if self.job.texts[name].kind == "monolingual" else 1
        for number in range(len(self._parts(name))):
            yield name, number, tuple(first for first, *_ in ordered), (share, run)

    def store(self, element: tuple[str, int, tuple[int, ...], Kept]) -> Iterator[str]:
        """A part -> its shards; their names."""
        name, number, ranges, kept = element

        def there(made: Mapping[str, Any]) -> bool:
            return all(
                stores.exists(stores.join(self.job.output, file)) for file, entry in made.items() if entry["records"]
            )

        yield from self._once(
            f"stored-{name}-{number:05d}", lambda: self._stored(name, number, ranges, kept), holds=there
        )

    def stored(self) -> dict[str, prepared.File]:
        """What the manifest says of each shard, in the order of their names.

        Raises:
          DataError: what could not be read, of all steps; a part that is missing.
        """
        left = stores.names(self.work)
        files: dict[str, prepared.File] = {}
        try:
            for name in self.job.texts:
                made = [
                    json.loads(stores.read(stores.join(self.work, f"stored-{name}-{number:05d}.json")))
                    for number in range(len(self._parts(name)))
                ]
                for shards in zip(*map(dict.items, made), strict=True):  # with lines joined in one way
                    files |= _counted({key: prepared.File(**entry) for key, entry in shards})
        except (FileNotFoundError, ValueError) as error:
            said = [stores.read(stores.join(self.work, note)).decode() for note in left if note.startswith("error-")]
            missing = f"{name}: a part was not prepared; run the same command again"
            raise DataError("; ".join(sorted(set(said))) or missing) from error
        return dict(sorted(files.items()))

    def _stored(self, name: str, number: int, ranges: tuple[int, ...], kept: Kept) -> dict[str, Any]:
        """Writes the shards of a part; what the manifest says of each, and also of one that would be empty."""
        text, count = self.job.texts[name], len(self._parts(name))
        files = {}
        with self._opened(name, number) as found:
            there = [
                duplicates.read_rows(stores.join(self.work, _repeated(name, first)), count, number) for first in ranges
            ]
            left = np.ones(len(found), bool)
            left[np.concatenate(there)] = False
            within = _within(text, number, len(found), kept)
            skipped = {"repeated or blank": int((~left).sum()), "over --max_characters": int((left & ~within).sum())}
            skipped = {reason: number for reason, number in skipped.items() if number}
            rows = np.flatnonzero(left & within)
            names = self.job.files(text, number if count > 1 else None)
            if not len(rows):
                return {file: dataclasses.asdict(prepared.File(0, 0, "", skipped)) for _, file in names}
            chosen: RandomAccess = objects.ChosenRecords(found, rows) if skipped else found
            tokenizer = _tokenizer(self.job.tokenizer, self.job.style, self.job.fingerprint)
            for join, file in names:
                lines = stored_ids.Lines(records.JoinedRecords(chosen, join) if join else chosen, tokenizer)
                made = prepared.written(self.job.output, file, lines, skipped, compressed=False)
                files[file] = dataclasses.asdict(dataclasses.replace(made, tokens=lines.tokens))
        return files

    @contextlib.contextmanager
    def _opened(self, name: str, number: int) -> Iterator[RandomAccess]:
        with parts.opened(self.job.texts[name], self._parts(name)[number]) as found:
            yield found

    def _shown(self, name: str, number: int) -> str:
        """Source, file and lines of a part, for messages."""
        text, part = self.job.texts[name], self._parts(name)[number]
        shown, source = text.sources[part.source]
        return f"source {shown!r}: {source.path}: {part.count} lines or records from {part.first}"

    def _parts(self, name: str) -> list[Part]:
        return _read_parts(stores.join(self.work, f"parts-{name}.json"))

    def _once(self, name: str, make: Callable[[], Any], holds: Callable[[Any], bool] = lambda made: True) -> Any:
        """What `make` returned when it was done, perhaps by another process before, if it `holds`; it is plain data."""
        path = stores.join(self.work, f"{name}.json")
        with contextlib.suppress(FileNotFoundError, ValueError):  # cut off where a machine went down
            if holds(made := json.loads(stores.read(path))):
                return made
        made = make()
        atomic.write(path, json.dumps(made).encode())
        return made


def told(steps: Steps, step: str, element: Any) -> list[Any]:
    """One step; what a user can mend is noted for `Steps.stored`, and goes no further.

    Without an exception, since a runner would try again, print its traces and stop the parts that are well. What a
    disk or store fails at is left to the runner, since it may do the next time.
    """
    try:
        return list(getattr(steps, step)(element))
    except (DataError, ConfigError) as error:
        if _passes(error):
            raise
        said = " ".join(str(error).split()).encode()
        atomic.write(stores.join(steps.work, f"error-{hashlib.sha256(said).hexdigest()[:16]}"), said)
        return []


def _passes(error: BaseException | None) -> bool:
    """Whether an error comes from a disk or store, and not from a file that is missing, forbidden or damaged."""
    while error and not isinstance(error, OSError):
        error = error.__cause__
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, gzip.BadGzipFile)
    return error is not None and not isinstance(error, lasting)


def _counted(shards: dict[str, prepared.File]) -> dict[str, prepared.File]:
    """The shards that have records; the first of them counts what was left out of those that have none."""
    found = {name: file for name, file in shards.items() if file.records}
    for name, first in itertools.islice(found.items(), 1):
        skipped = collections.Counter(first.skipped)
        for file in shards.values():
            skipped.update({} if file.records else file.skipped)
        found[name] = dataclasses.replace(first, skipped=dict(skipped))
    return found


def _repeated(name: str, first: int) -> str:
    return f"repeated-{name}-{first:04d}"


def _within(text: Text, number: int, count: int, kept: Kept) -> np.ndarray:
    """Which of a part's records are kept, bool[N]: a hash of the place of so many in a row says."""
    share, run = kept
    if share >= 1:
        return np.ones(count, bool)
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
