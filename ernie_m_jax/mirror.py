"""One local folder and the URL that it stands for, and in which order the store gets what changed in it.

    URL --pull--> local folder: what is small; of a checkpoint's step, its manifest and facts --fetch--> its arrays
    local folder --push--> URL, in the order below

A store knows no renaming, no appending and no transaction over several objects, so the order of the objects decides
what counts, and the manifest is the last:

1. files outside the steps, those that changed, whole: `metrics.jsonl` has every line before the steps that follow
2. each step that is complete here and not there: what an upload that was killed left is removed; all files but the
   manifest; the listing, which must have every file in its size and no other; the manifest
3. `selected.json`, which names a step
4. what was removed here: of a step the manifest first, so that what is left of it never counts

A kill at any moment leaves a store that is read as one where the last step that is whole is the newest.
"""

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from ernie_m_jax import stores
from ernie_m_jax.stores import StoreError

MANIFEST = "manifest.json"
SELECTED = "selected.json"
# Put one after the other when all else is there: a run looks for the vocabulary to know whether it has a tokenizer, for
# the config to know whose that is; a manifest says that the folder is complete.
_LAST = ("config.json", "vocab.txt", MANIFEST)
_FACTS = "meta.json"
_STEP = re.compile(r"((?:.*/)?checkpoints/[^/]+)/(.+)")  # a step's folder and a file in it


