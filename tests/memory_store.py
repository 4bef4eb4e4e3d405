"""A run's folder in fsspec's memory behind a URL: what is there, what it is told, and checkpoints in it."""

import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from tests.test_checkpoint import STREAMS, abstract, make_state


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
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
