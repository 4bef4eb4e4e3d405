"""Weights, inputs and sampling that the recording scripts and the tests share: numbers out of names, NumPy alone.

A checkpoint of a gigabyte need not be kept if both sides can make it: every tensor comes from a generator seeded with
its name and shape, whichever library reads it.
"""

import hashlib
import zlib

import numpy as np

SCALE = 0.05  # of a small model's weights: attention is far from uniform
# Of a model of the released sizes, the released models' initial one: with more, a few random layers make all tokens
# alike, so that little is compared any more and the gradients of queries and keys are rounding errors.
FULL_SCALE = 0.02


def tensor(name: str, shape: tuple[int, ...], scale: float = SCALE) -> np.ndarray:
    """A tensor by its name: LayerNorm scales around 1, everything else around 0, with this deviation; float32."""
    key = zlib.crc32(f"{name} {list(shape)}".encode())
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)
    values *= np.float32(scale)
    if len(shape) == 1 and name.endswith(("weight", "gamma", "scale")):
        values += np.float32(1)
    return values


def bare(name: str) -> str:
    """A tensor's name without its library's prefix of the encoder, so that all classes share the encoder's numbers."""
    for prefix in ("ernie_m.", "roberta.", "bert.", "transformer."):
        name = name.removeprefix(prefix)
    return name


def digest(array: np.ndarray) -> str:
    """For noticing that another NumPy draws other numbers."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def batch(lengths: list[int], vocab_size: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """A padded batch: ids and mask, int64 [rows, longest]; row i has lengths[i] tokens."""
    rng = np.random.Generator(np.random.Philox(key=7))
    ids = np.full((len(lengths), max(lengths)), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(4, vocab_size, length)
        ids[row, 0] = 0
        mask[row, :length] = 1
    return ids, mask


def sample(lengths: list[int], most: int) -> np.ndarray:
    """Rows and positions to compare, int64 [P, 2]: every token of short rows, `most` of a long one, ends included."""
    rng = np.random.Generator(np.random.Philox(key=11))
    chosen = []
    for row, length in enumerate(lengths):
        at = np.arange(length)
        if length > most:
            inner = rng.choice(np.arange(1, length - 1), most - 2, replace=False)
            at = np.sort(np.concatenate([[0, length - 1], inner]))
        chosen += [(row, position) for position in at]
    return np.array(chosen, np.int64)
