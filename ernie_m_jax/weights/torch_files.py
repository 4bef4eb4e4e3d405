"""PyTorch files in, without PyTorch: the zip format (since 1.6) and the legacy one before it.

Both are a pickle in which each tensor names a storage (a run of numbers), an offset and strides, and beside it the
storages' bytes, which stay in the file until a tensor is read. A zip has a checksum for each storage, checked then.
What the pickle holds is a state dict, or, as fairseq and trainers write it, one under "model" or "state_dict".
"""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ernie_m_jax.weights.pickle_values import Namespace, plain
from ernie_m_jax.weights.safe_pickle import load
from ernie_m_jax.weights.tensors import ConversionError, Tensor, Weights, read_bytes
from ernie_m_jax.weights.torch_tensors import TABLE, Storage, View, storage_of

_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # first of the legacy format's pickles
_PROTOCOL = 1001  # second
_PICKLE_LIMIT = 256 << 20  # bytes of a zip's pickle, which has no arrays; that of a large model has some 100,000


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the bytes under a key lie; `checksum` is their CRC-32, where the format has one."""

    offset: int
    size: int
    checksum: int | None = None
    big_endian: bool = False


def is_legacy(path: pathlib.Path) -> bool:
    """Whether a pickle is the first of a legacy file."""
    with path.open("rb") as file:
        return file.read(15)[2:] == b"\x8a\x0a" + _MAGIC + b"."


def open_legacy(path: pathlib.Path) -> Weights:
    """Opens a file of the format before PyTorch 1.6, or of `_use_new_zipfile_serialization=False`.

    Raises:
      ConversionError: damaged, cut short, or a pickle that asks for more than tensors.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        load(file, end, path, {})
        version = load(file, end, path, {})
        if version != _PROTOCOL:
            raise ConversionError(f"{path}: version {plain(version)} of PyTorch's legacy format; {_PROTOCOL} is read")
        load(
            file, end, path, {}
        )  # sizes of C types and byte order of the writer, which wrote little-endian all the same
        storages: dict[str, Storage] = {}
        content = load(file, end, path, TABLE, lambda identity: storage_of(identity, storages))
        keys = load(file, end, path, {})
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ConversionError(f"{path}: the list of storages is damaged")
        places = {}
        for key in keys:
            if key not in storages or key in places:
                raise ConversionError(
                    f"{path}: the storage {key[:40]!r} is listed, no tensor names it or it stands twice"
                )
            size = storages[key].size * storages[key].dtype.itemsize
            count, offset = int.from_bytes(file.read(8), "little"), file.tell()
            if offset + size > end:
                raise ConversionError(
                    f"{path}: cut short: the storage {key[:40]!r} ends at byte {offset + size} of {end}"
                )
            if count != storages[key].size:
                raise ConversionError(
                    f"{path}: the storage {key[:40]!r} has {count} elements, not {storages[key].size}"
                )
            places[key] = _Place(offset, size)
            file.seek(size, 1)
    return _weights(path, content, places)


