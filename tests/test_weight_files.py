"""Files of weights: every format and variation reads as the program that wrote it meant, and damage is an error."""

import contextlib
import json
import pickle
import random
import shutil
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ernie_m_jax.convert.paddle_files import write_pdparams
from ernie_m_jax.convert.safetensors_files import write_safetensors
from ernie_m_jax.convert.tensors import ConversionError, open_weights
from tests import weight_files as made

RECORDED = {
    "torch_zip.pt": ("torch", "torch"),
    "torch_legacy.pt": ("torch", "torch"),
    "fairseq_zip.pt": ("fairseq", "torch"),
    "fairseq_legacy.pt": ("fairseq", "torch"),
    "parameters_zip.pt": ("parameters", "torch"),
    "parameters_legacy.pt": ("parameters", "torch"),
    "attributed_zip.pt": ("attributed", "torch"),
    "bert_safetensors": ("bert", "safetensors"),
    "bert_safetensors_sharded": ("bert", "safetensors"),
    "bert_bin": ("bert", "torch"),
    "bert_bin_sharded": ("bert", "torch"),
    "bert_bfloat16": ("bert_bfloat16", "safetensors"),
    "paddle_2.pdparams": ("paddle", "pdparams"),
    "paddle_4.pdparams": ("paddle", "pdparams"),
    "pairs.pdparams": ("pairs", "pdparams"),
    "parts.pdparams": ("parts", "pdparams"),
    "variables": ("variables", "paddle-folder"),
}
FILES = [
    *(name for name in RECORDED if "." in name),
    "bert_safetensors/model.safetensors",
    "bert_bin/pytorch_model.bin",
    "bert_bin_sharded/pytorch_model-00001-of-00002.bin",
]
BYTE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
ARRAYS = {
    "matrix": np.arange(20, dtype="f4").reshape(5, 4).T,  # not contiguous
    "scalar": np.float32(3).reshape(()),
    "half": np.arange(9, dtype="f2"),
    "bfloat": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "empty": np.zeros((0, 3), "f4"),
    "flags": np.array([True, False]),
    "long": np.arange(3000, dtype="i8"),
    "größe": np.ones(3, "f8"),
}


def read_all(path):
    for tensor in open_weights(path).tensors.values():
        tensor.read()


