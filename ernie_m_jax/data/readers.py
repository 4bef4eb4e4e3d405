"""Text files in, indexed lines and cells out: the byte level under `records.py`.

A file, or a local copy of a URL's, becomes a byte buffer (memory-mapped unless it is compressed) and int64 offsets into
it, built by NumPy in blocks: no Python object per line. A text is decoded when it is asked for. Files are checked
to be UTF-8 while they are indexed, so a bad byte is an error at opening, with its line. `labelled.py`, which may leave
bad rows out, asks for `lines(strict=False)` and `Cells` and judges the rows itself.
"""

import codecs
import gzip
import itertools
import os
import weakref
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ernie_m_jax import stores
from ernie_m_jax.task import Record

BLOCK = 4 << 20  # bytes indexed at a time
MAX_RATIO = 100  # unpacked by packed size: text shrinks to a fifth or a tenth, a bomb to a thousandth
_UNPACKED = 64 << 20  # bytes up to which the ratio does not count
CATEGORIES = 64  # different cells of a column that are found by comparing bytes; others are decoded one by one
_CHANGED = "it is shorter than when it was opened; put back what it was, then run the same command again"
_CATEGORY_BYTES = 1000  # of a cell that is compared byte by byte, which takes microseconds each
# The first two bytes, in UTF-8, of every Unicode space beyond ASCII.
_SPACES = ((0xC2, 0x85), (0xC2, 0xA0), (0xE1, 0x9A), (0xE2, 0x80), (0xE2, 0x81), (0xE3, 0x80))


class DataError(ValueError):
    """Data that cannot be read; the message names the file, line or key and what is allowed."""


def listed(names: Iterable[Any]) -> str:
    """Names out of a file, for a message of one line: one that does not print is escaped, and what is long is cut."""
    texts = (text if (text := str(name)).isprintable() else ascii(text)[1:-1] for name in names)
    return f"{', '.join(f'{text:.80}' for text in texts):.1000}"


class MissingData(DataError):
    """Data that are not there.

    Attributes:
      reason: what is missing.
      language: the one that is missing, "" where it is a whole split.
      advice: where to get it and put it, "" where nothing is known.
    """

    def __init__(self, reason: str, language: str = "", advice: str = "", otherwise: str = ""):
        """The message is all of it; `otherwise` is what else can be done."""
        super().__init__(". ".join(filter(None, (reason, advice))) + otherwise)
        self.reason, self.language, self.advice = reason, language, advice


class Buffer:
    """The bytes of one file, as `data`, uint8[N]. Pickles as its path where it is a memory map.

    While a run goes on a file may be cut, and to read a map beyond its end ends the process. So `span` reads the file.
    """

    def __init__(self, path: str):
        """Opens a local path or any URL known to fsspec; `.gz` is unpacked.

        Raises:
          DataError: the file is missing, empty, not readable, not valid gzip or far larger than it looks.
        """
        self.path = path
        self._open()
        if not self.data.size:
            raise DataError(f"{path}: the file is empty")

    def _open(self) -> None:
        self.data, self._file = _load(self.path)
        if self._file is not None:
            weakref.finalize(self, os.close, self._file)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._file is None else {"path": self.path, "size": self.data.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "data" not in state:
            self._open()
            if self.data.size < state["size"]:
                raise DataError(f"{self.path}: {_CHANGED}")

    def span(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, exclusive.

        Raises:
          DataError: the file has become shorter, or cannot be read any more.
        """
        if self._file is None:
            return self.data[start:end].tobytes()
        content = b""
        while len(content) < end - start:  # a read may return less, of 2 GB and on some file systems
            try:
                part = os.pread(self._file, end - start - len(content), start + len(content))
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read: {error}") from error
            if not part:
                raise DataError(f"{self.path}: {_CHANGED}")
            content = content + part if content else part
        return content

    def positions(self, byte: int) -> np.ndarray:
        """Offsets of a byte, int64[N] ascending."""
        return np.concatenate([np.flatnonzero(block == byte) + offset for offset, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The bytes in order as (offset, uint8[<= BLOCK])."""
        for offset in range(0, self.data.size, BLOCK):
            yield offset, self.data[offset : offset + BLOCK]


class Texts:
    """Random access to spans of a buffer as stripped text."""

    def __init__(self, buffer: Buffer, starts: np.ndarray, ends: np.ndarray):
        """Keeps the spans as they are: blank ones are the caller's to drop.

        Args:
          buffer: the file.
          starts: int64[N], ascending.
          ends: int64[N], ascending, exclusive.
        """
        self.buffer, self.starts, self.ends = buffer, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        return self.buffer.span(self.starts[index], self.ends[index]).decode("utf-8").strip()

    def filled(self) -> np.ndarray:
        """Which texts hold more than spaces, bool[N]."""
        data, filled = self.buffer.data, self.ends > self.starts
        first, second = (data[np.minimum(self.starts + step, data.size - 1)] for step in (0, 1))
        doubtful = first <= 32
        for lead, follow in _SPACES:
            doubtful |= (first == lead) & (second == follow)
        for index in np.flatnonzero(filled & doubtful):  # may begin with a space: few lines, each looked at
            filled[index] = bool(self[int(index)])
        return filled

    def take(self, rows: np.ndarray) -> "Texts":
        """The texts of ascending row numbers or of a mask."""
        return Texts(self.buffer, self.starts[rows], self.ends[rows])

    def invalid(self) -> np.ndarray:
        """Which texts are not UTF-8, bool[N]."""
        wrong = np.zeros(len(self), bool)
        edges = np.searchsorted(self.starts, np.arange(0, self.buffer.data.size, BLOCK))
        for low, high in itertools.pairwise([*edges, len(self)]):
            if low < high and not _decodes(self.buffer.data[self.starts[low] : self.ends[high - 1]]):
                for row in range(low, high):
                    wrong[row] = not _decodes(self.buffer.data[self.starts[row] : self.ends[row]])
        return wrong

    def categories(self) -> tuple[np.ndarray, list[str]]:
        """The different texts of a column with few of them: number of each row's text, int64[N], and the texts."""
        data, starts, sizes = self.buffer.data, self.starts, self.ends - self.starts
        numbers = np.full(len(self), -1)
        names: dict[str, int] = {}
        rest = np.flatnonzero(sizes <= _CATEGORY_BYTES)
        for _ in range(CATEGORIES):
            if not rest.size:
                break
            row = int(rest[0])
            same = rest[sizes[rest] == sizes[row]]
            for step in range(int(sizes[row])):
                same = same[data[starts[same] + step] == data[starts[row] + step]]
            numbers[same] = names.setdefault(self[row], len(names))
            rest = rest[numbers[rest] < 0]
        for row in map(int, np.flatnonzero(numbers < 0)):
            numbers[row] = names.setdefault(self[row], len(names))
        return numbers, list(names)


class Cells:
    """The tab-separated cells of lines, counted but not checked.

    Attributes:
      counts: cells of each line, int64[N].
    """

    def __init__(self, rows: Texts):
        self.rows = rows
        self.tabs = rows.buffer.positions(9)
        self.first = np.searchsorted(self.tabs, rows.starts)
        self.counts = np.searchsorted(self.tabs, rows.ends) - self.first + 1

    def column(self, number: int, rows: np.ndarray) -> Texts:
        """The cells of one column, counted from 0, in ascending rows (or a mask) that all have it."""
        first, starts, ends = self.first[rows] + number, self.rows.starts[rows], self.rows.ends[rows]
        last = self.counts[rows] == number + 1
        if number:
            starts = self.tabs[first - 1] + 1
        if not last.all():
            ends = np.where(last, ends, self.tabs[np.minimum(first, self.tabs.size - 1)])
        return Texts(self.rows.buffer, starts, ends)


class MonolingualTexts:
    """Texts of one language as records."""

    def __init__(self, texts: Texts, language: str):
        self.texts, self.language = texts, language

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Record:
        return Record((self.texts[index],), (self.language,))


class ParallelTexts:
    """Two aligned columns of texts as records."""

    def __init__(self, sides: tuple[Texts, Texts], languages: tuple[str, str]):
        self.sides, self.languages = sides, languages

    def __len__(self) -> int:
        return len(self.sides[0])

    def __getitem__(self, index: int) -> Record:
        return Record((self.sides[0][index], self.sides[1][index]), self.languages)


def lines(path: str, strict: bool = True) -> Texts:
    """Every line of a file, blank ones included; the line's number is its index plus one.

    Args:
      path: the file.
      strict: whether invalid UTF-8 is an error; if not, `Texts.invalid` finds such lines.

    Raises:
      DataError: missing or empty file, invalid UTF-8 (with its line) unless told otherwise.
    """
    buffer = Buffer(path)
    if strict:
        _check_utf8(buffer)
    ends = buffer.positions(10)
    if not ends.size or ends[-1] != buffer.data.size - 1:
        ends = np.append(ends, buffer.data.size)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if buffer.data[:3].tobytes() == codecs.BOM_UTF8:
        starts[0] = 3
    return Texts(buffer, starts, ends)


def table(path: str, columns: tuple[str, ...] = ()) -> dict[str, Texts]:
    """Columns of a tab-separated file by name, row by row, without blank lines; cells may be empty, nothing is quoted.

    Args:
      path: the file.
      columns: names of the columns, for a file without header row.

    Raises:
      DataError: as `lines`; a row whose number of cells is not the header's (with its line); a repeated name.
    """
    rows = lines(path)
    names = list(columns) or rows[0].split("\t")
    if len(set(names)) != len(names):
        raise DataError(f"{path}: column names are repeated: {names!r:.200}")
    cells = Cells(rows)
    kept = (cells.counts > 1) | rows.filled()
    if not columns:
        kept[0] = False
    wrong = np.flatnonzero(kept & (cells.counts != len(names)))
    if wrong.size:
        where = "`columns` names" if columns else "the header has"
        line = int(wrong[0])
        raise DataError(f"{path}:{line + 1}: {cells.counts[line]} cells, {where} {len(names)}")
    return {name: cells.column(number, kept) for number, name in enumerate(names)}


def _load(path: str) -> tuple[np.ndarray, int | None]:
    """The bytes, and the descriptor of the file where they are a memory map."""
    try:
        here = stores.local(path)
        if not path.endswith(".gz"):
            if not os.path.getsize(here):
                return np.zeros(0, np.uint8), None
            with open(here, "rb") as file:
                return np.asarray(np.memmap(file, np.uint8, "r")), os.dup(file.fileno())
        most = max(_UNPACKED, MAX_RATIO * os.path.getsize(here))
        with gzip.open(here) as packed:
            content = packed.read(most + 1)
        if len(content) > most:
            raise DataError(f"{path}: unpacks to more than the {most} bytes allowed for its size; unpack it yourself")
        return np.frombuffer(content, np.uint8), None
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _check_utf8(buffer: Buffer) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = 0
    try:
        for _, block in buffer.blocks():
            decoder.decode(block.tobytes())
            newlines += int((block == 10).sum())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = newlines + error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{buffer.path}:{line}: invalid UTF-8 ({error.reason}); convert the file to UTF-8") from error


def _decodes(span: np.ndarray) -> bool:
    try:
        span.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
