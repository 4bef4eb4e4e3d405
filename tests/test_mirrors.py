"""A local folder that stands for a URL: in which order a store gets its objects, and what counts after a kill."""

import json
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ernie_m_jax import atomic, mirrors, stores
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints
from tests.test_checkpoint import STREAMS, abstract, assert_same, make_state


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def url():
    """A folder of its own in fsspec's memory."""
    name = f"memory://{uuid.uuid4().hex}/run"
    yield name
    files, path = fsspec.core.url_to_fs(name)
    if files.exists(path):
        files.rm(path, recursive=True)


def there(url):
    """The objects below a URL, by name."""
    files, path = fsspec.core.url_to_fs(url)
    return {name.removeprefix(f"{path}/"): files.cat_file(name) for name in files.find(path)}


def change(url, name, content=None):
    """Replaces an object, or removes it."""
    files, path = fsspec.core.url_to_fs(url)
    files.rm_file(f"{path}/{name}") if content is None else files.pipe_file(f"{path}/{name}", content)


@pytest.fixture
def events(monkeypatch):
    """What the store is told, in order: names put, `-name` for those removed."""
    told = []
    put, remove = MemoryFileSystem.put_file, MemoryFileSystem._rm

    def note_put(self, local, path, **keys):
        put(self, local, path, **keys)
        told.append(path.partition("/run/")[2])

    def note_remove(self, path):
        told.append(f"-{path.partition('/run/')[2]}")
        remove(self, path)

    monkeypatch.setattr(MemoryFileSystem, "put_file", note_put)
    monkeypatch.setattr(MemoryFileSystem, "_rm", note_remove)
    return told


def save(root, *steps, keep=0, **keys):
    """Checkpoints of a stage, as a run writes them."""
    checkpoints = Checkpoints(root / "stage1" / "checkpoints", keep, "aaa")
    for step in steps:
        checkpoints.save(step, make_state(step), STREAMS, {}, **keys)
    checkpoints.wait()


def restored(url, set_aside=False):
    """The newest good step that a new start finds, its state and the folder's listing."""
    with mirrors.mirrored(url, writing=set_aside) as root:
        checkpoints = Checkpoints(root / "stage1" / "checkpoints", 0, "aaa")
        step = checkpoints.newest_good(set_aside)
        state, streams, _ = checkpoints.restore(step, abstract(make_state()))
        assert streams == STREAMS
    return step, state


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


def test_files_are_put_when_they_change_and_removed_with_those_here(url, events):
    with mirrors.mirrored(url, writing=True) as root:
        for name in ("a", "b"):
            atomic.write(root / "sub" / name, name.encode())
        mirrors.push(root / "sub")
        del events[:]
        atomic.write(root / "sub" / "b", b"other")
        (root / "sub" / "a").unlink()
        mirrors.push(root)
        assert events == ["sub/b", "-sub/a"]
        mirrors.push(root)
        assert events == ["sub/b", "-sub/a"]
    assert there(url) == {"sub/b": b"other"}


def test_what_was_written_before_an_error_is_in_the_store_and_the_error_names_the_url(url):
    with pytest.raises(ValueError, match=f"^{url}/config.json is wrong$"), mirrors.mirrored(url, writing=True) as root:  # noqa: PT012
        atomic.write(root / "metrics.jsonl", b"{}\n")
        raise ValueError(f"{root}/config.json is wrong")
    assert there(url) == {"metrics.jsonl": b"{}\n"}


def test_a_save_under_way_is_finished_before_an_error_ends_the_block(url):
    def failing():
        with mirrors.mirrored(url, writing=True) as root:
            checkpoints = Checkpoints(root / "stage1" / "checkpoints", 0, "aaa")
            checkpoints.save(3, make_state(3), STREAMS, {})
            raise ValueError("the next step failed")

    with pytest.raises(ValueError, match="the next step failed"):
        failing()
    assert restored(url)[0] == 3


