"""A source's text in, parts of it out that workers can read by themselves; used by `preparation_shards.py`.

    SourceConfig, language or pair --cut--> [Part, ...] --opened--> the records of one part

A part is consecutive lines of a file, of Moses pairs the same lines of both files, or consecutive records where
records have numbers (array_record, tfds). Cutting reads a file from end to end and keeps no more of it than a block. A
part is read as a small file of its own in the source's format, so `records.py` makes the same records and the same
checks as of the whole file. What is packed (.gz) cannot be read from its middle: it is unpacked into a folder first.
"""

import codecs
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import numpy as np

from ernie_m_jax import atomic, stores
from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import objects, records
from ernie_m_jax.data.readers import BLOCK, DataError
from ernie_m_jax.task import RandomAccess, Record

NUMBERED = ("array_record", "tfds")  # formats with random access to records by number, without an index of the lines
STILL = "it must not change while it is read"
SAMPLE = 100  # records, evenly spread, whose mean size says how many numbered ones make a part


@dataclasses.dataclass(frozen=True)
class Piece:
    """Bytes `start` to `end`, exclusive, of a file."""

    path: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive records of a source.

    Attributes:
      source: its number among those of its language or pair.
      first: number of its first line, from 1; where records have numbers, of its first record, from 0.
      count: how many lines or records.
      pieces: where its lines are, one piece per file; none where records have numbers.
      head: a header row that its lines are to be read with.
    """

    source: int
    first: int
    count: int
    pieces: tuple[Piece, ...] = ()
    head: str = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of one language or pair.

    Attributes:
      kind: "monolingual" or "parallel".
      group: one code, or the two of the pair.
      languages: all that are configured.
      sources: name in the config and source, of those that have it, in the order of the config.
    """

    kind: records.Kind
    group: tuple[str, ...]
    languages: tuple[str, ...]
    sources: tuple[tuple[str, SourceConfig], ...]

    @property
    def name(self) -> str:
        """What it is called in names of files."""
        return "-".join((self.kind, *self.group))

    def files(self, number: int) -> tuple[str, list[str]]:
        """Format and files of source `number`."""
        name, source = self.sources[number]
        try:
            format_ = records.format_of(source, self.kind)
            if format_ == "text" and "{language}" not in source.path and len(self._groups(source)) > 1:
                raise DataError(f"{source.path}: text is one file per language; put {{language}} into the path")
            return format_, records.files_of(source, format_, self.group)
        except DataError as error:
            raise DataError(f"source {name!r}: {error}") from error

    def facts(self, number: int) -> list[str]:
        """Files of source `number` that change when its text does."""
        format_, paths = self.files(number)
        if format_ != "tfds":
            return paths
        source = self.sources[number][1]
        folder = source.path.removeprefix("tfds:")
        if not folder.startswith("/") and not stores.is_url(folder):
            folder = objects.TfdsExamples(source.path, source.split).folder
        return [stores.join(folder, "dataset_info.json")]

    def _groups(self, source: SourceConfig) -> list[tuple[str, ...]]:
        return records.groups_of(source, self.languages, self.kind)


def cut(text: Text, size: int, unpacked: str) -> Iterator[Part]:
    """The parts of a text, in order: of each source, lines of `size` bytes or a little more.

    Args:
      text: what to cut.
      size: bytes; of Moses pairs, those of the first language.
      unpacked: folder for what is packed, a path or URL.

    Raises:
      DataError: a file is missing, empty or not valid gzip; the two sides of a pair have unequal numbers of lines.
    """
    for number, (name, source) in enumerate(text.sources):
        format_, paths = text.files(number)
        if format_ in NUMBERED:
            yield from _numbered(text, number, size)
            continue
        try:
            ends, counts = _by_size(paths[0], size)
            others = [_by_lines(path, paths[0], counts) for path in paths[1:]]
            head = _first_line(paths[0]) if format_ == "tsv" and not source.columns else ""
            pieces = [_pieces(path, offsets, unpacked) for path, offsets in zip(paths, (ends, *others), strict=True)]
        except DataError as error:
            raise DataError(f"source {name!r}: {error}") from error
        first = 1
        for row, (count, files) in enumerate(zip(counts, zip(*pieces, strict=True), strict=True)):
            yield Part(number, first, count, files, head if row else "")
            first += count


@contextlib.contextmanager
def opened(text: Text, part: Part) -> Iterator[RandomAccess]:
    """The records of a part, while the block lasts; none where its lines are blank.

    Raises:
      DataError: the part cannot be read, or has other lines than it was cut with; the message has the source's own
        file and line.
    """
    name, source = text.sources[part.source]
    key = "-".join(text.group)
    if not part.pieces:
        whole = records.open_source(name, source, text.languages, text.kind, only=text.group)[key]
        yield Range(whole, part.first, part.count)
        return
    format_, paths = text.files(part.source)
    template = "part.{language}" if "{language}" in source.path else "part"
    with tempfile.TemporaryDirectory() as folder:
        own = dataclasses.replace(source, path=os.path.join(folder, template), format=format_)
        places = [own.path.replace("{language}", code) for code in text.group[: len(paths)]]
        for place, piece, path in zip(places, part.pieces, paths, strict=True):
            if _copy(piece, _before(part), place) != part.count:
                raise DataError(f"source {name!r}: {path}: it has other lines than before; {STILL}")
        found: RandomAccess = []
        try:
            found = records.open_source(name, own, text.languages, text.kind, only=text.group)[key]
        except records.NoRecords:
            pass
        except DataError as error:
            raise DataError(_named(str(error), part, dict(zip(places, paths, strict=True)))) from error
        yield found


