"""A local folder that stands for a URL: which files the store gets and gives, and what is refused."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ernie_m_jax import atomic, mirrors, stores
from tests import memory_store
from tests.memory_store import change, there

cache, url, events = memory_store.cache, memory_store.url, memory_store.events


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
