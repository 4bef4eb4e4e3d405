"""The two layouts of the layers' parameters: stacked (`layers/...`, a leading axis) and unrolled (`layers_0/...`).

Parameters are flat here: path -> array.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m_jax.weights.tensors import ConversionError

_UNROLLED = re.compile(r"layers_(\d+)/(.+)")


def is_unrolled(params: Mapping[str, Any]) -> bool:
    """Whether the layers are separate parameters."""
    return any(_UNROLLED.fullmatch(path) for path in params)


def stacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """The layers along axis 0 of one array each; parameters that are so already stay as they are.

    Raises:
      ConversionError: a layer lacks a parameter that another has.
    """
    result: dict[str, Any] = {}
    layers: dict[str, dict[int, Any]] = {}
    for path, array in params.items():
        if found := _UNROLLED.fullmatch(path):
            layers.setdefault(f"layers/{found[2]}", {})[int(found[1])] = array
        else:
            result[path] = array
    count = 1 + max((max(parts) for parts in layers.values()), default=-1)
    for path, parts in layers.items():
        missing = [i for i in range(count) if i not in parts]
        if missing:
            raise ConversionError(f"{path.replace('layers/', f'layers_{missing[0]}/', 1)} is missing")
        result[path] = np.stack([np.asarray(parts[i]) for i in range(count)])
    return result


def unrolled(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stacked`."""
    result: dict[str, Any] = {}
    for path, array in params.items():
        if path.startswith("layers/"):
            for i in range(array.shape[0]):
                result[path.replace("layers/", f"layers_{i}/", 1)] = array[i]
        else:
            result[path] = array
    return result
