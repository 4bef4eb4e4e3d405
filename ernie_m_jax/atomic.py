"""Files that appear whole or not at all, and lock files.

On a disk a file is written beside its place, synced, then moved there; behind a URL it is put as one object.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from etils import epath

from ernie_m_jax import stores


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file to write that replaces `path` when the block ends, or leaves it as it was when the block raises.

    Args:
      path: local, in a directory that exists, or any URL that fsspec writes to.
    """
    if stores.is_url(path):
        with tempfile.NamedTemporaryFile() as local:
            yield cast(BinaryIO, local)
            local.flush()
            stores.put(local.name, path)
        return
    target = epath.Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Any, content: bytes) -> None:
    """Writes one file; its directory is made if need be."""
    if not stores.is_url(path):
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_all(directory: Any, contents: Mapping[str, bytes]) -> None:
    """Writes several files; what can fail comes before any of them is replaced. The directory is made if need be.

    Behind a URL they are put one after the other, in the order they are given in.
    """
    if stores.is_url(directory):
        for name, content in contents.items():
            stores.write(stores.join(directory, name), content)
        return
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            file = stack.enter_context(replacing(folder / name))
            file.write(content)
            file.flush()


@contextlib.contextmanager
def alone(path: str) -> Iterator[bool]:
    """Holds a lock file, which is removed when the block ends; its folder must exist.

    Where a file system knows no locks, nothing is held. Yields whether the lock is.

    Raises:
      BlockingIOError: another process holds it, or this one already.
    """
    import fcntl  # not on every system that the package is imported on

    held = False
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise
        except OSError:
            pass
        # Where there are no locks, a file may have another number each time, too.
        if held and not (os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path))):
            raise BlockingIOError(f"{path}: another process has just removed it")
        try:
            yield held
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
