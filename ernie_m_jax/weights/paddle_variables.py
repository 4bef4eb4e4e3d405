"""A folder of Paddle 1: one binary file per variable, whose name is the file's.

Format of a file, little-endian: uint32 version 0; uint64 number of levels of detail, each a uint64 size and as many
bytes; uint32 version 0; int32 size of a protocol buffer with type (field 1) and dimensions (field 2); the data.
There is no checksum: what is checked is that the sizes agree.
"""

import math
import pathlib
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

import ml_dtypes
import numpy as np

from ernie_m_jax.weights.kinds import recognise
from ernie_m_jax.weights.tensors import ConversionError, Tensor, Weights, checked_shape, read_bytes

_TYPES = {code: np.dtype(name) for code, name in enumerate(("?", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"))}
_TYPES |= {20: np.dtype("u1"), 21: np.dtype("i1"), 22: np.dtype(ml_dtypes.bfloat16)}
_LEVELS_LIMIT = 64
_DESCRIPTION_LIMIT = 1024  # bytes
# Variables that a training program saves with the model's and that are none of it.
_OPTIMIZER = re.compile(
    r"^@|@GRAD|(moment|velocity|mean_square|mean_grad|momentum|fp32_master)(_?[12])?_\d+$|_beta[12]_pow_acc_\d+$"
    r"|(^|_)learning_rate(_\d+)?$|^(loss_scaling|num_(good|bad)_steps|global_step)(_\d+)?$"
)


def has_variables(folder: pathlib.Path) -> bool:
    """Whether a folder has a file that begins as a variable."""
    return any(_is_variable(path) for path in sorted(folder.iterdir()) if path.is_file())


def open_folder(folder: pathlib.Path) -> Weights:
    """Opens a folder of variables, a file each, under the file's name; other files and optimizer state are left out.

    Raises:
      ConversionError: a variable that is damaged, cut short or of an unknown type; a file that is a failed download.
    """
    tensors, skipped = {}, []
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        if not _is_variable(path):
            if not path.suffix[1:].isalpha() and not path.name.startswith("."):  # variables end in .w_0 and the like
                recognise(path)  # a failed download or an empty file is an error
            skipped.append(path.name)
        elif _OPTIMIZER.search(path.name):
            skipped.append(path.name)
        else:
            shape, dtype, offset = _describe(path)
            read = _reader(path, offset, shape, dtype)
            tensors[path.name] = Tensor(path.name, shape, dtype, str(path), read)
    if not tensors:
        raise ConversionError(f"{folder}: no Paddle variables but of an optimizer: {', '.join(skipped[:20])}")
    return Weights(tensors, {"skipped": skipped} if skipped else {}, "paddle-folder")


def _is_variable(path: pathlib.Path) -> bool:
    """Whether a file begins as a variable: version 0 and few levels of detail; also if it is cut short there."""
    with path.open("rb") as file:
        head = file.read(12)
    return bool(head) and not any(head[:4]) and int.from_bytes(head[4:], "little") <= _LEVELS_LIMIT


def _describe(path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and where the data begins."""
    what = f"{path}: the variable {path.name!r}"
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            _, levels = _unpack(file, "<IQ")
            for _ in range(levels):
                (length,) = _unpack(file, "<Q")
                file.seek(min(length, size), 1)
            version, length = _unpack(file, "<Ii")
            if version != 0 or not 0 < length <= _DESCRIPTION_LIMIT:
                raise ValueError(f"version {version}, description of {length} bytes")
            description = file.read(length)
            if len(description) != length:
                raise ValueError("the file ends within it")
            code, dims = _description(description)
        except (struct.error, IndexError, ValueError) as error:
            raise ConversionError(f"{what} has a header that is damaged or cut short: {error}") from error
        offset = file.tell()
    if code not in _TYPES:
        raise ConversionError(f"{what} has data type {code}; read are {sorted(_TYPES)}")
    shape, dtype = checked_shape(dims, what), _TYPES[code]
    expected = math.prod(shape) * dtype.itemsize
    if size - offset != expected:
        raise ConversionError(
            f"{what} of shape {shape}, {dtype} needs {expected} bytes of data and has {size - offset}"
        )
    return shape, dtype, offset


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _description(buffer: bytes) -> tuple[int, list[int]]:
    """Data type and dimensions out of the protocol buffer."""
    code, dims, at = -1, [], 0
    while at < len(buffer):
        tag, at = _varint(buffer, at)
        value, at = _varint(buffer, at)
        if tag == 1 << 3:
            code = value
        elif tag == 2 << 3:
            dims.append(value)
        elif tag == 2 << 3 | 2:  # packed: a length, then the numbers
            end = at + value
            while at < end:
                value, at = _varint(buffer, at)
                dims.append(value)
        else:
            raise ValueError(f"unknown tag {tag}")
    return code, dims


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    """A number, int64, and where the next begins."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (buffer[at] & 0x7F) << shift
        at += 1
        if buffer[at - 1] < 0x80:
            return value - (value >> 63 << 64), at
    raise ValueError("a number of more than ten bytes")


def _reader(path: pathlib.Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    size = math.prod(shape) * dtype.itemsize
    return lambda: read_bytes(path, offset, size, f"the variable {path.name!r}").view(dtype).reshape(shape)
