"""A damaged checkpoint: which step is used instead, what is said, and what becomes of the damaged one."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest

from ernie_m_jax.checkpoint import manifest, saved_steps
from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints
from tests.test_checkpoint import STREAMS, abstract, assert_same, make_state, saved


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A directory with steps 3, 5 and 7; tests copy it before they damage it."""
    directory = tmp_path_factory.mktemp("steps")
    saved(directory, 3, 5, 7)
    return directory


@pytest.fixture
def copy(three_steps, tmp_path):
    return pathlib.Path(shutil.copytree(three_steps, tmp_path / "copy"))


def flip(path):
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def listing(directory):
    return sorted(path.name for path in directory.iterdir())


def test_reading_falls_back_to_the_newest_good_step_and_leaves_the_others(copy, capsys):
    flip(copy / "7" / "meta.json")
    (copy / "5" / "streams" / "0.json").unlink()
    checkpoints = Checkpoints(copy, 0, "aaa")
    state, streams, _ = checkpoints.restore(None, abstract(make_state()))
    assert_same(state, make_state(3))
    assert streams == STREAMS
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert "step 7 is damaged" in shown[0]
    assert f"{copy}/7/meta.json is damaged: its SHA-256" in shown[0]
    assert "step 5 is damaged" in shown[1]
    assert f"{copy}/5/streams/0.json is missing" in shown[1]
    assert_same(Checkpoints(copy, 0, "aaa").restore_params(None, abstract(make_state()["params"])), state["params"])
    assert listing(copy) == ["3", "5", "7"]
    with pytest.raises(CheckpointError, match=r"7/meta\.json is damaged"):
        checkpoints.restore(7, abstract(make_state()))  # asked for by number: nothing else will do


def test_training_keeps_damaged_steps_aside_for_good(copy, capsys):
    flip(copy / "7" / "meta.json")
    flip(copy / "5" / "manifest.json")
    shutil.copytree(copy / "5", copy / "5.damaged")
    checkpoints = Checkpoints(copy, 1, "aaa")
    assert checkpoints.newest_good(set_aside=True) == 3
    assert listing(copy) == ["3", "5.damaged", "5.damaged-2", "7.damaged"]
    shown = capsys.readouterr().out
    assert f"kept as {copy}/7.damaged" in shown
    assert f"kept as {copy}/5.damaged-2" in shown
    assert checkpoints.steps() == [3]
    for step in (5, 7):
        checkpoints.save(step, make_state(step), STREAMS, {})
    checkpoints.wait()
    assert listing(copy) == ["5.damaged", "5.damaged-2", "7", "7.damaged"]
    assert_same(Checkpoints(copy, 0, "aaa").restore(None, abstract(make_state()))[0], make_state(7))


@pytest.mark.parametrize("set_aside", [False, True])
def test_without_a_good_step_every_damage_is_named_and_nothing_moves(set_aside, copy):
    for step in (3, 5):
        flip(copy / str(step) / "meta.json")
    (copy / "7" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no good checkpoint.*step 7: .*step 5: .*step 3: .*SHA-256"):
        Checkpoints(copy, 0, "aaa").newest_good(set_aside)
    assert listing(copy) == ["3", "5", "7"]


def test_no_checkpoint_at_all_is_no_damage(tmp_path):
    assert Checkpoints(tmp_path / "none", 0, "aaa").newest_good(set_aside=True) is None


def test_another_model_or_tokenizer_is_no_damage(copy):
    with pytest.raises(CheckpointError, match=r"7 does not fit this model"):
        Checkpoints(copy, 0, "aaa").restore(None, abstract(make_state(rows=50)))
    with pytest.raises(CheckpointError, match=r"7 was written with tokenizer aaa"):
        Checkpoints(copy, 0, "bbb").restore(None, abstract(make_state()))


def test_a_file_that_cannot_be_read_is_damage(copy, monkeypatch, capsys):
    def fail(path):
        if "/7/" in os.fspath(path):
            raise OSError(5, "Input/output error")
        return digest(path)

    digest = manifest._digest
    monkeypatch.setattr(manifest, "_digest", fail)
    assert Checkpoints(copy, 0, "aaa").newest_good() == 5
    assert "Input/output error" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["streams/core.123", "streams/0.txt", "notes", "state/d/extra"])
