"""Checkpoints behind a URL: in which order a store gets their objects, and what counts after a kill."""

import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ernie_m_jax import atomic, mirrors, stores
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints
from tests import memory_store
from tests.memory_store import change, restored, save, there
from tests.test_checkpoint import STREAMS, abstract, assert_same, make_state

cache, url, events = memory_store.cache, memory_store.url, memory_store.events


def test_a_step_is_put_before_its_manifest_and_after_all_else(url, events):
    with mirrors.mirrored(url, writing=True) as root:
        atomic.write(root / "config.json", b"{}")
        atomic.write(root / "tokenizer" / "vocab.txt", b"[CLS]")
        atomic.write(root / "tokenizer" / "sentencepiece.bpe.model", b"model")
        atomic.write(root / "stage1" / "metrics.jsonl", b'{"step": 0}\n')
        save(root, 3, selected=True)
    put = [name for name in events if not name.startswith("-") and not name.endswith(".tmp")]
    step = [name for name in put if name.startswith("stage1/checkpoints/3/")]
    assert put[:2] == ["stage1/metrics.jsonl", "tokenizer/sentencepiece.bpe.model"]
    assert put[2:4] == ["config.json", "tokenizer/vocab.txt"]
    assert step == put[4:-1]
    assert step[-1] == "stage1/checkpoints/3/manifest.json"
    assert put[-1] == "stage1/checkpoints/selected.json"
    assert set(json.loads(there(url)[step[-1]])["files"]) == {name.partition("/3/")[2] for name in step[:-1]}
    number, state = restored(url)
    assert number == 3
    assert_same(state, make_state(3))


def test_of_a_step_removed_here_the_manifest_goes_first_and_after_the_new_step(url, events):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, keep=1)
        first = len(events)
        save(root, 5, keep=1)
        later = events[first:]
    gone = [name for name in later if name.startswith("-stage1/checkpoints/3/")]
    assert gone[0] == "-stage1/checkpoints/3/manifest.json"
    assert len(gone) > 3
    assert later.index("stage1/checkpoints/5/manifest.json") < later.index(gone[0])
    assert not [name for name in there(url) if "/3/" in name]


@pytest.mark.parametrize("objects", [0, 1, 2, 5, 8])
def test_a_kill_after_any_object_leaves_the_step_before(objects, url, monkeypatch):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3)
    put, left = MemoryFileSystem.put_file, [objects]

    def die(self, *arguments, **keys):
        if not left[0]:
            raise OSError("killed")
        left[0] -= 1
        put(self, *arguments, **keys)

    def killed():
        with mirrors.mirrored(url, writing=True) as root:
            monkeypatch.setattr(MemoryFileSystem, "put_file", die)
            save(root, 5)

    with pytest.raises(CheckpointError, match="step 5 is saved, but bringing"):
        killed()
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    assert [name for name in there(url) if "/5/" in name] or not objects
    number, state = restored(url)
    assert number == 3
    assert_same(state, make_state(3))
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 5)  # another upload, over what is left of the first
    number, state = restored(url)
    assert number == 5
    assert_same(state, make_state(5))


def test_what_a_killed_upload_left_is_no_part_of_the_step_that_replaces_it(url):
    with mirrors.mirrored(url, writing=True) as root:
        change(url, "stage1/checkpoints/3/state/d/left", b"of another try")
        save(root, 3)
    assert restored(url)[0] == 3
    assert "stage1/checkpoints/3/state/d/left" not in there(url)


def test_an_upload_that_did_not_arrive_gets_no_manifest(url, monkeypatch):
    put = MemoryFileSystem.put_file

    def lose(self, local, path, **keys):
        put(self, local, path, **keys)
        if path.endswith("meta.json"):
            self.pipe_file(path, b"{")

    with monkeypatch.context() as patch, mirrors.mirrored(url, writing=True) as root:
        patch.setattr(MemoryFileSystem, "put_file", lose)
        with pytest.raises(CheckpointError, match=r"not there as they are here.*3/meta\.json"):
            save(root, 3)
        assert "stage1/checkpoints/3/manifest.json" not in there(url)
        patch.undo()


def test_a_damaged_object_is_found_and_kept_aside_and_the_step_before_is_used(url, capsys):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, 5)
    change(url, "stage1/checkpoints/5/meta.json", there(url)["stage1/checkpoints/5/meta.json"].replace(b"5", b"6"))
    number, state = restored(url)
    assert number == 3
    assert_same(state, make_state(3))
    shown = capsys.readouterr().out
    assert f"step 5 is damaged and passed over: {url}/stage1/checkpoints/5/meta.json is damaged" in shown
    assert "5" in {name.split("/")[2] for name in there(url) if "checkpoints" in name}  # a reader renames nothing
    restored(url, set_aside=True)
    assert {name.split("/")[2] for name in there(url) if "checkpoints" in name} == {"3", "5.damaged"}
    assert f"kept as {url}/stage1/checkpoints/5.damaged" in capsys.readouterr().out


def test_a_step_that_was_damaged_and_is_trained_anew_replaces_it(url):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, 5)
    change(url, "stage1/checkpoints/5/meta.json", there(url)["stage1/checkpoints/5/meta.json"].replace(b"5", b"6"))
    with mirrors.mirrored(url, writing=True) as root:
        saved = Checkpoints(root / "stage1" / "checkpoints", 0, "aaa")
        assert saved.newest_good(set_aside=True) == 3
        saved.save(5, make_state(5), STREAMS, {})
        saved.wait()
    assert {name.split("/")[2] for name in there(url) if "checkpoints" in name} == {"3", "5", "5.damaged"}
    number, state = restored(url)
    assert number == 5
    assert_same(state, make_state(5))


@pytest.mark.parametrize("name", ["state/d/extra", "streams/core.1"])
def test_an_object_beside_those_of_a_manifest_is_damage(name, url):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, 5)
    change(url, f"stage1/checkpoints/5/{name}", b"x")
    assert restored(url)[0] == 3


def test_a_store_that_cannot_be_read_is_no_damage(url, monkeypatch):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, 5)
    before = there(url)
    get = MemoryFileSystem.get_file

    def fail(self, path, local, **keys):
        if "/5/state/" in path:
            raise OSError(5, "the line is down")
        get(self, path, local, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", fail)
        with pytest.raises(stores.StoreError, match="the line is down"):
            restored(url, set_aside=True)
    assert there(url) == before


def test_only_the_step_that_is_read_is_downloaded(url):
    with mirrors.mirrored(url, writing=True) as root:
        save(root, 3, 5, 7)
    with mirrors.mirrored(url) as root:
        steps = root / "stage1" / "checkpoints"
        assert saved_steps.complete(steps) == [3, 5, 7]
        assert not list(steps.rglob("state"))
        Checkpoints(steps, 0, "aaa").restore(5, abstract(make_state()))
        assert [path.parent.name for path in steps.rglob("state")] == ["5"]


def test_a_save_under_way_is_finished_before_an_error_ends_the_block(url):
    def failing():
        with mirrors.mirrored(url, writing=True) as root:
            checkpoints = Checkpoints(root / "stage1" / "checkpoints", 0, "aaa")
            checkpoints.save(3, make_state(3), STREAMS, {})
            raise ValueError("the next step failed")

    with pytest.raises(ValueError, match="the next step failed"):
        failing()
    assert restored(url)[0] == 3
