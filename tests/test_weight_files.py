"""Files of weights: every format and variation reads as the program that wrote it meant, and damage is an error."""

import json
import pickle
import shutil
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.paddle_files import write_pdparams
from ernie_m_jax.weights.safetensors_files import write_safetensors
from ernie_m_jax.weights.tensors import ConversionError
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
    made.check_failure(other, "pytorch_model.bin", "there is nothing")
    (other / "notes.md").write_text("x")
    made.check_failure(other, "there is notes.md")
    shutil.copy(made.GOLDEN / "pairs.pdparams", other / "a.pdparams")
    assert open_weights(other).kind == "pdparams"
    shutil.copy(made.GOLDEN / "pairs.pdparams", other / "b.pdparams")
    made.check_failure(other, "a.pdparams, b.pdparams")
    made.check_failure(tmp_path / "none.bin", "No such file")


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