def test_a_file_that_the_manifest_does_not_list_is_damage(name, copy):
    path = copy / "7" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff\x00")
    with pytest.raises(CheckpointError, match=f"{path} is not in manifest.json"):
        Checkpoints(copy, 0, "aaa").restore(7, abstract(make_state()))
    assert Checkpoints(copy, 0, "aaa").newest_good() == 5


def test_a_stream_that_is_no_json_is_named(copy):
    (copy / "7" / "streams" / "0.json").write_bytes(b"\xff")
    (copy / "7" / "manifest.json").unlink()
    manifest.write_manifest(copy / "7")
    with pytest.raises(CheckpointError, match=r"streams/0\.json cannot be read"):
        Checkpoints(copy, 0, "aaa").restore(7, abstract(make_state()))


def test_a_step_without_its_manifest_is_named(copy, capsys):
    newest = saved_steps.complete(copy)[-1]
    (copy / str(newest) / "manifest.json").unlink()
    assert Checkpoints(copy, 0, "aaa").newest_good() == saved_steps.complete(copy)[-1] < newest
    assert f"step {newest} in {copy} does not count: it has no manifest.json" in capsys.readouterr().out


def test_everything_is_on_disk_before_the_manifest_counts(tmp_path, monkeypatch):
    events, sync, replace = [], os.fsync, os.replace

    def note(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def note_replace(source, target, **_):
        events.append(f"-> {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", note_replace)
    saved(tmp_path / "one" / "checkpoints", 4)
    step = tmp_path / "one" / "checkpoints" / "4"
    counts = events.index(f"-> {step}/manifest.json")
    before, after = set(events[:counts]), set(events[counts:])
    expected = {str(path) for path in step.rglob("*") if path.name != "manifest.json"}
    assert expected <= before
    assert any(path.startswith(f"{step}/.manifest.json.") for path in before)
    assert {str(step), str(step.parent), str(step.parent.parent), str(tmp_path)} <= before | after
    assert str(step) in after


TWO_PROCESSES = """
    import json, pathlib, sys, jax, numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from ernie_m_jax.checkpoint.checkpoints import Checkpoints, CheckpointError
    rank, address, directory = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, rank)
    from tests.test_saved_steps import flip, listing  # asks for the devices, so not before
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding, word = NamedSharding(mesh, P("fsdp")), np.arange(64, dtype=np.float32)
    def damage(step, share):  # one of the files that process `share` checks
        if rank == 0:
            names = sorted(json.loads((directory / step / "manifest.json").read_text())["files"])[share::2]
            flip(next(path for name in names if (path := directory / step / name).stat().st_size))
        multihost_utils.sync_global_devices(f"damaged {step}")
    saved = Checkpoints(directory, 0, "aaa")
    for step in (1, 2, 3):
        state = {"params": jax.make_array_from_callback(word.shape, sharding, lambda at: word[at] + step)}
        saved.save(step, state, {str(rank): step}, {})
    saved.wait()
    damage("3", 1)
    damage("2", 0)
    saved = Checkpoints(directory, 0, "aaa")
    assert saved.newest_good(set_aside=True) == 1
    assert listing(directory) == ["1", "2.damaged", "3.damaged"]
    wanted = {"params": jax.ShapeDtypeStruct(word.shape, word.dtype, sharding=sharding)}
    restored, streams, _ = saved.restore(None, wanted)
    assert streams == {"0": 1, "1": 1}
    for shard in restored["params"].addressable_shards:
        np.testing.assert_array_equal(shard.data, word[shard.index] + 1)
    damage("1", 1)
    try:
        saved.newest_good(set_aside=True)
    except CheckpointError as error:
        assert "no good checkpoint: step 1" in str(error)
    else:
        sys.exit("no error")
    multihost_utils.sync_global_devices("looked")
    assert listing(directory) == ["1", "2.damaged", "3.damaged"]
    print("done")
"""


def test_all_processes_fall_back_to_the_same_step(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES), str(rank), address, str(tmp_path)],
            cwd=pathlib.Path(__file__).parents[1],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, errors in results:
        assert out.endswith("done\n"), errors[-3000:]
