"""A folder behind a URL as a local one: a work directory, a model, an export.

Everything that writes (Orbax, TensorBoard, SentencePiece) works on local files. `mirrored` gives a folder that stands
for the URL, and `mirror.py` brings what changed there. The store is the truth: the folder is made anew at every
start, in `$XDG_CACHE_HOME/ernie_m_jax/mirrors`, and removed at the end; what a killed process left there is removed
by the next.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ernie_m_jax import atomic, stores
from ernie_m_jax.mirror import Mirror

_BESIDE = (".json", ".txt", ".model")  # what may say something of a model's one file that it lies beside
_live: list[Mirror] = []
NOTE = "what was written last is not in"  # how a note to an error begins


def of(path: Any) -> Mirror | None:
    """The mirror that a local path lies in, if it lies in one."""
    return next((mirror for mirror in _live if Path(path).is_relative_to(mirror.root)), None)


def fetch(folder: Any) -> None:
    """Has a step's folder in a mirror hold what the store has of it; any other folder holds everything already."""
    if (mirror := of(folder)) is not None:
        mirror.fetch(Path(folder))


def push(path: Any) -> None:
    """Makes the store like the mirror that a path lies in, if it lies in one."""
    if (mirror := of(path)) is not None:
        mirror.push()


def follow(path: Any) -> None:
    """Leaves the store to another process, where a path lies in a mirror."""
    if (mirror := of(path)) is not None:
        mirror.follows = True


def wait_for_end(seconds: float) -> None:
    """Waits while mirrors are brought up to date for the last time, for so long."""
    for mirror in [mirror for mirror in _live if mirror.closing and not mirror.follows]:
        mirror.closed.wait(seconds)


def put(path: Path, now: bool = False) -> None:
    """Puts one file into the store, where a path lies in a mirror that another process brings up to date.

    With `now` also where this process does: it is about to end.
    """
    if (mirror := of(path)) is not None and (mirror.follows or now):
        stores.put(path, stores.join(mirror.url, path.relative_to(mirror.root).as_posix()))


def named(text: str) -> str:
    """A text for people: what stands for a URL is named by it."""
    for mirror in _live:
        text = text.replace(str(mirror.root), mirror.url)
    return text


@contextlib.contextmanager
def mirrored(path: Any, writing: bool = False) -> Iterator[Path]:
    """A local path that stands for `path` inside the block, which is itself unless it is a URL.

    Args:
      path: local, or the URL of a folder (a run, a stage of one, a model) or of a model's one file.
      writing: what the block changed is in the store when it ends, also when it raises.

    Raises:
      StoreError, FileNotFoundError: the store refuses.
    """
    if not stores.is_url(path):
        yield Path(path)
        return
    with _folder() as root:
        mirror, place = _opened(os.fspath(path).rstrip("/"), root)
        mirror.writing = writing
        if writing:
            stores.probe(mirror.url)  # said before there is work to lose
        mirror.pull()
        _live.append(mirror)
        try:
            yield place
            mirror.closing = writing
            if writing:
                mirror.wait()
                mirror.push()
        except BaseException as error:
            mirror.closing = writing
            error.args = tuple(named(part) if isinstance(part, str) else part for part in error.args)
            if writing:
                mirror.wait()  # a save under way ends, as it would on a disk
                try:
                    mirror.push()
                except OSError as second:
                    error.add_note(f"{NOTE} {mirror.url} either: {second}")
            raise
        finally:
            mirror.closed.set()
            _live.remove(mirror)


def _opened(url: str, root: Path) -> tuple[Mirror, Path]:
    """The mirror of a URL and the path in it that stands for the URL."""
    files, base = stores.opened(url)
    above, _, name = url.rpartition("/")
    with stores.told(url):
        if files.isfile(base):
            beside = "|".join(map(re.escape, _BESIDE))
            return Mirror(above, root, f"{re.escape(name)}$|[^/]+({beside})$"), root / name
        is_stage = bool(files.find(f"{base}/checkpoints", maxdepth=2)) and not files.isfile(f"{base}/config.json")
    if is_stage:  # its run's config and tokenizer lie above it
        (root / name).mkdir()
        return Mirror(above, root, f"{re.escape(name)}/|tokenizer/|config\\.json$"), root / name
    return Mirror(url, root), root


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new empty folder, removed at the end; those of processes that were killed are removed now."""
    home = stores.cache("mirrors")
    home.mkdir(parents=True, exist_ok=True)
    for lock in home.glob("*.lock"):
        with contextlib.suppress(BlockingIOError), atomic.alone(str(lock)) as held:
            if held:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    while True:
        root = home / uuid.uuid4().hex
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(atomic.alone(f"{root}.lock"))
            except BlockingIOError:  # taken for a killed process's just now
                continue
            root.mkdir()
            try:
                yield root
            finally:
                shutil.rmtree(root, ignore_errors=True)
            return
