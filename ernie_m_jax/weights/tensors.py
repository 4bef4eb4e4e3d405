"""Weights as named tensors, read one at a time: what every format comes in as, and how a format is recognised.

A path comes in; `Weights` goes out to the rules that rename tensors. Opening reads headers only, and nothing that is
opened here is ever executed. A file's content, not its name, says what it is.
"""

import dataclasses
import os
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class ConversionError(ValueError):
    """Weights that cannot be read, matched or written; the message names the file and the tensor, in one line."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a file of weights, not yet read.

    Attributes:
      name: as in the file.
      shape: sizes of its axes.
      dtype: in the machine's byte order; `ml_dtypes.bfloat16` for bfloat16.
      file: where it lies, for messages.
      read: gives the array: C-contiguous, writable, of that shape and dtype, and read anew at each call, so that memory
        is free again as soon as the caller lets go of it. Raises ConversionError where the file is damaged.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    read: Callable[[], np.ndarray]


class Weights(NamedTuple):
    """The tensors of a model by name, what else its files say, and what they are.

    Attributes:
      tensors: in the order of the file.
      facts: "metadata" (safetensors), "args" (fairseq), "other" (names of what is no tensor), "skipped" (files of a
        Paddle folder that hold optimizer state or no variable), each only where there is such a thing.
      kind: "safetensors", "torch", "pdparams" or "paddle-folder".
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    kind: str


def read_bytes(path: str | os.PathLike[str], offset: int, size: int, what: str) -> np.ndarray:
    """Bytes of a file as a new array, uint8[size]; `what` is named where the file has become too short."""
    try:
        data = np.fromfile(path, np.uint8, size, offset=offset)
    except OSError as error:
        raise ConversionError(f"{path}: {what} cannot be read: {error.strerror or error}") from error
    if data.size != size:
        raise ConversionError(f"{path}: {what} should have {size} bytes at {offset}, the file has {data.size} there")
    return data


def checked_shape(value: Any, where: str) -> tuple[int, ...]:
    """Sizes of axes out of an untrusted file; `where` opens the message."""
    if not isinstance(value, list | tuple) or len(value) > 32 or not all(type(n) is int and n >= 0 for n in value):
        raise ConversionError(f"{where} has no valid shape: {reprlib.repr(value)}")
    return tuple(value)