class Range:
    """Some consecutive records of a sequence."""

    def __init__(self, parent: RandomAccess, first: int, count: int):
        self._parent, self._numbers = parent, range(first, first + count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        return self._parent[self._numbers[index]]


def _numbered(text: Text, number: int, size: int) -> Iterator[Part]:
    """Parts of records that have numbers."""
    name, source = text.sources[number]
    found = records.open_source(name, source, text.languages, text.kind, only=text.group)["-".join(text.group)]
    looked = range(0, len(found), -(-len(found) // SAMPLE))
    mean = sum(len(side.encode("utf-8", "replace")) for index in looked for side in found[index].texts) / len(looked)
    count = max(1, round(size / max(mean, 1)))
    for first in range(0, len(found), count):
        yield Part(number, first, min(count, len(found) - first))


@contextlib.contextmanager
def _reading(path: str) -> Iterator[BinaryIO]:
    """A file's content from its beginning, unpacked.

    Raises:
      DataError: it is missing or cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(stores.reading(path))
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        if not path.endswith(".gz"):
            yield file
            return
        try:  # the block may write as well: of what it raises only this is about the file
            yield cast(BinaryIO, stack.enter_context(gzip.open(file)))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error


def _newlines(path: str) -> Iterator[tuple[np.ndarray, int]]:
    """A file block by block: offsets after the newlines in it, int64[N], and the offset where the block ends."""
    offset = 0
    with _reading(path) as file:
        while block := file.read(BLOCK):
            yield np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + (offset + 1), offset + len(block)
            offset += len(block)
    if not offset:
        raise DataError(f"{path}: the file is empty")


def _by_size(path: str, size: int) -> tuple[list[int], list[int]]:
    """Where the parts of a file end, and the lines of each."""
    ends: list[int] = [0]
    counts: list[int] = []
    lines, after, end = 0, 0, 0  # lines of the part so far; where the last line ended; where the file does
    for newlines, read in _newlines(path):
        end = read
        while len(newlines) and (place := int(np.searchsorted(newlines, ends[-1] + size))) < len(newlines):
            ends.append(int(newlines[place]))
            counts.append(lines + place + 1)
            lines, newlines, after = 0, newlines[place + 1 :], ends[-1]
        lines += len(newlines)
        after = int(newlines[-1]) if len(newlines) else after
    if ends[-1] < end:
        ends.append(end)
        counts.append(lines + (after < end))
    return ends[1:], counts


def _by_lines(path: str, other: str, counts: Sequence[int]) -> list[int]:
    """Where the parts of a file end that have so many lines each.

    Raises:
      DataError: it has another number of lines than all of them, which `other` has.
    """
    wanted = np.cumsum(counts)
    ends: list[int] = []
    lines, after, end = 0, 0, 0
    for newlines, read in _newlines(path):
        end = read
        within = wanted[len(ends) :] - lines - 1
        ends += newlines[within[within < len(newlines)]].tolist()
        lines += len(newlines)
        after = int(newlines[-1]) if len(newlines) else after
    lines += after < end
    if lines != wanted[-1]:
        raise DataError(f"unequal sides: {other} has {wanted[-1]} lines, {path} has {lines}")
    return [*ends, end][: len(counts)]


def _first_line(path: str) -> str:
    with _reading(path) as file:
        try:
            return file.readline().decode("utf-8-sig").rstrip("\n") + "\n"
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:1: invalid UTF-8 ({error.reason}); convert the file to UTF-8") from error


def _pieces(path: str, ends: Sequence[int], unpacked: str) -> list[Piece]:
    """The pieces of a file that end there; of a packed file they are written into a folder."""
    starts = [0, *ends[:-1]]
    if not path.endswith(".gz"):
        return [Piece(path, start, end) for start, end in zip(starts, ends, strict=True)]
    made = []
    # Other texts cut the same file elsewhere.
    start_of_name = hashlib.sha256(json.dumps([path, list(ends)]).encode()).hexdigest()[:16]
    with _reading(path) as file:
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            target = stores.join(unpacked, f"unpacked-{start_of_name}-{number:05d}")
            with atomic.replacing(target) as out:
                _pour(file, out, end - start)
            made.append(Piece(target, 0, end - start))
    return made


def _before(part: Part) -> bytes:
    """What stands before a part's lines in its file: a header row, or a byte order mark for the reader to take off.

    Else it would take one off that is text, since it stands within the source's file.
    """
    return part.head.encode() or codecs.BOM_UTF8 * (part.first > 1)


def _copy(piece: Piece, before: bytes, place: str) -> int:
    """Writes the file of a piece; how many lines the piece has."""
    with open(place, "wb") as out, stores.reading(piece.path) as file:
        out.write(before)
        file.seek(piece.start)
        lines = _pour(file, out, piece.end - piece.start)
    if os.path.getsize(place) != len(before) + piece.end - piece.start:
        raise DataError(f"{piece.path}: it is shorter than before; {STILL}")
    return lines


def _pour(source: BinaryIO, target: BinaryIO, count: int) -> int:
    """Copies so many bytes, or all there are; how many lines they are."""
    lines, last = 0, b"\n"
    while count and (block := source.read(min(BLOCK, count))):
        target.write(block)
        count -= len(block)
        lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n")


def _named(message: str, part: Part, paths: dict[str, str]) -> str:
    """A message with the source's file and line in place of the part's."""
    for place, path in paths.items():

        def line(match: re.Match[str], path: str = path) -> str:
            return f"{path}:{int(match[1]) + part.first - 1 - bool(part.head)}" if match[1] else path

        message = re.sub(rf"{re.escape(place)}(?::(\d+))?", line, message)
    return message
