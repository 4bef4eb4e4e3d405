"""SHA-256 of each tensor that this project wrote for another library, so that a later change is noticed by name.

Neither safetensors nor Paddle's files check their content. The file lies beside the weights; other libraries ignore it.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from ernie_m_jax.weights.tensors import ConversionError, Tensor

FILE = "tensors.sha256.json"


def digest(array: np.ndarray) -> str:
    """SHA-256, in hex, of dtype, shape and the bytes in C order."""
    head = f"{array.dtype.name} {list(array.shape)} ".encode()
    found = hashlib.sha256(head)
    found.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return found.hexdigest()


def guarded(folder: pathlib.Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each compared with its digest when it is read, where the folder has digests."""
    path = folder / FILE
    if not path.is_file():
        return dict(tensors)
    try:
        known = json.loads(path.read_text("utf-8"))
        if not isinstance(known, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: damaged ({error})") from None
    names = {tensor.name for tensor in tensors.values()}
    if odd := sorted(names ^ set(known)):
        have, lack = (path.name, "the weights") if odd[0] in known else ("the weights", path.name)
        raise ConversionError(f"{folder}: {odd[0]} is in {have}, not in {lack}; if the change is meant, remove {path}")
    return {key: _guard(tensor, known[tensor.name], path) for key, tensor in tensors.items()}


def _guard(tensor: Tensor, expected: str, path: pathlib.Path) -> Tensor:
    def read() -> np.ndarray:
        array = tensor.read()
        if digest(array) != expected:
            raise ConversionError(
                f"{tensor.name} in {tensor.file}, shape {tensor.shape}: not what was written, its SHA-256 differs; "
                f"if the change is meant, remove {path}"
            )
        return array

    return Tensor(tensor.name, tensor.shape, tensor.dtype, tensor.file, read)
