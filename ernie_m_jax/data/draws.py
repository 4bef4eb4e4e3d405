"""Randomness of many examples at once: the streams of `np.random.default_rng((seed, purpose, index))`, row by row.

Each example has a generator of its own, which NumPy makes one by one (17 us) and asks one by one (10 us a call). Here
the same numbers come as arrays with a row per example: `SeedSequence` and `PCG64` are arithmetic on integers, which
NumPy guarantees never to change; what its `Generator` makes of them (doubles, bounded integers, choices without
replacement) is done here in the same way. `tests/test_draws.py` compares both, number by number.

Lemire's method draws again once in a billion times, or in some ten thousand for a large vocabulary. Rows where it
would are marked (`rejected`), and their numbers must not be used: `generator` makes theirs one by one.
"""

import functools
import zlib
from typing import Any

import numpy as np

_U32, _U64 = np.uint32, np.uint64
_MASK32 = _U64(0xFFFFFFFF)
_MULTIPLIER = (2549297995355413924 << 64) | 4865540595714422341  # of PCG64
_POOL = 4  # words of a SeedSequence's pool
# Floyd's algorithm is how NumPy chooses out of up to so many.
MOST_CANDIDATES = 10_000


def purpose(name: str) -> int:
    """A number for a purpose of randomness, the same in every process."""
    return zlib.crc32(name.encode())