def test_an_object_that_stands_for_a_folder_is_none(url, monkeypatch):
    change(url, "sub/file", b"x")
    find = MemoryFileSystem.find

    def with_markers(self, path, *arguments, **keys):
        found = find(self, path, *arguments, **keys)
        return found | {f"{path}/": {"size": 0}, f"{path}/sub/": {"size": 0}} if keys.get("detail") else found

    monkeypatch.setattr(MemoryFileSystem, "find", with_markers)
    with mirrors.mirrored(url) as root:
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["file"]


def test_a_reader_changes_nothing(url):
    change(url, "config.json", b"{}")
    with mirrors.mirrored(url) as root:
        atomic.write(root / "config.json", b"other")
    assert there(url) == {"config.json": b"{}"}


def test_the_local_folder_goes_with_the_block_and_a_killed_ones_with_the_next(url, tmp_path):
    home = tmp_path / "cache" / "ernie_m_jax" / "mirrors"
    (home / "dead").mkdir(parents=True)
    (home / "dead.lock").touch()
    with mirrors.mirrored(url) as one, mirrors.mirrored(url) as two:
        assert one != two
        assert {path.name for path in home.iterdir() if path.is_dir()} == {one.name, two.name}
    assert list(home.iterdir()) == []


def test_an_object_that_would_leave_the_folder_is_refused(url, monkeypatch):
    change(url, "config.json", b"{}")
    find = MemoryFileSystem.find

    def with_trap(self, path, *arguments, **keys):
        found = find(self, path, *arguments, **keys)
        return found | {f"{path}/../outside": {"size": 1}} if keys.get("detail") else found

    monkeypatch.setattr(MemoryFileSystem, "find", with_trap)
    with pytest.raises(stores.StoreError, match="has no place in a folder"), mirrors.mirrored(url):
        pass


def test_a_stage_brings_its_runs_config_and_tokenizer(url):
    for name in ("config.json", "tokenizer/vocab.txt", "stage1/checkpoints/3/manifest.json", "stage2/summary.json"):
        change(url, name, b"{}")
    with mirrors.mirrored(f"{url}/stage1") as place:
        assert place.name == "stage1"
        found = {str(path.relative_to(place.parent)) for path in place.parent.rglob("*") if path.is_file()}
    assert found == {"config.json", "tokenizer/vocab.txt", "stage1/checkpoints/3/manifest.json"}


def test_a_local_path_is_itself(tmp_path):
    with mirrors.mirrored(tmp_path, writing=True) as place:
        assert place == tmp_path
        assert mirrors.of(place) is None
    assert mirrors.named(str(tmp_path)) == str(tmp_path)


def test_a_follower_leaves_the_store_to_another_process_and_sees_what_it_puts(url):
    with mirrors.mirrored(url, writing=True) as first, mirrors.mirrored(url, writing=True) as root:
        mirrors.follow(root)
        (root / "mine.txt").write_text("mine")
        mirrors.push(root)
        (first / "theirs.txt").write_text("theirs")
        mirrors.push(first)
        mirrors.of(root).renew()
        assert [path.name for path in root.iterdir()] == ["theirs.txt"]
    with mirrors.mirrored(url) as after:
        assert [path.name for path in after.iterdir()] == ["theirs.txt"]


def test_anothers_probe_is_no_file_of_the_run(url):
    stores.write(f"{url}/.0123456789abcdef0123456789abcdef.tmp", b"")
    stores.write(f"{url}/metrics.jsonl", b"{}")
    with mirrors.mirrored(url, writing=True) as root:
        assert [path.name for path in root.iterdir()] == ["metrics.jsonl"]


def test_a_folder_is_made_anew_while_a_thread_removes_its_file(url, monkeypatch):
    with mirrors.mirrored(url, writing=True) as root:
        atomic.write(root / "config.json", b"{}")
        mirrors.push(root)
        (root / "1.heartbeat.json").write_text("{}")
        is_dir = Path.is_dir

        def removed_meanwhile(path, **keys):
            if path.name == "1.heartbeat.json":
                path.unlink()
            return is_dir(path, **keys)

        monkeypatch.setattr(Path, "is_dir", removed_meanwhile)
        mirrors.of(root).renew()
        monkeypatch.undo()
        assert [path.name for path in root.iterdir()] == ["config.json"]
