"""A path in, the tensors of whatever lies there out: a file's content, not its name, says what it is.

Opening reads headers only, and nothing that is opened here is ever executed.
"""

import json
import os
import pathlib

from ernie_m_jax.weights import paddle_files, paddle_variables, safetensors_files, torch_files
from ernie_m_jax.weights.kinds import recognise
from ernie_m_jax.weights.tensors import ConversionError, Tensor, Weights

_INDEX_LIMIT = 64 << 20  # bytes of a JSON index; that of a model with thousands of tensors has a megabyte
_NAMED = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model_state.pdparams",
)


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Opens a file of weights, a sharded model's index, or a folder with either.

    In a folder the first of these counts: model.safetensors (an index before a single file), pytorch_model.bin (same),
    model_state.pdparams or the only other .pdparams, the only .pt, Paddle variables in `params/` or the folder itself.

    Raises:
      ConversionError: nothing there, not weights, damaged, or a pickle that asks for more than arrays.
    """
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


def find_weights(folder: pathlib.Path) -> pathlib.Path | None:
    """The file, index or folder of weights in a folder, by the order of `open_weights`; None if there is none.

    Raises:
      ConversionError: several files of one kind.
    """
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
        if (
            pathlib.PurePath(shard).name != shard
            or shard in ("", ".", "..")
            or "\\" in shard
            or not shard.isprintable()
        ):
            raise ConversionError(f"{path}: the shard {shard!r:.200} is not a file name in the index's folder")
        file = path.parent / shard
        if not file.is_file():
            raise ConversionError(f"{file}: missing; {path.name} names it")
        opened = _open_file(file)
        kinds.add(opened.kind)
        wanted = {name for name, place in places.items() if place == shard}
        for names, what in ((wanted - set(opened.tensors), "lacks"), (set(opened.tensors) - wanted, "also has")):
            if names:
                raise ConversionError(
                    f"{file}: {what} {sorted(names)[0]!r:.200}, against {path.name} ({len(names)} such)"
                )
        found.update(opened.tensors)
    if len(kinds) > 1:
        raise ConversionError(f"{path}: shards of different kinds: {sorted(kinds)}")
    metadata = index.get("metadata")
    facts = {"metadata": metadata} if isinstance(metadata, dict) else {}
    return Weights({name: found[name] for name in places}, facts, kinds.pop())
