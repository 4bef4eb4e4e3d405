"""Files of weights put together byte by byte, for what no honest writer makes; and the recorded ones."""

import pathlib
import struct
import zipfile

import numpy as np
import pytest

from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.tensors import ConversionError

GOLDEN = pathlib.Path(__file__).parent / "golden" / "files"
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."


def recorded(name):
    """Arrays that a recorded file must give, as name -> (array or bits, dtype)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        pairs = [(*key.partition(":")[::2], file[key]) for key in file.files]
    return {name: (array, dtype or str(array.dtype)) for name, dtype, array in pairs}


def check(weights, expected):
    assert set(weights.tensors) == set(expected)
    for name, tensor in weights.tensors.items():
        array, dtype = expected[name]
        found = tensor.read()
        assert (tensor.name, tensor.shape, str(tensor.dtype)) == (name, array.shape, dtype)
        assert (found.shape, str(found.dtype)) == (array.shape, dtype)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found.view(array.dtype), array)


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def many(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + many(*arguments) + b"R"


def mapping(**entries):
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def dtype(code="f4", fields=b"NNN"):
    return (
        call("numpy", "dtype", text(code), b"\x89", b"\x88")
        + many(number(3), text("<"), fields, number(-1), number(-1), number(0))
        + b"b"
    )


def array(shape=(2,), kind=None, content=b"B\x08\0\0\0" + bytes(8), of=b"cnumpy\nndarray\n"):
    empty = call("numpy.core.multiarray", "_reconstruct", of, many(number(0)), text("b"))
    sizes = shape if isinstance(shape, bytes) else many(*map(number, shape))
    state = many(number(1), sizes, dtype() if kind is None else kind, b"\x89", content)
    return empty + state + b"b"


def storage(key="0", size=4, kind="FloatStorage", view=b"", of="storage"):
    return many(text(of), name("torch", kind), text(key), text("cpu"), number(size), view) + b"Q"


def tensor(shape=(4,), strides=(1,), offset=0, base=None):
    parts = (number(offset), many(*map(number, shape)), many(*map(number, strides)), b"\x89", b"}")
    return call("torch._utils", "_rebuild_tensor_v2", storage() if base is None else base, *parts)


def write_zip(path, pickle, records, byteorder=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickle + b".")
        if byteorder:
            archive.writestr("archive/byteorder", byteorder)
        for key, content in records.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def write_legacy(path, pickle, records, itemsize=4):
    keys = b"\x80\x02](" + b"".join(map(text, records)) + b"e."
    body = b"".join(struct.pack("<Q", len(content) // itemsize) + content for content in records.values())
    path.write_bytes(LEGACY + b"\x80\x02" + pickle + b"." + keys + body)
    return path


def write_pickle(path, pickle, _records=None):
    path.write_bytes(b"\x80\x02" + pickle + b".")
    return path


def read_all(path):
    """Opens and reads everything; what is read must be what was declared."""
    for tensor in open_weights(path).tensors.values():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)


def check_failure(path, *words):
    """Opens and reads everything, which must fail with one line that names the file, and gives that line."""
    with pytest.raises(ConversionError) as error:
        read_all(path)
    message = str(error.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message