class Mirror:
    """A local folder and the URL that it stands for.

    Attributes:
      url: without a slash at its end.
      root: the local folder.
      writing: whether the store is to become like the folder, or like another process's.
      follows: it is another process that brings it up to date, the first of a run's.
      closing, closed: it is being brought up to date for the last time, and has been.
    """

    def __init__(self, url: str, root: Path, only: str = ""):
        """Knows the store's files, and has none yet.

        Args:
          url: of the folder.
          root: is there and empty.
          only: a regular expression of the files that are mirrored; empty: all.
        """
        self.url, self.root = url.rstrip("/"), root
        self.writing = self.follows = False
        self.closing, self.closed = False, threading.Event()
        self._files, self._base = stores.opened(self.url)
        self._base = self._base.rstrip("/")
        self._only = re.compile(only)
        self._lock = threading.Lock()  # a save's thread pushes, and so does the end of the run
        self._same: dict[str, tuple[int, int]] = {}  # files that are the same here and there -> size and time here
        self._steps: set[str] = set()  # folders of steps there
        self._complete: dict[str, tuple[int, int] | None] = {}  # those of them with a manifest, and the stamp of ours
        self._writers: list[threading.Thread] = []

    def pull(self) -> None:
        """Downloads what is small, and makes the folder of every step."""
        wanted = []
        for name in self._listing():
            step = _STEP.fullmatch(name)
            if step is not None:
                (self.root / step[1]).mkdir(parents=True, exist_ok=True)
                self._steps.add(step[1])
                if step[2] == MANIFEST:
                    self._complete[step[1]] = None  # stamped below
                if step[2] not in (MANIFEST, _FACTS):
                    continue
            elif "tensorboard" in name.split("/")[:-1]:  # only ever added to, and never read
                continue
            wanted.append(name)
        self._get(wanted)
        for folder in self._complete:
            self._complete[folder] = _stamp(self.root / folder / MANIFEST)

    def renew(self) -> None:
        """Makes the folder anew: what another process has put into the store meanwhile is seen."""
        with self._lock:
            for path in self.root.iterdir():
                # Another thread may have replaced or removed its file meanwhile: the heartbeat's.
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self._same, self._steps, self._complete = {}, set(), {}
            self.pull()

    def fetch(self, folder: Path) -> None:
        """Downloads what is not here yet of a step that is complete there."""
        inside = folder.relative_to(self.root).as_posix()
        with self._lock:
            if inside in self._complete:
                self._get([name for name in self._listing(inside) if not (self.root / name).exists()])

    def push(self) -> None:
        """Makes the store like the folder; the order is the module's docstring.

        Raises:
          StoreError, FileNotFoundError: the store refuses; the steps that are complete there still are.
        """
        if self.follows:
            return
        with self._lock:
            found = {
                path.relative_to(self.root).as_posix(): _stamp(path)
                for path in sorted(self.root.rglob("*"))
                if path.is_file() and not _is_temporary(path)
            }
            changed = [name for name, stamp in found.items() if stamp is not None and self._same.get(name) != stamp]
            plain = [name for name in changed if not _STEP.fullmatch(name)]
            self._put([name for name in plain if os.path.basename(name) not in (*_LAST, SELECTED)])
            for word in _LAST:
                self._put([name for name in plain if os.path.basename(name) == word])
            for name in sorted(found, key=lambda name: (len(name), name)):  # step 8 before step 10
                step = _STEP.fullmatch(name)
                if step is None or step[2] != MANIFEST or self._complete.get(step[1]) == found[name]:
                    continue
                if step[1] in self._complete:  # set aside as damaged, and trained anew
                    self._remove_step(step[1])
                self._put_step(step[1], [other for other in found if other.startswith(f"{step[1]}/")])
            self._put([name for name in plain if os.path.basename(name) == SELECTED])
            self._remove([name for name in self._same if not _STEP.fullmatch(name) and name not in found])
            for folder in sorted(self._steps):
                if not (self.root / folder).exists():
                    self._remove_step(folder)

    def _put_step(self, folder: str, names: list[str]) -> None:
        manifest = f"{folder}/{MANIFEST}"
        files = [name for name in names if name != manifest]
        self._remove([name for name in self._listing(folder) if name not in files])
        self._steps.add(folder)
        self._put(files)
        there, here = self._listing(folder), {name: (self.root / name).stat().st_size for name in files}
        if there != here:
            wrong = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
            raise StoreError(f"{self.url}: after the upload these files are not there as they are here: {wrong}")
        self._put([manifest])
        self._complete[folder] = _stamp(self.root / manifest)

    def _remove_step(self, folder: str) -> None:
        names = list(self._listing(folder))
        self._remove(sorted(names, key=lambda name: name != f"{folder}/{MANIFEST}"))
        self._steps.discard(folder)
        self._complete.pop(folder, None)

    def _listing(self, folder: str = "") -> dict[str, int]:
        """The store's files below a folder, by their names below the URL, with their sizes."""
        start = f"{self._base}/"
        with stores.told(self.url):
            found = self._files.find(stores.join(self._base, folder) if folder else self._base, detail=True)
        # Consoles make an object of a folder, whose name ends in a slash; it holds nothing.
        files = {path: facts for path, facts in found.items() if path.startswith(start) and not path.endswith("/")}
        names = {path.removeprefix(start): facts["size"] for path, facts in files.items()}
        for name in names:
            if {"", ".", ".."} & set(name.split("/")):
                raise StoreError(f"{self.url}: the object {name!r} has no place in a folder")
        inside = f"{folder}/" if folder else ""
        return {
            name: size
            for name, size in names.items()
            if name.startswith(inside) and self._only.match(name) and not _is_temporary(name)  # others' probes
        }

    def _get(self, names: list[str]) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        with stores.told(self.url):
            if names:
                self._files.get([self._place(name) for name in names], [str(self.root / name) for name in names])
        for name in names:
            if (stamp := _stamp(self.root / name)) is not None:
                self._same[name] = stamp

    def _put(self, names: Iterable[str]) -> None:
        stamps = {name: stamp for name in names if (stamp := _stamp(self.root / name)) is not None}
        with stores.told(self.url):
            if stamps:
                self._files.put([str(self.root / name) for name in stamps], [self._place(name) for name in stamps])
        self._same |= stamps

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError), stores.told(self.url):
                self._files.rm_file(self._place(name))
            self._same.pop(name, None)

    def _place(self, name: str) -> str:
        return f"{self._base}/{name}"

    def keep_for(self, thread: threading.Thread) -> None:
        """Keeps the folder until a thread that writes to it, and pushes what it wrote, has ended."""
        self._writers = [*filter(threading.Thread.is_alive, self._writers), thread]

    def wait(self) -> None:
        """Blocks until those threads have ended."""
        for thread in self._writers:
            thread.join()


def _is_temporary(path: Path | str) -> bool:
    name = os.path.basename(path)
    return name.startswith(".") and name.endswith(".tmp")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where it is gone by now."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns
