"""Which records of a language or pair stand there before: digests of its parts in, rows to leave out of them.

    records of a part --digests--> a table sorted by digest, in a file
    a range of digests of every part's file --repeated--> for each part the rows that an earlier one equals

Two records are the same where their texts are, byte for byte, without the space at their ends; the first is kept, in
the order of the parts. A digest is BLAKE2b of 128 bits: that any two of 10^10 different lines have the same has a
chance of 10^-19. A range of digests holds about the same share of every part, so the memory this takes depends on the
number of ranges, not on the size of the text. Ranges are made of 4096 buckets, by the first 12 bits of a digest.
"""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from ernie_m_jax import atomic, stores
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import RandomAccess

BUCKETS = 4096
ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("size", "<u4")])
_OFFSET = np.dtype("<i8")
_NUMBER = np.dtype("<u4")
_BETWEEN = b"\xff"  # is in no UTF-8, so no two different pairs make the same bytes


def digests(records: RandomAccess) -> np.ndarray:
    """A table of the records, ROW[N], sorted by digest and number; `size` is in characters, 0 where a text is blank.

    Raises:
      DataError: a text that is not valid Unicode, with the number of its record.
    """
    table = np.empty(len(records), ROW)
    found = bytearray()
    for row in range(len(records)):
        texts = records[row].texts
        try:
            content = _BETWEEN.join(text.encode() for text in texts)
        except UnicodeEncodeError as error:
            raise DataError(f"record {row}: invalid Unicode: {error}; correct the text") from error
        found += hashlib.blake2b(content, digest_size=16).digest()
        table["size"][row] = sum(map(len, texts)) if all(texts) else 0
    table["row"] = np.arange(len(records))
    table["high"], table["low"] = np.frombuffer(found, ">u8").reshape(-1, 2).T
    return table[np.lexsort((table["low"], table["high"]))]


def write(path: str, table: np.ndarray) -> None:
    """Writes what `digests` made; `read` takes ranges of it."""
    buckets = (table["high"] >> np.uint64(52)).astype(np.int64)
    offsets = np.searchsorted(buckets, np.arange(BUCKETS + 1)).astype(_OFFSET)
    atomic.write(path, offsets.tobytes() + table.tobytes())


def read(path: str, first: int, end: int) -> np.ndarray:
    """The rows of buckets `first` to `end`, exclusive, of a table."""
    offsets = _numbers(path, first, end - first + 1)
    start, stop = int(offsets[0]), int(offsets[-1])
    begin = (BUCKETS + 1) * _OFFSET.itemsize
    return np.frombuffer(stores.read(path, begin + start * ROW.itemsize, begin + stop * ROW.itemsize), ROW)


def repeated(tables: Sequence[np.ndarray], same: bool = True) -> tuple[list[np.ndarray], int]:
    """What to leave out of a range of digests: repeated records, and blank ones.

    Args:
      tables: of each part, in order.
      same: whether repeated records are left out, or only blank ones.

    Returns:
      Of each part the rows to leave out, uint32[N] ascending; the characters of all others.
    """
    table = np.concatenate(tables)
    left_out = table["size"] == 0
    if same and len(table):
        order = np.lexsort((table["low"], table["high"]))  # stable: equal digests stay in the order of the parts
        high, low = table["high"][order], table["low"][order]
        left_out[order[1:][(high[1:] == high[:-1]) & (low[1:] == low[:-1])]] = True
    ends = np.cumsum([0, *map(len, tables)])
    rows = [np.sort(table["row"][a:b][left_out[a:b]]) for a, b in itertools.pairwise(ends)]
    return rows, int(table["size"][~left_out].sum())


def write_rows(path: str, rows: Sequence[np.ndarray]) -> None:
    """Writes rows of every part; `read_rows` takes a part's."""
    offsets = np.cumsum([0, *map(len, rows)]).astype(_OFFSET)
    atomic.write(path, offsets.tobytes() + np.concatenate(rows).astype(_NUMBER).tobytes())


def read_rows(path: str, parts: int, part: int) -> np.ndarray:
    """The rows of one of so many parts."""
    start, end = _numbers(path, part, 2).tolist()
    begin = (parts + 1) * _OFFSET.itemsize
    return np.frombuffer(stores.read(path, begin + start * _NUMBER.itemsize, begin + end * _NUMBER.itemsize), _NUMBER)


def _numbers(path: str, first: int, count: int) -> np.ndarray:
    """Some of the offsets that a file begins with, int64[count]."""
    return np.frombuffer(stores.read(path, first * _OFFSET.itemsize, (first + count) * _OFFSET.itemsize), _OFFSET)