class Draws:
    """A stream of random numbers per row.

    Attributes:
      rejected: rows whose numbers are not those of NumPy's generator any more, bool `[E]`.
    """

    def __init__(self, seed: int, purpose: int, indices: np.ndarray):
        """The streams of the generators of (seed, purpose, index).

        Args:
          seed: below 2 ** 32.
          purpose: below 2 ** 32.
          indices: int64 `[E]`, not negative. A larger one than fits into 32 bits is `rejected` from the start.
        """
        self._words = (seed, purpose)
        self._indices = indices
        self.rejected = indices >= 2**32
        self._state, self._increment = _pcg64(_seeded(seed, purpose, indices.astype(_U32)))
        self._raw = np.empty((len(indices), 0), _U64)
        rows = np.zeros(len(indices), np.int64)
        # Where each row stands: its next 64 bits, and where those lie whose upper half waits for `words` (-1: none).
        self._next, self._half = rows, rows - 1
        self._generator = np.random.Generator(np.random.PCG64(0))

    def generator(self, row: int) -> np.random.Generator:
        """A generator at the beginning of a row's stream; valid until the next call."""
        if self._indices[row] >= 2**32:
            return np.random.default_rng((*self._words, int(self._indices[row])))
        state, increment = (int(high[row]) << 64 | int(low[row]) for high, low in (self._state, self._increment))
        self._generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator

    def doubles(self, counts: np.ndarray) -> np.ndarray:
        """`Generator.random(count)` of each row: float64 `[E, max(counts)]`, rows filled up with what follows."""
        values = self._bits(self._next[:, None] + np.arange(counts.max(initial=0)))
        self._next = self._next + counts
        return (values >> _U64(11)).astype(np.float64) * 2.0**-53

    def words(self, counts: np.ndarray) -> np.ndarray:
        """The next `count` words of 32 bits of each row, uint64 `[E, max(counts)]`; the lower half of 64 bits first."""
        waiting = (self._half >= 0).astype(np.int64)
        number = np.arange(counts.max(initial=0)) - waiting[:, None]  # of the word among those of new bits; -1: waits
        at = np.where(number < 0, self._half[:, None], self._next[:, None] + number // 2)
        bits = self._bits(at)
        values = np.where(number % 2 == 1, bits >> _U64(32), bits & _MASK32)
        fresh = np.maximum(counts - waiting, 0)
        last = self._next + (fresh - 1) // 2
        self._half = np.where(counts == 0, self._half, np.where(fresh % 2 == 1, last, -1))
        self._next = self._next + (fresh + 1) // 2
        return values

    def below(self, limits: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Bounded integers by Lemire's method, int64 `[E, C]`: below `limits` `[E, C]` or `[1, C]`, 2 or more each."""
        limits = limits.astype(_U64)
        product = self.words(counts) * limits
        needed = np.arange(product.shape[1]) < counts[:, None]
        self.rejected |= (needed & ((product & _MASK32) < _U64(2**32) % limits)).any(axis=1)
        return (product >> _U64(32)).astype(np.int64)

    def choices(self, candidates: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """`Generator.choice(candidates, chosen, replace=False)` of each row, in order.

        Args:
          candidates: how many there are, int64 `[E]`, at most `MOST_CANDIDATES`.
          chosen: how many of them to choose, int64 `[E]`.

        Returns:
          Which are, bool `[E, max(candidates)]`.
        """
        # Floyd's steps draw from up to n - k, ..., n - 1, and then the result is shuffled. From up to 0 needs no draw.
        whole = ((chosen == candidates) & (chosen > 0)).astype(np.int64)
        steps, shuffled = chosen - whole, np.maximum(chosen - 1, 0)
        number = np.arange((steps + shuffled).max(initial=0))
        first = (candidates - chosen + whole)[:, None] + number
        second = (chosen + steps)[:, None] - 1 - number
        limits = np.where(number < steps[:, None], first, second) + 1
        drawn = self.below(np.maximum(limits, 2), steps + shuffled)
        taken = np.zeros((len(candidates), candidates.max(initial=0)), bool)
        partly = np.flatnonzero(whole == 0)  # where all are chosen, it is known which
        taken[whole == 1] = np.arange(taken.shape[1]) < candidates[whole == 1, None]
        for step in range(chosen[partly].max(initial=0)):
            rows = partly[step < chosen[partly]]
            value = drawn[rows, step]
            again = taken[rows, value]
            taken[rows, np.where(again, candidates[rows] - chosen[rows] + step, value)] = True
        return taken

    def _bits(self, at: np.ndarray) -> np.ndarray:
        """The 64 bits that come at places of each row's stream, `[E, n]`."""
        missing = (int(at.max(initial=-1)) + 1) - self._raw.shape[1]
        if missing > 0:
            have = self._raw.shape[1]
            more = _outputs(self._state, self._increment, have, have + missing)
            self._raw = np.concatenate([self._raw, more], axis=1)
        return np.take_along_axis(self._raw, at, axis=1)


def _seeded(seed: int, purpose: int, indices: np.ndarray) -> list[np.ndarray]:
    """`SeedSequence((seed, purpose, index)).generate_state(4, uint64)`, four arrays uint64 `[E]`."""
    constant = 0x43B0D7E5

    def hashed(value: Any) -> Any:
        nonlocal constant
        value = value ^ _U32(constant)
        constant = constant * 0x931E8875 & 0xFFFFFFFF
        value = value * _U32(constant)
        return value ^ (value >> _U32(16))

    def mixed(one: Any, other: Any) -> Any:
        value = one * _U32(0xCA01F9DD) - other * _U32(0x4973F715)
        return value ^ (value >> _U32(16))

    given = [np.full_like(indices, word) for word in (seed, purpose)]
    pool = [hashed(word) for word in (*given, indices, np.zeros_like(indices))]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    constant, state = 0x8B51F9DD, []
    for place in range(2 * _POOL):
        value = pool[place % _POOL] ^ _U32(constant)
        constant = constant * 0x58F38DED & 0xFFFFFFFF
        value = value * _U32(constant)
        state.append((value ^ (value >> _U32(16))).astype(_U64))
    return [state[2 * place] | state[2 * place + 1] << _U64(32) for place in range(_POOL)]


Wide = tuple[np.ndarray, np.ndarray]  # 128 bits: the upper and the lower 64


def _pcg64(seeds: list[np.ndarray]) -> tuple[Wide, Wide]:
    """State and increment of PCG64, seeded."""
    increment = (seeds[2] << _U64(1) | seeds[3] >> _U64(63), seeds[3] << _U64(1) | _U64(1))
    state = _sum(_product(_sum(increment, (seeds[0], seeds[1])), _wide(_MULTIPLIER)), increment)
    return state, increment


def _outputs(state: Wide, increment: Wide, first: int, end: int) -> np.ndarray:
    """The outputs `first` to `end` - 1 of PCG64 (XSL-RR), uint64 `[E, end - first]`."""
    powers, sums = _jumps(end)
    factor = _columns(powers[first:end])
    offset = _columns(sums[first:end])
    high, low = _sum(
        _product((state[0][:, None], state[1][:, None]), factor),
        _product((increment[0][:, None], increment[1][:, None]), offset),
    )
    value, turn = high ^ low, high >> _U64(58)
    return value >> turn | value << (_U64(64) - turn & _U64(63))


@functools.lru_cache(maxsize=64)
def _jumps(count: int) -> tuple[list[int], list[int]]:
    """For 1, 2, ... steps: the multiplier's power, and the sum of its lower powers, modulo 2 ** 128."""
    power, total, powers, sums = 1, 0, [], []
    for _ in range(count):
        total = (total + power) % 2**128
        power = power * _MULTIPLIER % 2**128
        powers.append(power)
        sums.append(total)
    return powers, sums


def _columns(numbers: list[int]) -> Wide:
    return (
        np.array([number >> 64 for number in numbers], _U64)[None],
        np.array([number & (2**64 - 1) for number in numbers], _U64)[None],
    )


def _wide(number: int) -> Wide:
    return np.array([number >> 64], _U64), np.array([number & (2**64 - 1)], _U64)


def _sum(one: Wide, other: Wide) -> Wide:
    low = one[1] + other[1]
    return one[0] + other[0] + (low < other[1]), low


def _product(one: Wide, other: Wide) -> Wide:
    """Modulo 2 ** 128."""
    a, b = one[1], other[1]
    a0, a1, b0, b1 = a & _MASK32, a >> _U64(32), b & _MASK32, b >> _U64(32)
    crossed, other_crossed = a0 * b1, a1 * b0
    middle = (a0 * b0 >> _U64(32)) + (crossed & _MASK32) + (other_crossed & _MASK32)
    high = a1 * b1 + (crossed >> _U64(32)) + (other_crossed >> _U64(32)) + (middle >> _U64(32))
    return high + one[0] * b + a * other[0], a * b
