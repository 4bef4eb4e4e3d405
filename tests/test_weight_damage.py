"""Files of weights that are damaged, incomplete or something else: one line that names the file and the tensor."""

import json
import pickle
import random
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest

from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.safetensors_files import write_safetensors
from ernie_m_jax.weights.tensors import ConversionError
from tests import weight_files as made

FILES = [
    "torch_zip.pt",
    "torch_legacy.pt",
    "fairseq_zip.pt",
    "fairseq_legacy.pt",
    "parameters_zip.pt",
    "parameters_legacy.pt",
    "attributed_zip.pt",
    "paddle_2.pdparams",
    "paddle_4.pdparams",
    "pairs.pdparams",
    "parts.pdparams",
    "bert_safetensors/model.safetensors",
    "bert_bin/pytorch_model.bin",
    "bert_bin_sharded/pytorch_model-00001-of-00002.bin",
]
BYTE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


@pytest.mark.parametrize("name", FILES)
def test_cut_files(name, tmp_path):
    content = (made.GOLDEN / name).read_bytes()
    path = tmp_path / "weights.bin"
    for size in (1, 2, 7, 9, 100, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        made.check_failure(path)


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_a_conversion_error_or_goes_unseen(name, tmp_path):
    noticed = 0
    content, path, generator = (made.GOLDEN / name).read_bytes(), tmp_path / "weights.bin", random.Random(name)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 3))):
            damaged[int(generator.triangular(0, len(content) - 1, 0))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            made.read_all(path)
        except ConversionError:
            noticed += 1
    assert noticed


def test_a_flipped_bit_in_a_zip_names_the_tensor(tmp_path):
    content = bytearray((made.GOLDEN / "torch_zip.pt").read_bytes())
    bias = made.recorded("torch")["output.bias"][0].tobytes()
    content[content.index(bias) + 9] ^= 4
    (tmp_path / "x.pt").write_bytes(content)
    made.check_failure(tmp_path / "x.pt", "'output.bias'", "CRC-32")


def test_cut_safetensors_name_the_first_tensor_beyond_the_end(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(4, "f4"), "b": np.zeros((2, 3), "f4")})
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-3])
    made.check_failure(tmp_path / "x.safetensors", "'b' of shape (2, 3)", "cut short")
    (tmp_path / "x.safetensors").write_bytes(content + b"x")
    made.check_failure(tmp_path / "x.safetensors", "1 bytes after")


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b"{", "no valid JSON"),
        (b'{"a":1}', "needs dtype"),
        (b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}}', "dtype 'F4'"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "no valid shape"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "cannot lie"),
        (b'{"a":%s,"b":%s}' % (BYTE, BYTE), "ends at 1"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', "ends at 0"),
        (b'{"a":%s,"a":%s}' % (BYTE, BYTE), "twice"),
        (b'{"a":' + b"[" * 100_000 + b"}", "no valid JSON"),
    ],
)  # fmt: skip
def test_wrong_safetensors_headers(header, word, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    made.check_failure(tmp_path / "x.safetensors", word)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 38) + header)
    made.check_failure(tmp_path / "x.safetensors", "header of 274877906944 bytes")


