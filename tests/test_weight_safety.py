"""Hostile files: pickles that want to run something or eat the memory, archives that want to write elsewhere."""

import io
import pickle
import tarfile
import time
import tracemalloc

import pytest

from ernie_m_jax.weights import archives
from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.tensors import ConversionError
from tests import weight_files as made
from tests.weight_files import array, call, dtype, many, mapping, name, number, tensor, text

SHELL = text("touch canary")
TUPLES = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(60))  # 2^60 elements to whoever walks through them
HOSTILE = {
    "os.system": (call("os", "system", SHELL), "'os.system'"),
    "posix": (call("posix", "system", SHELL), "'posix.system'"),
    "eval": (call("builtins", "eval", text("open('canary','w')")), "'builtins.eval'"),
    "eval of Python 2": (call("__builtin__", "eval", text("open('canary','w')")), "'__builtin__.eval'"),
    "exec": (call("builtins", "exec", text("open('canary','w')")), "'builtins.exec'"),
    "getattr": (call("builtins", "getattr", name("os", "path"), text("os")), "'builtins.getattr'"),
    "import": (call("builtins", "__import__", text("os")), "'builtins.__import__'"),
    "open": (call("builtins", "open", text("canary"), text("w")), "'builtins.open'"),
    "subprocess": (call("subprocess", "Popen", SHELL), "'subprocess.Popen'"),
    "runpy": (call("runpy", "_run_code", SHELL), "'runpy._run_code'"),
    "torch.load": (call("torch.serialization", "load", text("other.pt")), "'torch.serialization.load'"),
    "torch hub": (call("torch.hub", "load", text("a/b"), text("c")), "'torch.hub.load'"),
    "numpy.load": (call("numpy", "load", text("x")), "'numpy.load'"),
    "numpy runs text": (call("numpy.testing._private.utils", "runstring", SHELL, b"}"), "runstring"),
    "numpy f2py": (call("numpy.f2py.capi_maps", "load_f2cmap_file", text("x")), "'numpy.f2py"),
    "partial": (call("functools", "partial", name("os", "system"), SHELL), "'functools.partial'"),
    "copyreg": (call("copyreg", "_reconstructor", name("builtins", "object")), "'copyreg._reconstructor'"),
    "add_extension": (call("copyreg", "add_extension", text("os"), text("system"), number(7)), "add_extension"),
    "extension": (b"\x82\x07" + many(SHELL) + b"R", "EXT1"),
    "extension 2": (b"\x83\x07\x00" + many(SHELL) + b"R", "EXT2"),
    "INST": (b"(" + SHELL + b"ios\nsystem\n", "INST"),
    "OBJ": (b"(" + name("builtins", "dict") + SHELL + b"o", "OBJ"),
    "NEWOBJ_EX": (name("argparse", "Namespace") + b")}\x92", "NEWOBJ_EX"),
    "dotted name": (text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93", "__globals__"),
    "dotted module": (text("collections.OrderedDict") + text("__init__") + b"\x93", "__init__"),
    "name with a space": (name("collections", "OrderedDict __init__"), "__init__"),
    "name with an escape": (name("collections", r"Ordered\x44ict"), "collections"),
    "name that is no text": (b"K\x01K\x02\x93", "no text"),
    "state of a function": (name("collections", "OrderedDict") + mapping(__call__=text("x")) + b"b", "sets attributes"),
    "state of a class": (name("argparse", "Namespace") + mapping(__reduce__=text("x")) + b"b", "sets attributes"),
    "class of a Namespace": (name("argparse", "Namespace") + b")\x81" + mapping(__class__=text("x")) + b"b", "options"),
    "call of text": (text("os.system") + many(SHELL) + b"R", "'str'"),
    "call of a marker": (call("numpy", "ndarray", many(number(1 << 50))), "'numpy.ndarray'"),
    "array of objects": (mapping(a=array(kind=dtype("O8"), content=b"]N" + b"a")), "'O8'"),
    "array of text": (mapping(a=array(kind=dtype("U2"))), "'U2'"),
    "structured array": (mapping(a=array(kind=dtype("f4", fields=b"N" + text("a") + b"}"))), "structured"),
    "array of another class": (mapping(a=array(of=name("argparse", "Namespace"))), "other than numpy.ndarray"),
    "array that is a list": (mapping(a=array(content=b"](NNe")), "only numbers"),
    "array bomb": (mapping(a=array(shape=(1 << 50,))), "needs"),
    "array of no size": (mapping(a=array(shape=(-1,))), "no valid shape"),
    "copies": (b"](NNeq\x00" + many(*[call("builtins", "tuple", b"h\x00")] * 9), "tuple of a list"),
    "copies of pairs": (b")q\x00" + call("collections", "OrderedDict", b"h\x00"), "OrderedDict of a tuple"),
    "codec": (call("_codecs", "encode", text("x"), text("rot13")), "rot13"),
    "codec of bytes": (call("_codecs", "encode", text("x"), text("zlib")), "zlib"),
    "key that takes for ever": (b"}" + TUPLES + b"Ns", "tuple as key"),
    "shape that takes for ever": (mapping(a=array(shape=TUPLES)), "no valid shape"),
    "items of a tuple": (b"](" + b"Ne" + b")(" + b"Ne", "appended to a tuple"),
    "buffer": (b"\x97", "NEXT_BUFFER"),
    "text id": (b"Pstorage\n", "PERSID"),
    "long string": (b"\x8e" + (1 << 60).to_bytes(8, "little") + b"x", "announced"),
    "long line": (b"I" + b"9" * 100_000 + b"\n", "pickle"),
    "empty stack": (b"R", "stack"),
    "no mark": (b"t", "pickle"),
    "unknown memo": (b"h\x05", "pickle"),
    "unknown opcode": (b"\xff", "pickle"),
}
WRITERS = {"x.bin": made.write_zip, "x.pt": made.write_legacy, "x.pdparams": made.write_pickle}


def check_refused(path, *words):
    with pytest.raises(ConversionError) as error:
        open_weights(path)
    assert "\n" not in str(error.value)
    for word in (path.name, *words):
        assert word in str(error.value)


def test_the_shell_command_is_live(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\x02" + HOSTILE["os.system"][0] + b".")
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(kind, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body, word = HOSTILE[kind]
    path = WRITERS[file](tmp_path / file, body, {"0": bytes(16)})
    tracemalloc.start()
    started = time.monotonic()
    check_refused(path, word)
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert [entry.name for entry in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("file", WRITERS)
def test_hostile_pickles_that_are_only_useless(file, tmp_path):
    """A memo index of two thousand million, twenty thousand lists in each other, a list that holds itself."""
    records = {} if file == "x.pt" else {"0": bytes(16)}
    for body in (b"}r\xff\xff\xff\x7f", b"}" + text("a") + b"]" * 20_000 + b"a" * 19_999 + b"s", b"]q\x00h\x00a"):
        tracemalloc.start()
        check_refused(WRITERS[file](tmp_path / file, body, records))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("file", ["x.bin", "x.pt"])
@pytest.mark.parametrize(
    ("body", "word"),
    [
        (tensor((1 << 40,), (0,)), "does not fit"),
        (tensor((5,), (1,)), "does not fit"),
        (tensor((2,), (4,)), "does not fit"),
        (tensor((2,), (1,), 3), "does not fit"),
        (tensor((2,), (-1,), 3), "no valid shape"),
        (tensor((2,), (1,), -1), "no valid shape"),
        (tensor((2, 2), (1,)), "strides"),
        (tensor(base=b"N"), "without storage"),
        (tensor(base=made.storage(of="module")), "no storage"),
        (tensor(base=text("storage") + b"Q"), "no storage"),
        (tensor(base=made.storage(kind="FloatStorage", size=-4)), "no valid shape"),
        (
            tensor(base=many(text("storage"), name("numpy", "ndarray"), text("0"), text("cpu"), number(4)) + b"Q"),
            "kind",
        ),
        (tensor(base=made.storage(view=many(text("v"), number(2), number(3)))), "needs 5"),
    ],
)
def test_hostile_tensors(body, word, file, tmp_path):
    check_refused(WRITERS[file](tmp_path / file, mapping(a=body), {"0": bytes(16)}), word)


def test_storages_that_are_not_there(tmp_path):
    good = mapping(a=tensor())
    assert (
        open_weights(made.write_zip(tmp_path / "x.bin", good, {"0": bytes(16)})).tensors["a"].read().tolist() == [0] * 4
    )
    check_refused(made.write_zip(tmp_path / "x.bin", good, {"1": bytes(16)}), "'a'", "missing")
    check_refused(made.write_zip(tmp_path / "x.bin", good, {"0": bytes(12)}), "'a'", "12 bytes")
    check_refused(made.write_legacy(tmp_path / "x.bin", good, {"1": bytes(16)}), "no tensor names it")
    check_refused(made.write_legacy(tmp_path / "x.bin", good, {"0": bytes(12)}), "cut short")
    check_refused(made.write_legacy(tmp_path / "x.bin", good, {}), "'a'", "missing")
    check_refused(made.write_pickle(tmp_path / "x.bin", tensor()), "'torch._utils._rebuild_tensor_v2'")
    check_refused(made.write_pickle(tmp_path / "x.bin", many(text("storage")) + b"Q"), "persistent id")


def test_nested_facts_stay_small(tmp_path):
    """Options that share their parts a billion times over come back cut, and soon."""
    laughs = b"](" + text("ha") * 9 + b"e" + b"".join(b"q\x000](" + b"h\x00" * 9 + b"e" for _ in range(9))
    itself = b"]q\x01h\x01a"
    options = name("argparse", "Namespace") + b")\x81" + mapping(x=laughs, y=itself) + b"b"
    body = mapping(model=mapping(a=tensor()), args=options)
    started = time.monotonic()
    facts = open_weights(made.write_zip(tmp_path / "x.pt", body, {"0": bytes(16)})).facts
    assert set(facts["args"]) <= {"x", "y"}
    body = mapping(model=mapping(a=tensor()), args=name("argparse", "Namespace") + b")\x81" + mapping(y=itself) + b"b")
    facts = open_weights(made.write_zip(tmp_path / "x.pt", body, {"0": bytes(16)})).facts
    assert repr(facts["args"]).count("[") < 10
    assert time.monotonic() - started < 5


def pack(path, *members, mode="w:gz"):
    """An archive of (name, content, keys of the header)."""
    with tarfile.open(path, mode) as archive:
        for title, content, keys in members:
            info = tarfile.TarInfo(title)
            for key, value in keys.items():
                setattr(info, key, value)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")])
def test_archives_of_real_folders(name, mode, tmp_path):
    for folder, kind in (("variables", "paddle-folder"), ("bert_bin_sharded", "torch")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(made.GOLDEN / folder, "model")
        with archives.opened(tmp_path / name) as place:
            weights = open_weights(place)
            assert weights.kind == kind
            made.check(weights, made.recorded({"torch": "bert"}.get(kind, "variables")))
        assert not place.exists()
    with archives.opened(made.GOLDEN / "bert_bin") as place:
        assert place == made.GOLDEN / "bert_bin"
    with pytest.raises(KeyError), archives.opened(tmp_path / name) as place:
        raise KeyError
    assert not place.exists()


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([("/etc/canary", b"x", {})], "outside"),
        ([("../canary", b"x", {})], "outside"),
        ([("a/../../canary", b"x", {})], "outside"),
        ([("C:\\canary", b"x", {})], "outside"),
        ([("a\nb", b"x", {})], "outside"),
        ([("link", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})], "link"),
        ([("link", b"", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("link/canary", b"x", {})], "link"),
        ([("link", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})], "link"),
        ([("device", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], "device"),
        ([("pipe", b"", {"type": tarfile.FIFOTYPE})], "device"),
        ([("a", b"x", {}), ("a", b"y", {})], "twice"),
        ([("a", b"x", {}), ("./a", b"y", {})], "twice"),
        ([(f"a{index}", b"", {}) for index in range(50)], "more than the 40 members"),
        ([("a", bytes(90_000_000), {})], "unpacks to more"),
        ([("a", random_bytes := bytes(range(256)) * 10_000, {}), ("b", random_bytes, {})], "unpacks to more"),
    ],
)
def test_hostile_archives(members, word, tmp_path):
    path = pack(tmp_path / "x.tar.gz", *members)
    place = tmp_path / "unpacked"
    place.mkdir()
    limit = 5_000_000 if word == "unpacks to more" and len(members) == 2 else archives.MAX_BYTES
    unpacked = archives.opened(path, max_bytes=limit, max_members=40, directory=place)
    with pytest.raises(ConversionError, match=word) as error, unpacked:
        pytest.fail("was unpacked")
    assert "x.tar.gz" in str(error.value)
    assert "\n" not in str(error.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.tar.gz", "unpacked"}
    assert not list(place.iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_archives(mode, tmp_path):
    path = pack(tmp_path / "x.tar", *((f"params/{index}", bytes([index]) * 999, {}) for index in range(9)), mode=mode)
    content = path.read_bytes()
    damaged = [content[: len(content) * part // 10] for part in range(3, 10)]
    if mode == "w":
        # Up to the end of a member, of the last one, and of the first half of the mark behind it.
        damaged = [content[:size] for size in (100, 512, 600, 1536, 2000, 9 * 1536, 9 * 1536 + 512)]
    else:
        damaged += [content[:-1], content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]]  # the checksum
    for case in damaged:
        path.write_bytes(case)
        with pytest.raises(ConversionError, match=r"x\.tar"), archives.opened(path):
            pytest.fail("was unpacked")
