"""Checkpoints: what comes back is what went in, on any mesh, and nothing damaged comes back at all."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
STREAMS = {"0": {"index": 3, "epoch": 0}, "1": {"index": [5, 6]}}
META = {"stage": "stage1", "versions": {"jax": "x"}}


def make_state(seed=0, rows=40):
    generator = np.random.default_rng(seed)
    params = {
        "embeddings": {"word": jnp.asarray(generator.normal(size=(rows, 8)), jnp.float32)},
        "mlm_head": {"bias": jnp.asarray(generator.normal(size=(rows,)), jnp.bfloat16)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {"step": jnp.int32(seed), "params": params, "optimizer": optimizer.init(params)}


def abstract(tree, sharding=DEVICE):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def saved(directory, *steps, keep=0):
    checkpoints = Checkpoints(directory, keep, "aaa")
    for step in steps:
        checkpoints.save(step, make_state(step), STREAMS, META)
    checkpoints.wait()
    return checkpoints


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    """A directory with step 7 complete; tests copy it before they damage it."""
    directory = tmp_path_factory.mktemp("checkpoint")
    saved(directory, 7)
    return directory


@pytest.fixture
def copy(one_step, tmp_path):
    return pathlib.Path(shutil.copytree(one_step, tmp_path / "copy"))


def test_round_trip_of_optimizer_state_streams_and_meta(one_step):
    checkpoints = Checkpoints(one_step, 0, "aaa")
    state, streams, meta = checkpoints.restore(None, abstract(make_state()))
    assert_same(state, make_state(7))
    assert (streams, meta) == (STREAMS, META)
    assert checkpoints.contents()["params/embeddings/word"].shape == (40, 8)


def test_a_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_same(saved("runs/checkpoints", 3).restore(3, abstract(make_state()))[0], make_state(3))
    assert (tmp_path / "runs" / "checkpoints" / "3" / "manifest.json").exists()
    with pytest.raises(CheckpointError, match=r"^gs://bucket/run is a URL; mirrors\.mirrored gives"):
        Checkpoints("gs://bucket/run", 0, "aaa")


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, 0, "aaa")
    for step in range(3):
        expected = np.random.default_rng(step).normal(size=2_000_000).astype(np.float32)
        state = {"params": {"w": jnp.array(expected)}}
        checkpoints.save(step, state, {}, {})
        for _ in range(4):
            state = overwrite(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        restored, _, _ = checkpoints.restore(step, abstract(state))
        np.testing.assert_array_equal(restored["params"]["w"], expected)


def test_streams_are_those_of_the_moment_of_saving(tmp_path):
    checkpoints, streams = Checkpoints(tmp_path, 0, "aaa"), {"0": {"index": 1}}
    checkpoints.save(1, make_state(1), streams, {})
    streams["0"]["index"] = 2
    _, restored, _ = checkpoints.restore(1, abstract(make_state()))
    assert restored == {"0": {"index": 1}}


def test_an_empty_or_unfinished_directory_is_no_checkpoint(copy):
    (copy / "9").mkdir()
    shutil.copytree(copy / "7", copy / "8")
    (copy / "8" / "manifest.json").unlink()
    (copy / "notes").mkdir()
    checkpoints = Checkpoints(copy, 0, "aaa")
    assert checkpoints.steps() == [7]
    assert checkpoints.latest() == 7
    with pytest.raises(CheckpointError, match=r"step 9 is not in .*complete steps \[7\].*\[8, 9\]"):
        checkpoints.restore(9, abstract(make_state()))
    checkpoints.save(9, make_state(9), STREAMS, META)
    state, _, _ = checkpoints.restore(None, abstract(make_state()))
    assert_same(state, make_state(9))


def test_nothing_there(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", 1, "aaa")
    checkpoints.wait()
    assert (checkpoints.latest(), checkpoints.steps()) == (None, [])
    assert not (tmp_path / "none").exists()
    with pytest.raises(CheckpointError, match=r"a checkpoint is not in .*none"):
        checkpoints.restore(None, abstract(make_state()))


def test_a_complete_step_is_not_written_again(copy):
    before = (copy / "7" / "manifest.json").read_bytes()
    checkpoints = Checkpoints(copy, 0, "aaa")
    checkpoints.save(7, make_state(8), STREAMS, META)
    checkpoints.wait()
    assert (copy / "7" / "manifest.json").read_bytes() == before
    assert_same(checkpoints.restore(7, abstract(make_state()))[0], make_state(7))


def test_keeps_the_newest_and_never_deletes_the_one_just_written(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, keep=2)
    assert checkpoints.steps() == [2, 3]
    assert not (tmp_path / "1").exists()
    assert saved(tmp_path, 0, keep=1).steps() == [0, 3]  # training went back to before steps 2 and 3
    with pytest.raises(ValueError, match=r"config\.train\.max_to_keep is -1; it must be at least 0"):
        Checkpoints(tmp_path, -1, "aaa")


def test_every_kind_of_damage_names_the_file(copy, tmp_path):
    files = sorted(path for path in (copy / "7").rglob("*") if path.is_file() and path.name != "manifest.json")
    assert len(files) > 8
    for path in files:
        original, name = path.read_bytes(), path.name
        damaged = (
            [(b"", "bytes, not the"), (original + b"x", "bytes, not the")] if original else [(b"x", "bytes, not the")]
        )
        if original:
            middle = len(original) // 2
            flipped = bytes([original[middle] ^ 1])
            damaged.append((original[:middle] + flipped + original[middle + 1 :], "SHA-256"))
            damaged.append((original[:middle], "bytes, not the"))
        for content, message in damaged:
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=f"{name} is damaged.*{message}"):
                Checkpoints(copy, 0, "aaa").restore(7, abstract(make_state()))
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            Checkpoints(copy, 0, "aaa").restore_params(7, abstract(make_state()["params"]))
        path.write_bytes(original)
    Checkpoints(copy, 0, "aaa").restore(7, abstract(make_state()))


def test_every_flipped_bit_of_the_manifest_is_noticed(copy):
    path, checkpoints, wanted = copy / "7" / "manifest.json", Checkpoints(copy, 0, "aaa"), abstract(make_state())
    original = path.read_bytes()
    positions = np.random.default_rng(0).choice(8 * len(original), 200, replace=False)
    for position in positions:
        content = bytearray(original)
        content[position // 8] ^= 1 << (position % 8)
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoints.restore(7, wanted)


def test_another_tokenizer_is_refused(one_step):
    for read in (Checkpoints(one_step, 0, "bbb").restore, Checkpoints(one_step, 0, "bbb").restore_params):
        with pytest.raises(CheckpointError, match=r"tokenizer aaa.*bbb"):
            read(7, abstract(make_state()))


def test_a_state_that_does_not_fit_is_named_with_both_shapes(one_step):
    checkpoints, state = Checkpoints(one_step, 0, "aaa"), make_state()
    with pytest.raises(
        CheckpointError, match=r"params/embeddings/word: .*\[40, 8\] float32, expected \[50, 8\] float32"
    ):
        checkpoints.restore(7, abstract(make_state(rows=50)))
    state["params"]["embeddings"]["word"] = state["params"]["embeddings"]["word"].astype(jnp.bfloat16)
    with pytest.raises(CheckpointError, match=r"params/embeddings/word: .*float32, expected \[40, 8\] bfloat16"):
        checkpoints.restore(7, abstract(state))
    state = make_state()
    state["params"]["pooler"] = state["params"].pop("mlm_head")
    with pytest.raises(
        CheckpointError, match=r"(?s)params/pooler/bias: not in.*params/mlm_head/bias: in the checkpoint"
    ):
        checkpoints.restore(7, abstract(state))
    with pytest.raises(ValueError, match="has no sharding"):
        checkpoints.restore(7, abstract(make_state(), sharding=None))


def test_parameters_alone(one_step):
    checkpoints, params = Checkpoints(one_step, 0, "aaa"), make_state(7)["params"]
    assert_same(checkpoints.restore_params(None, abstract(params)), params)
    head = params.pop("mlm_head")
    with pytest.raises(CheckpointError, match="params/mlm_head/bias: in the checkpoint, but not expected"):
        checkpoints.restore_params(None, abstract(params))
    assert_same(checkpoints.restore_params(None, abstract(params), partial=True), params)
    with pytest.raises(CheckpointError, match="params/new/bias: not in the checkpoint"):
        checkpoints.restore_params(None, abstract({"new": head}), partial=True)


def test_what_cannot_be_saved_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0, "aaa")
    for state in ({"params": {"w": 1.0}}, {"params": {"w": np.ones(3)}}, {"params": {"w": jax.random.key(0)}}):
        with pytest.raises(TypeError, match="params/w is"):
            checkpoints.save(1, state, {}, {})
    with pytest.raises(ValueError, match=r"stream '\.\./x'"):
        checkpoints.save(1, make_state(), {"../x": 1}, {})
    assert list(tmp_path.iterdir()) == []


def test_save_and_restore_under_the_transfer_guard_of_the_loop(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, 0, "aaa"), make_state(1)
    with jax.transfer_guard("disallow"):
        checkpoints.save(1, state, STREAMS, META)
        restored, _, _ = checkpoints.restore(1, abstract(state))
    assert_same(restored, state)


def run(script, *arguments, **environment):
    prelude = "import sys, warnings\nwarnings.simplefilter('error')\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_restoring_onto_another_mesh(one_step, tmp_path):
    script = """
        import jax, numpy as np, jax.numpy as jnp, optax
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        sys.path.insert(0, sys.argv[3])
        from test_checkpoint import Checkpoints, assert_same, make_state
        state = make_state(7)
        def place(tree, mesh, axis):
            spec = lambda leaf: P(axis) if leaf.ndim else P()
            return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf)), tree)
        def wanted(shardings):
            described = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            return jax.tree.map(described, state, shardings)
        auto = lambda shape, names: jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
        eight, four = auto((8,), ("fsdp",)), auto((2, 2), ("data", "fsdp"))
        a, b = place(state, eight, "fsdp"), place(state, four, "fsdp")
        first, _, _ = Checkpoints(sys.argv[1], 0, "aaa").restore(7, wanted(a))
        assert len(first["params"]["embeddings"]["word"].addressable_shards) == 8
        assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, first, a))
        assert_same(first, state)
        other = Checkpoints(sys.argv[2], 0, "aaa")
        other.save(8, first, {}, {})
        second, _, _ = other.restore(8, wanted(b))
        assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, second, b))
        assert_same(second, state)
        print("done")
    """
    flags = "--xla_force_host_platform_device_count=8"
    here = pathlib.Path(__file__).parent
    result = run(script, one_step, tmp_path, here, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert result.stdout.endswith("done\n"), result.stderr


FULL_DISK = """
    import resource, time
    sys.path.insert(0, sys.argv[1])
    from test_checkpoint import *
    directory = pathlib.Path(sys.argv[2])
    big = {"params": {"w": jax.random.normal(jax.random.key(0), (4_000_000,))}}
    checkpoints = saved(directory, 1, keep=1)
    if sys.argv[3] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    begun = time.monotonic()
    try:
        checkpoints.save(2, big, STREAMS, META)
        checkpoints.wait()
    except CheckpointError as error:
        message = str(error)
    else:
        sys.exit("no error")
    print(json.dumps({"message": message, "seconds": time.monotonic() - begun, "left": sorted(os.listdir(directory))}))
    assert_same(checkpoints.restore(None, abstract(make_state()))[0], make_state(1))
    if sys.argv[3] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    checkpoints.save(2, make_state(2), STREAMS, META)  # room again, or a smaller state: goes on with the same object
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    print("done")
"""


def check_full_disk(directory, how, cause):
    result = run(FULL_DISK, pathlib.Path(__file__).parent, directory, how, JAX_PLATFORMS="cpu")
    assert result.stdout.endswith("done\n"), result.stdout + result.stderr
    outcome = json.loads(result.stdout.splitlines()[0])
    assert f"saving step 2 to {directory}/2 failed, earlier checkpoints are intact" in outcome["message"]
    assert cause in outcome["message"]
    assert outcome["left"] == ["1"]
    assert outcome["seconds"] < 20


def test_a_file_that_may_not_grow(tmp_path):
    check_full_disk(tmp_path, "limit", "File too large")


def test_a_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        check_full_disk(tmp_path, "mount", "No space left on device")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_failure_in_the_background_surfaces_at_the_next_save(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ernie_m_jax.checkpoint.checkpoints.write_manifest", fail)
    checkpoints.save(2, make_state(2), STREAMS, META)
    with pytest.raises(CheckpointError, match=r"saving step 2 .*Input/output error"):
        checkpoints.save(3, make_state(3), STREAMS, META)
    monkeypatch.undo()
    checkpoints.wait()  # said once
    checkpoints.save(3, make_state(3), STREAMS, META)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3]
