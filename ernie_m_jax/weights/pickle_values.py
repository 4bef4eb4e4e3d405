"""What a pickle of weights is made of once it is read: arrays and a few inert things, never an object of the pickle's.

`safe_pickle.py` builds these. None runs code of the file's, and none gives it an attribute to set.
"""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ernie_m_jax.weights.tensors import ConversionError, checked_shape, read_bytes

# (module, name) -> our function; None: may be named, not called.
Table = Mapping[tuple[str, str], Callable[..., Any] | None]

_CODES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8"}


@dataclasses.dataclass(frozen=True)
class Blob:
    """A long string of the file: where, how long, and whether it is text, in UTF-8 (of bytes taken for Latin-1)."""

    offset: int
    size: int
    text: bool


@dataclasses.dataclass(frozen=True)
class Global:
    """A name of the table; `make` is our function behind it."""

    module: str
    name: str
    make: Callable[..., Any] | None


class Namespace:
    """What an `argparse.Namespace` comes back as: the values, and no attributes."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        """Takes the values."""
        if not isinstance(state, dict) or not all(isinstance(key, str) and not key.startswith("__") for key in state):
            raise ConversionError("a Namespace whose state is no dictionary of options")
        self.values = state


class Dtype:
    """A NumPy dtype of one number: nothing with fields, objects or text."""

    def __init__(self, code: Any, *_: Any):
        if isinstance(code, Global) and code.name == "bfloat16":
            self.dtype = np.dtype(ml_dtypes.bfloat16)
        elif isinstance(code, str) and code.lstrip("<=|") in _CODES:
            self.dtype = np.dtype(code.lstrip("<=|"))
        else:
            raise ConversionError(f"an array of dtype {reprlib.repr(code)}; allowed are numbers and booleans")

    def build(self, state: Any) -> None:
        """Takes the byte order; the rest must say that there are neither fields nor subarrays."""
        _version, order, *fields = state[:5]
        if fields != [None, None, None] or order not in ("<", ">", "|", "="):
            raise ConversionError(f"an array of a structured dtype: {reprlib.repr(state)}")
        self.dtype = self.dtype.newbyteorder(order) if order in ("<", ">") else self.dtype


class Array:
    """A NumPy array whose bytes may still be in the file."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.stored = np.dtype(np.uint8)
        self.fortran = False
        self.raw: Any = None

    @property
    def dtype(self) -> np.dtype:
        """In the machine's byte order."""
        return self.stored.newbyteorder("=")

    def build(self, state: Any) -> None:
        """Takes version, shape, dtype, order and bytes, as `numpy.ndarray.__reduce__` gives them."""
        *_, shape, dtype, fortran, raw = state
        self.shape = checked_shape(shape, "an array")
        if not isinstance(dtype, Dtype) or not isinstance(raw, bytes | bytearray | str | Blob):
            raise ConversionError(
                f"an array of {type(dtype).__name__} with {type(raw).__name__} for bytes: only numbers are read"
            )
        self.stored, self.fortran = dtype.dtype, bool(fortran)
        self.raw = raw.encode("latin1") if isinstance(raw, str) else raw
        size = math.prod(self.shape) * self.stored.itemsize
        low, high = (raw.size, raw.size) if isinstance(raw, Blob) else (len(self.raw), len(self.raw))
        if isinstance(raw, Blob) and raw.text:
            low = low // 2  # a byte above 127 takes two in UTF-8
        if not low <= size <= high:
            raise ConversionError(f"an array of shape {self.shape}, {self.stored} needs {size} bytes, {high} are there")

    def read(self, path: Any, name: str) -> np.ndarray:
        """The array, out of the file it was pickled in; `name` is for messages."""
        raw, dtype = self.raw, self.dtype
        if isinstance(raw, Blob):
            raw = read_bytes(path, raw.offset, raw.size, name)
            if self.raw.text:
                try:
                    raw = bytearray(raw.tobytes().decode("utf-8").encode("latin1"))
                except UnicodeError as error:
                    raise ConversionError(f"{path}: {name} is damaged: {error}") from error
        data = np.frombuffer(raw, np.uint8)
        if data.size != math.prod(self.shape) * dtype.itemsize:
            raise ConversionError(f"{path}: {name} of shape {self.shape}, {dtype} has {data.size} bytes")
        array = data.view(self.stored).reshape(self.shape, order="F" if self.fortran else "C")
        return (
            array
            if array.flags.writeable and array.flags.c_contiguous and dtype == self.stored
            else array.astype(dtype, "C")
        )


