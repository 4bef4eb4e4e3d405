"""Files that appear whole or not at all: written beside their place, synced to disk, then moved there; lock files."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from etils import epath


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file to write that replaces `path` when the block ends, or leaves it as it was when the block raises.

    Args:
      path: local, or any URL that etils.epath writes to; its directory must exist.
    """
    target = epath.Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            if is_local(target):
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Any, content: bytes) -> None:
    """Writes one file; its directory is made if need be."""
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_all(directory: Any, contents: Mapping[str, bytes]) -> None:
    """Writes several files; what can fail comes before any of them is replaced. The directory is made if need be."""
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            file = stack.enter_context(replacing(folder / name))
            file.write(content)
            file.flush()


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Holds a lock file, which is removed when the block ends; its folder must exist.

    Where a file system knows no locks, nothing is held.

    Raises:
      BlockingIOError: another process holds it, or this one already.
    """
    import fcntl  # not on every system that the package is imported on

    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        if not os.path.exists(path) or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise BlockingIOError(f"{path}: another process has just removed it")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def is_local(path: Any) -> bool:
    """Whether a path is on a disk of this machine, or mounted, and so can be synced."""
    return "://" not in os.fspath(path)