def check_failure(path, *words):
    """Opens and reads everything, which must fail with one line that names the file, and gives that line."""
    with pytest.raises(ConversionError) as error:
        read_all(path)
    message = str(error.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_files_read_equal(name):
    arrays, kind = RECORDED[name]
    weights = open_weights(made.GOLDEN / name)
    assert weights.kind == kind
    made.check(weights, made.recorded(arrays))


def test_what_else_the_files_say():
    def facts(name):
        return open_weights(made.GOLDEN / name).facts

    for name in ("fairseq_zip.pt", "fairseq_legacy.pt"):
        assert facts(name)["args"] == {
            "arch": "roberta_base", "encoder_layers": 12, "dropout": 0.1, "tokens": ["a", "b"], "data": None
        }  # fmt: skip
        assert "last_optimizer_state" in facts(name)["other"]
    assert facts("bert_safetensors")["metadata"] == {"format": "pt"}
    assert facts("bert_bin_sharded")["metadata"]["total_size"] == 3536
    assert facts("paddle_4.pdparams") == {}  # without Paddle's table of names
    assert facts("pairs.pdparams")["other"] == ["epoch", "deep"]
    skipped = facts("variables")["skipped"]
    assert {"encoder_fc.w_0_moment1_0", "encoder_fc.b_0_beta2_pow_acc_0", "learning_rate_0", "vocab.txt"} <= set(
        skipped
    )


def test_the_first_kind_in_a_folder_counts(tmp_path):
    shutil.copytree(made.GOLDEN / "bert_bin_sharded", tmp_path, dirs_exist_ok=True)
    assert open_weights(tmp_path).kind == "torch"
    shutil.copy(made.GOLDEN / "bert_safetensors" / "model.safetensors", tmp_path)
    assert open_weights(tmp_path).kind == "safetensors"
    other = tmp_path / "other"
    other.mkdir()
    check_failure(other, "pytorch_model.bin", "there is nothing")
    (other / "notes.md").write_text("x")
    check_failure(other, "there is notes.md")
    shutil.copy(made.GOLDEN / "pairs.pdparams", other / "a.pdparams")
    assert open_weights(other).kind == "pdparams"
    shutil.copy(made.GOLDEN / "pairs.pdparams", other / "b.pdparams")
    check_failure(other, "a.pdparams, b.pdparams")
    check_failure(tmp_path / "none.bin", "No such file")


def test_writers_are_read_by_us_and_by_others(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", ARRAYS, {"format": "pt"})
    write_pdparams(tmp_path / "x.pdparams", ARRAYS)
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pdparams"):
        made.check(open_weights(path), {name: (array, str(array.dtype)) for name, array in ARRAYS.items()})
    theirs = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    with (tmp_path / "x.pdparams").open("rb") as file:
        paddles = pickle.load(file)
    assert paddles.pop("StructuredToParameterName@@") == {name: name for name in ARRAYS}
    assert paddles["bfloat"].dtype == np.uint16
    paddles["bfloat"] = paddles["bfloat"].view(ml_dtypes.bfloat16)
    for found in (theirs, paddles):
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["x.pdparams", "x.safetensors"]


@pytest.mark.parametrize("write", [write_safetensors, write_pdparams])
def test_a_failed_write_leaves_the_file_as_it_was(write, tmp_path):
    path = tmp_path / "x"
    write(path, {"a": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="'b' has dtype complex64"):
        write(path, {"a": np.zeros(2), "b": np.zeros(2, "c8")})
    with pytest.raises(AttributeError):
        write(path, {"a": np.zeros(2), 3: np.zeros(2)} if write is write_pdparams else {"a": None})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_held_twice(tmp_path):
    arrays = {str(index): np.zeros(1 << 20, "f4") for index in range(10)}
    for write, name in ((write_safetensors, "x.safetensors"), (write_pdparams, "x.pdparams")):
        tracemalloc.start()
        write(tmp_path / name, arrays)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        weights = open_weights(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        for tensor in weights.tensors.values():
            assert tensor.read().nbytes == 4 << 20
        assert tracemalloc.get_traced_memory()[1] < 14 << 20
        tracemalloc.stop()


def test_opening_reads_no_array(tmp_path):
    size = 200 << 20
    header = json.dumps({"large": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    base = made.mapping(large=made.tensor((size // 4,), base=made.storage(size=size // 4)))
    made.write_legacy(tmp_path / "x.bin", base, {"0": b""})
    with (tmp_path / "x.bin").open("r+b") as file:
        file.seek(-8, 2)
        file.write(struct.pack("<Q", size // 4))
    for name in ("x.safetensors", "x.bin"):  # sparse
        with (tmp_path / name).open("r+b") as file:
            file.truncate((tmp_path / name).stat().st_size + size)
    small = made.mapping(large=made.tensor((size // 16,), base=made.storage(size=size // 16)))
    made.write_zip(tmp_path / "x.pt", small, {"0": bytes(size // 4)})
    for name in ("x.safetensors", "x.bin", "x.pt"):
        tracemalloc.start()
        weights = open_weights(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        assert weights.tensors["large"].shape in ((size // 4,), (size // 16,))


def test_views_of_storages(tmp_path):
    data = np.arange(12, dtype="f4")
    whole = made.storage(size=12)
    part = made.storage(size=12, view=made.many(made.text("v"), made.number(4), made.number(6)))
    pickle_ = made.mapping(
        rows=made.tensor((2, 3), (3, 1), 6, whole),
        columns=made.tensor((3, 4), (1, 3), 0, whole),
        old=made.tensor((2, 2), (1, 2), 1, part),
    )
    expected = {"rows": data[6:].reshape(2, 3), "columns": data.reshape(4, 3).T, "old": data[5:9].reshape(2, 2).T}
    expected = {name: (array, "float32") for name, array in expected.items()}
    made.check(open_weights(made.write_legacy(tmp_path / "x.bin", pickle_, {"0": data.tobytes()})), expected)
    big = data.astype(">f4").tobytes()
    made.check(open_weights(made.write_zip(tmp_path / "x.pt", pickle_, {"0": big}, "big")), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_numpy(protocol, tmp_path):
    """Every protocol of Python's own, column-major and big-endian arrays, short and long ones."""
    arrays = {
        f"{order}{size}": np.arange(size * 3, dtype="f4").reshape(size, 3, order=order)
        for order in "CF"
        for size in (2, 900)
    }
    arrays |= {"big": np.arange(900, dtype=">f4"), "bfloat": ARRAYS["bfloat"], "bytes": np.arange(2000).astype("u1")}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    expected = {name: (array, str(array.dtype.newbyteorder("="))) for name, array in arrays.items()}
    expected["big"] = (arrays["big"].astype("f4"), "float32")
    made.check(open_weights(tmp_path / "x.pdparams"), expected)


@pytest.mark.parametrize("name", FILES)
def test_cut_files(name, tmp_path):
    content = (made.GOLDEN / name).read_bytes()
    path = tmp_path / "weights.bin"
    for size in (1, 2, 7, 9, 100, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        check_failure(path)


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_a_conversion_error_or_goes_unseen(name, tmp_path):
    content, path, generator = (made.GOLDEN / name).read_bytes(), tmp_path / "weights.bin", random.Random(name)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 3))):
            damaged[int(generator.triangular(0, len(content) - 1, 0))] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ConversionError):
            read_all(path)


def test_a_flipped_bit_in_a_zip_names_the_tensor(tmp_path):
    content = bytearray((made.GOLDEN / "torch_zip.pt").read_bytes())
    bias = made.recorded("torch")["output.bias"][0].tobytes()
    content[content.index(bias) + 9] ^= 4
    (tmp_path / "x.pt").write_bytes(content)
    check_failure(tmp_path / "x.pt", "'output.bias'", "CRC-32")


def test_cut_safetensors_name_the_first_tensor_beyond_the_end(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(4, "f4"), "b": np.zeros((2, 3), "f4")})
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-3])
    check_failure(tmp_path / "x.safetensors", "'b' of shape (2, 3)", "cut short")
    (tmp_path / "x.safetensors").write_bytes(content + b"x")
    check_failure(tmp_path / "x.safetensors", "1 bytes after")


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
    check_failure(tmp_path / "x.safetensors", word)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 38) + header)
    check_failure(tmp_path / "x.safetensors", "header of 274877906944 bytes")


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
    check_failure(tmp_path, repr(tensor), "index.json")
    changed(unknown=shard)
    check_failure(tmp_path, "lacks 'unknown'", shard)
    for escape in ("../x", "/etc/passwd", "a/b", "..", "", "..\\x"):
        changed(**{tensor: escape})
        check_failure(index, repr(escape))
    changed()
    (tmp_path / shard).rename(tmp_path / "moved")
    check_failure(tmp_path, shard, "missing")
    for text in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{", "[" * 100_000):
        index.write_text(text)
        check_failure(index)


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
    check_failure(path, word)
    check_failure(tmp_path, word, path.name)


@pytest.mark.parametrize(
    ("name", "word"),
    [("refused_module.pt", "Linear"), ("refused_script.pt", "TorchScript"), ("refused_combined", "folder")],
)
def test_what_is_not_read(name, word):
    check_failure(made.GOLDEN / name, word)


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
            check_failure(path, "'w'", word)
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