def plain(value: Any, budget: list[int] | None = None, depth: int = 0) -> Any:
    """A copy with built-in values only, at most 100,000 of them and 8 deep; what is anything else becomes None."""
    budget = [100_000] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0 or depth > 8:
        return None
    if isinstance(value, dict):
        return {key: plain(item, budget, depth + 1) for key, item in value.items() if budget[0] > 0}
    if isinstance(value, list | tuple):
        return type(value)(plain(item, budget, depth + 1) for item in value if budget[0] > 0)
    return value if isinstance(value, bool | int | float | str) else None


def reconstruct(kind: Any, *_: Any) -> Array:
    """In place of NumPy's `_reconstruct`: an array that waits for its content."""
    if not isinstance(kind, Global) or (kind.module, kind.name) != ("numpy", "ndarray"):
        raise ConversionError("an array of a class other than numpy.ndarray")
    return Array()


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """In place of NumPy's `_frombuffer`, of pickle protocol 5."""
    array = Array()
    array.build((shape, dtype, order == "F", raw))
    return array


def scalar(dtype: Any, raw: Any) -> Array:
    """In place of NumPy's `scalar`: an array without axes."""
    return from_buffer(raw, dtype, (), "C")


def encode(text: Any, codec: Any) -> Any:
    """In place of `_codecs.encode`, by which protocol 2 writes bytes as text."""
    if codec not in ("latin1", "latin-1") or not isinstance(text, str | Blob):
        raise ConversionError(f"the codec {reprlib.repr(codec)} on {type(text).__name__}; only latin1 on text is read")
    return text.encode("latin1") if isinstance(text, str) else text


def fill(target: Any, pairs: Any) -> dict[Any, Any]:
    """Sets items of a dictionary; keys are text or numbers, since hashing nested tuples can take for ever."""
    if type(target) is not dict:
        raise ConversionError(f"items set on a {type(target).__name__}, which is no dictionary")
    for key, value in pairs:
        if not isinstance(key, str | bytes | int | float | None):
            raise ConversionError(f"a dictionary with a {type(key).__name__} as key")
        target[key] = value
    return target


def ordered(pairs: Any = None) -> dict[Any, Any]:
    """In place of OrderedDict, to which Python 2 gave a list of pairs."""
    if pairs is not None and not isinstance(pairs, list):
        raise ConversionError(f"an OrderedDict of a {type(pairs).__name__}")
    found = fill({}, pairs or [])
    if pairs:
        pairs.clear()  # what is copied must not be named again: a short file could ask for a million copies
    return found


def same(items: Any = ()) -> tuple[Any, ...]:
    """In place of tuple and torch.Size, which are given a tuple, here not copied."""
    if not isinstance(items, tuple):
        raise ConversionError(f"a tuple of a {type(items).__name__}")
    return items


# Containers and NumPy, under the names that Python 2 and 3 and NumPy 1 and 2 give them.
BASE: Table = {
    ("collections", "OrderedDict"): ordered,
    ("collections", "defaultdict"): lambda *_: {},
    **{(module, name): None for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float")},
    **{(module, "tuple"): same for module in ("builtins", "__builtin__")},
    ("argparse", "Namespace"): Namespace,
    ("_codecs", "encode"): encode,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Dtype,
    ("ml_dtypes", "bfloat16"): None,
    **{
        (f"numpy.{core}.{module}", name): make
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", reconstruct),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", from_buffer),
        )
    },
}
