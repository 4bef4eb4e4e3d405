"""Paddle's .pdparams in and out: a pickle of arrays. `paddle_variables.py` has what came before.

Bytes of arrays stay in the file until a tensor is read. The format has no checksums: what is checked is that sizes
agree. Paddle keeps bfloat16 in arrays of uint16, which it has no tensors of: they are taken, and written, as bfloat16.
"""

import math
import os
import pathlib
import pickle
import reprlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from ernie_m_jax import atomic
from ernie_m_jax.weights.pickle_values import Array
from ernie_m_jax.weights.safe_pickle import load
from ernie_m_jax.weights.tensors import ConversionError, Tensor, Weights, checked_shape

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_NAMES = "StructuredToParameterName@@"  # its entry: structured name -> the parameter's name in the program
_PARTS = "UnpackBigParamInfor@@"  # the entry that says which arrays were cut into parts (Paddle's spelling)
_DTYPES = [np.dtype(code) for code in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")]


def open_pdparams(path: pathlib.Path) -> Weights:
    """Opens what `paddle.save` made of a state dict.

    Raises:
      ConversionError: damaged, cut short, or a pickle that asks for more than arrays.
    """
    with path.open("rb") as file:
        content = load(file, path.stat().st_size, path, {})
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: holds {type(content).__name__}, not a state dict")
    content.pop(_NAMES, None)
    parts = content.pop(_PARTS, {})
    # Paddle 2 writes a tensor as a pair of its name and its array.
    values = {
        key: value[1] if isinstance(value, tuple) and len(value) == 2 else value for key, value in content.items()
    }
    arrays = {key: value for key, value in values.items() if isinstance(key, str) and isinstance(value, Array)}
    other = [key if isinstance(key, str) else type(key).__name__ for key in values if key not in arrays]
    for name, array in arrays.items():
        if array.raw is None:
            raise ConversionError(f"{path}: the tensor {name!r} is an array without content")
    tensors = {}
    for name, slices, shape in _joined(path, parts, arrays):
        pieces = [arrays.pop(piece) for piece in slices]
        tensors[name] = _tensor(path, name, pieces, shape)
    tensors.update({name: _tensor(path, name, [array], array.shape) for name, array in arrays.items()})
    if not tensors:
        raise ConversionError(f"{path}: a pickle without arrays; it has {other[:20]}")
    return Weights(tensors, {"other": other} if other else {}, "pdparams")


def write_pdparams(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file that `paddle.load` reads, whole or not at all, and without a second copy of an array.

    The pickle is put together here: Python's pickler keeps what it has written until it ends, and names NumPy's
    functions as NumPy 2 does, which Paddle's older NumPy does not know.

    Args:
      path: file to write, replaced where it exists.
      arrays: name -> array of a dtype Paddle has; bfloat16 is written as uint16, as Paddle does.

    Raises:
      ConversionError: a dtype that Paddle lacks.
    """
    for name, array in arrays.items():
        if array.dtype != _BFLOAT16 and array.dtype.newbyteorder("=") not in _DTYPES:
            raise ConversionError(f"{path}: {name!r} has dtype {array.dtype}, which Paddle lacks")
    with atomic.replacing(path) as file:
        file.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK)
        for name, array in arrays.items():
            _write_text(file, name)
            _write_array(file, array.view(np.uint16) if array.dtype == _BFLOAT16 else array)
        _write_text(file, _NAMES)
        file.write(pickle.EMPTY_DICT + pickle.MARK)
        for name in arrays:
            _write_text(file, name)
            _write_text(file, name)
        file.write(pickle.SETITEMS + pickle.SETITEMS + pickle.STOP)


def _write_text(file: BinaryIO, text: str) -> None:
    encoded = text.encode()
    file.write(pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded)


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    """An array as NumPy's reduction: an empty one, then its state (version, shape, dtype, order, bytes)."""
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    file.write(pickle.BININT1 + b"\0" + pickle.TUPLE1 + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3 + pickle.REDUCE)
    file.write(pickle.MARK + pickle.BININT1 + b"\1" + pickle.MARK)
    sizes: tuple[int, ...] = array.shape
    file.write(b"".join(pickle.LONG1 + b"\x08" + size.to_bytes(8, "little") for size in sizes))
    file.write(pickle.TUPLE + b"cnumpy\ndtype\n")
    _write_text(file, array.dtype.str[1:])
    file.write(pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE + pickle.MARK + pickle.BININT1 + b"\3")
    _write_text(file, array.dtype.str[0])
    unset = (-1).to_bytes(4, "little", signed=True)
    file.write(pickle.NONE * 3 + (pickle.BININT + unset) * 2 + pickle.BININT1 + b"\0" + pickle.TUPLE + pickle.BUILD)
    file.write(pickle.NEWFALSE + pickle.BINBYTES8 + array.nbytes.to_bytes(8, "little"))
    file.write(array.reshape(-1).view(np.uint8).data)
    file.write(pickle.TUPLE + pickle.BUILD)


def _joined(
    path: pathlib.Path, parts: Any, arrays: Mapping[str, Array]
) -> list[tuple[str, list[str], tuple[int, ...]]]:
    """Name, names of the parts and shape of every array that was cut."""
    if not isinstance(parts, dict):
        raise ConversionError(f"{path}: {_PARTS} is no dictionary")
    found = []
    seen: set[str] = set()
    for name, entry in parts.items():
        where = f"{path}: the tensor {str(name)[:80]!r}, cut into parts,"
        if not isinstance(entry, dict) or not isinstance(entry.get("slices"), list) or not entry["slices"]:
            raise ConversionError(f"{where} has no list of them")
        slices, shape = entry["slices"], checked_shape(entry.get("OriginShape"), where)
        for piece in slices:
            if not isinstance(piece, str) or piece not in arrays or piece in seen:
                raise ConversionError(f"{where} lacks the part {reprlib.repr(piece)}, or has it twice")
            seen.add(piece)
        if len({arrays[piece].dtype for piece in slices}) != 1:
            raise ConversionError(f"{where} has parts of different dtypes")
        if sum(math.prod(arrays[piece].shape) for piece in slices) != math.prod(shape):
            raise ConversionError(f"{where} of shape {shape} has parts that do not add up to it")
        found.append((str(name), slices, shape))
    return found


def _tensor(path: pathlib.Path, name: str, pieces: list[Array], shape: tuple[int, ...]) -> Tensor:
    stored = pieces[0].dtype
    dtype = _BFLOAT16 if stored == np.uint16 else stored
    what = f"the tensor {name!r}"

    def read() -> np.ndarray:
        if len(pieces) == 1:
            return pieces[0].read(path, what).view(dtype).reshape(shape)
        joined, at = np.empty(math.prod(shape), stored), 0
        for piece in pieces:
            flat = piece.read(path, what).reshape(-1)
            joined[at : at + flat.size] = flat
            at += flat.size
        return joined.view(dtype).reshape(shape)

    return Tensor(name, shape, dtype, str(path), read)