def open_zip(path: pathlib.Path) -> Weights:
    """Opens a file of the format since PyTorch 1.6.

    Raises:
      ConversionError: damaged, cut short, another kind of zip, or a pickle that asks for more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ConversionError(f"{path}: the zip of a PyTorch file is damaged or cut short: {error}") from error
    by_name = {entry.filename: entry for entry in entries}
    pickles = [name for name in by_name if name.split("/")[1:] == ["data.pkl"]]
    if len(by_name) != len(entries) or len(pickles) != 1:
        raise ConversionError(
            f"{path}: a zip with {len(pickles)} data.pkl and {len(entries)} entries: no PyTorch weights"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in by_name:
        raise ConversionError(f"{path}: a TorchScript program: save the model's state_dict() instead")
    size = path.stat().st_size
    order = b"little"
    if f"{folder}byteorder" in by_name:
        place = _entry(path, by_name[f"{folder}byteorder"], size)
        order = _read(path, place, "the byte order").tobytes() if place.size < 16 else b""
    if order not in (b"little", b"big"):
        raise ConversionError(f"{path}: unknown byte order {order!r}")
    places = {
        name.removeprefix(f"{folder}data/"): _entry(path, entry, size, order == b"big")
        for name, entry in by_name.items()
        if name.startswith(f"{folder}data/")
    }
    place = _entry(path, by_name[pickles[0]], size)
    if place.size > _PICKLE_LIMIT:
        raise ConversionError(f"{path}: {pickles[0]} has {place.size} bytes, more than the {_PICKLE_LIMIT} allowed")
    _read(path, place, pickles[0])  # for its checksum
    with path.open("rb") as file:
        file.seek(place.offset)
        content = load(file, place.offset + place.size, path, TABLE, lambda identity: storage_of(identity, {}))
    return _weights(path, content, places)


def _entry(path: pathlib.Path, entry: zipfile.ZipInfo, end: int, big_endian: bool = False) -> _Place:
    """Where the content of an entry lies, which the entry's own header says, not the directory."""
    where = f"{path}: the record {entry.filename[:80]!r}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise ConversionError(
            f"{where} is compressed or encrypted, which PyTorch's are not: save the file again with it"
        )
    header = read_bytes(path, entry.header_offset, 30, where).tobytes()
    offset = (
        entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )
    if header[:4] != b"PK\x03\x04" or offset + entry.file_size > end:
        raise ConversionError(f"{where} is damaged: no such record at byte {entry.header_offset}")
    return _Place(offset, entry.file_size, entry.CRC, big_endian)


def _read(path: pathlib.Path, place: _Place, what: str) -> np.ndarray:
    data = read_bytes(path, place.offset, place.size, what)
    if place.checksum is not None and zlib.crc32(data.data) != place.checksum:
        raise ConversionError(f"{path}: {what} is damaged: its CRC-32 is not the one that was written")
    return data


def _weights(path: pathlib.Path, content: Any, places: Mapping[str, _Place]) -> Weights:
    """Finds the state dict in what the pickle held."""
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: holds {type(content).__name__}, not a state dict")
    states = content
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            states = content[key]
            break
    tensors = {}
    other = [str(key) for key in content if states is not content and content[key] is not states]
    for name, view in states.items():
        if not isinstance(name, str) or not isinstance(view, View):
            other.append(str(name))
            continue
        storage, what = view.storage, f"the tensor {name!r}"
        place = places.get(storage.key)
        if place is None or place.size != storage.size * storage.dtype.itemsize:
            there = "missing" if place is None else f"of {place.size} bytes"
            raise ConversionError(
                f"{path}: {what} of shape {view.shape} lies in the record {storage.key[:40]!r}, which should have "
                f"{storage.size} x {storage.dtype} and is {there}"
            )
        tensors[name] = Tensor(name, view.shape, storage.dtype, str(path), _reader(path, what, view, place))
    if not tensors:
        raise ConversionError(
            f"{path}: no tensors at its top level, under 'model' or 'state_dict'; it has {other[:20]}"
        )
    facts: dict[str, Any] = {"other": other} if other else {}
    if isinstance(arguments := content.get("args"), Namespace | dict):
        facts["args"] = plain(arguments.values if isinstance(arguments, Namespace) else arguments)
    return Weights(tensors, facts, "torch")


def _reader(path: pathlib.Path, what: str, view: View, place: _Place) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        data, dtype = _read(path, place, what), view.storage.dtype
        if place.big_endian:
            data.view(f"u{dtype.itemsize}").byteswap(inplace=True)
        numbers = data.view(dtype)[view.storage.first + view.offset :]
        strides = [step * dtype.itemsize for step in view.strides]
        array = np.lib.stride_tricks.as_strided(numbers, view.shape, strides)
        # A part of a storage is copied, so that it does not keep the whole alive.
        return array if array.flags.c_contiguous and array.nbytes == data.nbytes else array.copy("C")

    return read
