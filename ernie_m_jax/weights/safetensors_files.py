"""Safetensors files in and out.

The header is parsed here, not by the safetensors package, so that a damaged file is an error that names the tensor, and
so that neither reading nor writing holds more than one array. Format: the length of the header, uint64; the header,
JSON: name -> dtype, shape, first and last byte of the data; the data, without gaps.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ernie_m_jax import atomic
from ernie_m_jax.weights.tensors import ConversionError, Tensor, Weights, checked_shape, read_bytes

_HEADER_LIMIT = 100_000_000  # bytes; the reference implementation's
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


def open_file(path: pathlib.Path) -> Weights:
    """Opens one file; see `tensors.open_weights` for a sharded model.

    Raises:
      ConversionError: no valid header, tensors with gaps between them or overlapping, a file too short or too long.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ConversionError(f"{path}: a header of {length} bytes, more than the {_HEADER_LIMIT} allowed")
        if 8 + length > size:
            raise ConversionError(f"{path}: cut short within its header: {size} bytes, the header alone has {length}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: the header is no valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise ConversionError(f"{path}: the header is no JSON object")
    metadata = header.pop("__metadata__", None)
    spans = {name: _entry(path, name, entry) for name, entry in header.items()}
    _check_spans(path, spans, size - 8 - length)
    tensors = {
        name: Tensor(name, shape, dtype, str(path), _reader(path, name, shape, dtype, 8 + length + start))
        for name, (shape, dtype, start, _) in spans.items()
    }
    return Weights(tensors, {"metadata": metadata} if isinstance(metadata, dict) else {}, "safetensors")


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file, whole or not at all.

    Args:
      path: file to write, replaced where it exists.
      arrays: name -> array of any dtype of the format.
      metadata: text by name, into `__metadata__`; loaders of other frameworks want {"format": "pt"}.

    Raises:
      ConversionError: a dtype that the format lacks.
    """
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    for name, array in arrays.items():
        if array.dtype not in codes:
            raise ConversionError(f"{path}: {name!r} has dtype {array.dtype}; allowed are {', '.join(_DTYPES)}")
    # Wide types first, as the reference writer does, so that every array is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": codes[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic.replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands twice in it")
    return entries


def _entry(path: pathlib.Path, name: str, entry: Any) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype, first and last byte (exclusive) of a tensor."""
    where = f"{path}: the tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ConversionError(f"{where} needs dtype, shape and data_offsets, has {str(entry)[:80]!r}")
    shape = checked_shape(entry["shape"], where)
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ConversionError(f"{where} has dtype {str(entry['dtype'])[:20]!r}; allowed are {', '.join(_DTYPES)}")
    dtype = _DTYPES[entry["dtype"]]
    start, end = (*checked_shape(entry["data_offsets"], f"{where} (data_offsets)"), -1, -1)[:2]
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ConversionError(f"{where} of shape {shape}, {dtype} cannot lie in bytes {start} to {end}")
    return shape, dtype, start, end


def _check_spans(path: pathlib.Path, spans: Mapping[str, tuple[Any, Any, int, int]], size: int) -> None:
    """The data must be covered without gap or overlap: two tensors over the same bytes are damage or an attack."""
    expected = 0
    for name, (shape, _, start, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if start != expected:
            raise ConversionError(
                f"{path}: the tensor {name!r} begins at byte {start}, the one before ends at {expected}"
            )
        if end > size:
            raise ConversionError(
                f"{path}: cut short: the tensor {name!r} of shape {shape} needs data up to byte {end}, there are {size}"
            )
        expected = end
    if expected != size:
        raise ConversionError(f"{path}: {size - expected} bytes after the last tensor")


def _reader(
    path: pathlib.Path, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int
) -> Callable[[], np.ndarray]:
    size = math.prod(shape) * dtype.itemsize
    return lambda: read_bytes(path, offset, size, f"the tensor {name!r}").view(dtype).reshape(shape)
