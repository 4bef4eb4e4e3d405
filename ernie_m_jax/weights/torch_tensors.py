"""What the pickle of a PyTorch file is made of: storages, and tensors that are views of them. No numbers yet."""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from ernie_m_jax.weights.pickle_values import Global, Table, same
from ernie_m_jax.weights.tensors import ConversionError, checked_shape

STORAGES = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers: elements `first` to `first + count` of the `size` under a key."""

    key: str
    dtype: np.dtype
    size: int
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: an offset and strides, in elements, into a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def storage_of(identity: Any, storages: dict[str, Storage]) -> Storage:
    """The storage of a persistent id, also kept in `storages`."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ConversionError("a persistent id that is no storage")
    _, kind, key, _device, size, *view = identity
    if not isinstance(kind, Global) or kind.name not in STORAGES or not isinstance(key, str):
        raise ConversionError("a storage of unknown kind")
    first, count = 0, size
    if view and view[0] is not None:  # a part of another storage, which ran under one key in PyTorch's first years
        if not isinstance(view[0], tuple) or len(view[0]) != 3:
            raise ConversionError("a storage that is an unknown kind of view")
        _, first, count = view[0]
    checked_shape((size, first, count), f"the storage {key[:40]!r}")
    if first + count > size:
        raise ConversionError(f"the storage {key[:40]!r} has {size} elements, a view of it needs {first + count}")
    storages[key] = storage = Storage(key, STORAGES[kind.name], size, first, count)
    return storage


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    """In place of PyTorch's `_rebuild_tensor` and `_rebuild_tensor_v2`."""
    checked_shape((offset,), "a tensor's offset")
    view = View(storage, offset, checked_shape(shape, "a tensor"), checked_shape(strides, "a tensor (strides)"))
    if not isinstance(storage, Storage) or len(view.shape) != len(view.strides) or len(rest) > 3:
        raise ConversionError("a tensor without storage, or with more strides than axes")
    if len(rest) == 3 and rest[2]:
        raise ConversionError("a conjugate or negated tensor")
    size = math.prod(view.shape)
    last = offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))
    # More elements than the storage has: an expanded tensor, which a few bytes can make as large as they like.
    if size and (last >= storage.count or size > storage.count):
        raise ConversionError(f"a tensor of shape {view.shape} does not fit its storage of {storage.count} elements")
    return view


def _from_type(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """In place of PyTorch's `_rebuild_from_type_v2`: a tensor with attributes, which are dropped."""
    if not isinstance(function, Global) or function.module != "torch._utils" or function.make is None:
        raise ConversionError("a tensor rebuilt by something else than PyTorch's functions")
    return function.make(*arguments)


TABLE: Table = {
    **{(module, name): None for module in ("torch", "torch.cuda") for name in STORAGES},
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch", "Size"): same,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
}