@pytest.mark.parametrize("name", ["bert_safetensors_sharded", "bert_bin_sharded"])
def test_shards_must_be_those_of_the_index(name, tmp_path):
    shutil.copytree(made.GOLDEN / name, tmp_path, dirs_exist_ok=True)
    index = next(tmp_path.glob("*.index.json"))
    content = json.loads(index.read_text())
    tensor, shard = next(iter(content["weight_map"].items()))
    other = next(value for value in content["weight_map"].values() if value != shard)

    def changed(**places):
        index.write_text(json.dumps({**content, "weight_map": {**content["weight_map"], **places}}))

    changed(**{tensor: other})
    made.check_failure(tmp_path, repr(tensor), "index.json")
    changed(unknown=shard)
    made.check_failure(tmp_path, "lacks 'unknown'", shard)
    for escape in ("../x", "/etc/passwd", "a/b", "..", "", "..\\x"):
        changed(**{tensor: escape})
        made.check_failure(index, repr(escape))
    changed()
    (tmp_path / shard).rename(tmp_path / "moved")
    made.check_failure(tmp_path, shard, "missing")
    for text in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{", "[" * 100_000):
        index.write_text(text)
        made.check_failure(index)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>not found</html>", "HTML"),
        (b"\x1f\x8b\x08", "archives.opened"),
        (b"x" * 257 + b"ustar" + bytes(300), "before 0.1.10"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"some text", "neither"),
        (b"PK\x03\x04 and then nothing", "zip"),
        (bytes(100), "folder"),
    ],
)
def test_what_is_not_weights_is_called_by_its_name(content, word, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    made.check_failure(path, word)
    made.check_failure(tmp_path, word, path.name)


@pytest.mark.parametrize(
    ("name", "word"),
    [("refused_module.pt", "Linear"), ("refused_script.pt", "TorchScript"), ("refused_combined", "folder")],
)
def test_what_is_not_read(name, word):
    made.check_failure(made.GOLDEN / name, word)


def test_paddle_variables_with_damage(tmp_path):
    shutil.copytree(made.GOLDEN / "variables", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "params" / "encoder_fc.w_0"
    content = path.read_bytes()
    for damaged, word in (
        (content[:-1], "shape (4, 3)"),
        (content + b"x", "49"),
        (content[:20], "header"),
        (content[:6], "header"),
        (b"", "empty"),
        (b"<html>", "HTML"),
        (content.replace(b"\x08\x05\x10", b"\x08\x07\x10"), "data type 7"),
        (content.replace(b"\x10\x04\x10", b"\x10\x05\x10"), "shape (5, 3)"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ConversionError, match=path.name) as error:
            open_weights(tmp_path)
        assert word in str(error.value)
    packed = content.replace(
        b"\x08\x05\x10\x04\x10\x03", b"\x08\x05\x12\x02\x04\x03"
    )  # as newer protocol buffers write
    assert packed != content
    path.write_bytes(packed)
    made.check(open_weights(tmp_path), made.recorded("variables"))
    path.write_bytes(content[:16] + struct.pack("<i", 4) + b"\x08\x16\x10\x02" + b"\x80\x3f\x00\x40")
    bfloat = open_weights(tmp_path).tensors["encoder_fc.w_0"]
    assert bfloat.dtype == ml_dtypes.bfloat16
    assert bfloat.read().tolist() == [1, 2]


def test_paddle_parts(tmp_path):
    assert b"embedding.weight@@.3" in (made.GOLDEN / "parts.pdparams").read_bytes()  # cut into four
    path = tmp_path / "x.pdparams"
    halves = {"w@@.0": np.zeros(3, "f4"), "w@@.1": np.ones(3, "f4")}
    for shape, slices, word in (
        ((2, 3), ["w@@.0", "w@@.1"], ""),
        ((7,), ["w@@.0", "w@@.1"], "shape (7,)"),
        ((6,), ["w@@.0", "w@@.0"], "twice"),
        ((6,), ["w@@.0", "w@@.2"], "'w@@.2'"),
        ((3,), [], "no list"),
        ("x", ["w@@.0"], "no valid shape"),
    ):
        path.write_bytes(
            pickle.dumps({**halves, "UnpackBigParamInfor@@": {"w": {"OriginShape": shape, "slices": slices}}}, 2)
        )
        if word:
            made.check_failure(path, "'w'", word)
        else:
            made.check(open_weights(path), {"w": (np.array([[0, 0, 0], [1, 1, 1]], "f4"), "float32")})


@pytest.mark.parametrize("name", ["bert_safetensors/model.safetensors", "paddle_4.pdparams", "torch_legacy.pt"])
def test_a_file_that_shrinks_after_it_was_opened(name, tmp_path):
    path = tmp_path / "x"
    shutil.copy(made.GOLDEN / name, path)
    last = max(open_weights(path).tensors.values(), key=lambda tensor: np.prod(tensor.shape))
    with path.open("r+b") as file:
        file.truncate(40)
    with pytest.raises(ConversionError, match=f"the tensor '{last.name}'"):
        last.read()
