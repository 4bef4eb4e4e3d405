"""Weights as named tensors, read one at a time: what every format comes in as, and how a format is recognised.

A path comes in; `Weights` goes out to the rules that rename tensors. Opening reads headers only, and nothing that is
opened here is ever executed. A file's content, not its name, says what it is.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import reprlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_INDEX_LIMIT = 64 << 20  # bytes of a JSON index; that of a model with thousands of tensors has a megabyte
_NAMED = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model_state.pdparams",
)
# What people have in their folders instead of weights, by its first bytes.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull`, or download the file itself"),
    (b"<", "an HTML or XML page, not weights: the download went wrong"),
    (b"\x1f\x8b", "a gzip archive: unpack it, or open it with `archives.opened`"),
    (b"\x89HDF", "an HDF5 file (Keras, TensorFlow), which is not read here"),
    (b"\x93NUMPY", "a NumPy array without names, which is not read here"),
)


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


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Opens a file of weights, a sharded model's index, or a folder with either.

    In a folder the first of these counts: model.safetensors (an index before a single file), pytorch_model.bin (same),
    model_state.pdparams or the only other .pdparams, the only .pt, Paddle variables in `params/` or the folder itself.

    Raises:
      ConversionError: nothing there, not weights, damaged, or a pickle that asks for more than arrays.
    """
    from ernie_m_jax.convert import paddle_variables  # the readers import this module

    path = pathlib.Path(path)
    try:
        if path.is_dir():
            found = find_weights(path)
            if found is None:
                raise _nothing(path)
            path = found
        if path.is_dir():
            weights = paddle_variables.open_folder(path)
        else:
            weights = _open_sharded(path) if path.name.endswith(".index.json") else _open_file(path)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror or error}") from error
    for name in weights.tensors:
        if not name.isprintable():  # it would go to the terminal in messages
            raise ConversionError(f"{path}: a tensor has the name {name[:80]!a}")
    return weights


def recognise(path: pathlib.Path) -> str:
    """The kind of a file: "safetensors", "zip" (of PyTorch), "pickle" or "variable" (a single one of Paddle).

    Raises:
      ConversionError: something else, named where it is something common.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ConversionError(f"{path}: the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "safetensors"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle"
    for start, what in _MISTAKEN:
        if head.lstrip().startswith(start):
            raise ConversionError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise ConversionError(
            f"{path}: a tar archive. Is it a packed folder, open it with `archives.opened`; is it what PyTorch wrote "
            "before 0.1.10, load and save it again with PyTorch"
        )
    if head[:4] == bytes(4):
        return "variable"
    raise ConversionError(f"{path}: neither safetensors nor a PyTorch or Paddle file (it begins with {head[:8]!r})")


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


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that replaces `path` when the block ends, or leaves it as it was when the block raises."""
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files nobody else can read
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def find_weights(folder: pathlib.Path) -> pathlib.Path | None:
    """The file, index or folder of weights in a folder, by the order of `open_weights`; None if there is none.

    Raises:
      ConversionError: several files of one kind.
    """
    from ernie_m_jax.convert import paddle_variables  # the readers import this module

    for name in _NAMED:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".pdparams", ".pt"):
        found = sorted(folder.glob(f"*{suffix}"))
        if len(found) > 1:
            raise ConversionError(f"{folder}: several {suffix} files, name one: {', '.join(p.name for p in found)}")
        if found:
            return found[0]
    places = (folder / "params", folder)
    return next((place for place in places if place.is_dir() and paddle_variables.has_variables(place)), None)


def _nothing(folder: pathlib.Path) -> ConversionError:
    there = sorted(path.name for path in folder.iterdir())
    return ConversionError(
        f"{folder}: no weights. Looked for {', '.join(_NAMED)}, *.pdparams, *.pt, params/ and Paddle variables; "
        f"there is {', '.join(there[:20]) + (', ...' if len(there) > 20 else '') if there else 'nothing'}"
    )


def _open_file(path: pathlib.Path) -> Weights:
    from ernie_m_jax.convert import paddle_files, safetensors_files, torch_files

    kind = recognise(path)
    if kind == "safetensors":
        return safetensors_files.open_file(path)
    if kind == "zip":
        return torch_files.open_zip(path)
    if kind == "pickle":
        return torch_files.open_legacy(path) if torch_files.is_legacy(path) else paddle_files.open_pdparams(path)
    raise ConversionError(f"{path}: a single Paddle variable or variables without names: give the folder they lie in")


def _open_sharded(path: pathlib.Path) -> Weights:
    """A sharded model by its index; every shard must hold exactly the tensors that the index says."""
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise ConversionError(f"{path}: the index has more than {_INDEX_LIMIT} bytes")
        index = json.loads(path.read_bytes())
        places = index["weight_map"]
        if not places or not all(isinstance(shard, str) for shard in places.values()):
            raise ValueError("empty weight_map, or a shard that is no file name")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{path}: not an index with a `weight_map`: {type(error).__name__}: {error}") from error
    found: dict[str, Tensor] = {}
    kinds = set()
    for shard in dict.fromkeys(places.values()):
        if pathlib.PurePath(shard).name != shard or shard in ("", ".", "..") or "\\" in shard:
            raise ConversionError(f"{path}: the shard {shard!r} is not a file name in the index's folder")
        file = path.parent / shard
        if not file.is_file():
            raise ConversionError(f"{file}: missing; {path.name} names it")
        opened = _open_file(file)
        kinds.add(opened.kind)
        wanted = {name for name, place in places.items() if place == shard}
        for names, what in ((wanted - set(opened.tensors), "lacks"), (set(opened.tensors) - wanted, "also has")):
            if names:
                raise ConversionError(f"{file}: {what} {sorted(names)[0]!r}, against {path.name} ({len(names)} such)")
        found.update(opened.tensors)
    if len(kinds) > 1:
        raise ConversionError(f"{path}: shards of different kinds: {sorted(kinds)}")
    metadata = index.get("metadata")
    facts = {"metadata": metadata} if isinstance(metadata, dict) else {}
    return Weights({name: found[name] for name in places}, facts, kinds.pop())
