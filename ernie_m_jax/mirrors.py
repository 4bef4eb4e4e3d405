"""A folder of this machine that stands for a folder behind a URL: a work directory, a model, an export.

    URL --pull--> local folder: what is small; of a checkpoint's step, its manifest and facts --fetch--> its arrays
    local folder --push--> URL, in the order below

Everything that writes (Orbax, TensorBoard, SentencePiece) works on local files. A store knows no renaming, no appending
and no transaction over several objects, so the order of the objects decides what counts, and the manifest is the last:

1. files outside the steps, those that changed, whole: `metrics.jsonl` has every line before the steps that follow
2. each step that is complete here and not there: what an upload that was killed left is removed; all files but the
   manifest; the listing, which must have every file in its size and no other; the manifest
3. `selected.json`, which names a step
4. what was removed here: of a step the manifest first, so that what is left of it never counts

A kill at any moment leaves a store that is read as one where the last step that is whole is the newest. The store is
the truth: a mirror is made anew at every start, in `$XDG_CACHE_HOME/ernie_m_jax/mirrors`, and removed at the end; what
a killed process left there is removed by the next.
"""

import contextlib
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ernie_m_jax import atomic, stores
from ernie_m_jax.stores import StoreError

MANIFEST = "manifest.json"
SELECTED = "selected.json"
# Put one after the other when all else is there: a run looks for the vocabulary to know whether it has a tokenizer, for
# the config to know whose that is; a manifest says that the folder is complete.
_LAST = ("config.json", "vocab.txt", MANIFEST)
_FACTS = "meta.json"
_STEP = re.compile(r"((?:.*/)?checkpoints/[^/]+)/(.+)")  # a step's folder and a file in it
_BESIDE = (".json", ".txt", ".model")  # what may say something of a model's one file that it lies beside
_live: list["Mirror"] = []


class Mirror:
    """A local folder and the URL that it stands for.

    Attributes:
      url: without a slash at its end.
      root: the local folder.
    """

    def __init__(self, url: str, root: Path, only: str = ""):
        """Knows the store's files, and has none yet.

        Args:
          url: of the folder.
          root: is there and empty.
          only: a regular expression of the files that are mirrored; empty: all.
        """
        self.url, self.root = url.rstrip("/"), root
        self._files, self._base = stores.opened(self.url)
        self._base = self._base.rstrip("/")
        self._only = re.compile(only)
        self._lock = threading.Lock()  # a save's thread pushes, and so does the end of the run
        self._same: dict[str, tuple[int, int]] = {}  # files that are the same here and there -> size and time here
        self._steps: set[str] = set()  # folders of steps there
        self._complete: set[str] = set()  # those of them with a manifest
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
                    self._complete.add(step[1])
                if step[2] not in (MANIFEST, _FACTS):
                    continue
            elif "tensorboard" in name.split("/")[:-1]:  # only ever added to, and never read
                continue
            wanted.append(name)
        self._get(wanted)

    def fetch(self, folder: Path) -> None:
        """Downloads what is not here yet of a folder, such as a step."""
        inside = folder.relative_to(self.root).as_posix()
        if inside in self._steps:
            self._get([name for name in self._listing(inside) if not (self.root / name).exists()])

    def push(self) -> None:
        """Makes the store like the folder; the order is the module's docstring.

        Raises:
          StoreError, FileNotFoundError: the store refuses; the steps that are complete there still are.
        """
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
                if step is not None and step[2] == MANIFEST and step[1] not in self._complete:
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
        self._complete.add(folder)

    def _remove_step(self, folder: str) -> None:
        names = list(self._listing(folder))
        self._remove(sorted(names, key=lambda name: name != f"{folder}/{MANIFEST}"))
        self._steps.discard(folder)
        self._complete.discard(folder)

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
        return {name: size for name, size in names.items() if name.startswith(inside) and self._only.match(name)}

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

    def probe(self) -> None:
        """Writes an object and removes it: a store that cannot be written to is said before there is work to lose."""
        place = self._place(f".{uuid.uuid4().hex}.tmp")
        with stores.told(self.url):
            self._files.pipe_file(place, b"")
            self._files.rm_file(place)


def of(path: Any) -> Mirror | None:
    """The mirror that a local path lies in, if it lies in one."""
    return next((mirror for mirror in _live if Path(path).is_relative_to(mirror.root)), None)


def fetch(folder: Any) -> None:
    """Has a mirror's folder hold everything that the store has of it; any other folder holds it already."""
    if (mirror := of(folder)) is not None:
        mirror.fetch(Path(folder))


def push(path: Any) -> None:
    """Makes the store like the mirror that a path lies in, if it lies in one."""
    if (mirror := of(path)) is not None:
        mirror.push()


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
        if writing:
            mirror.probe()
        mirror.pull()
        _live.append(mirror)
        try:
            yield place
            if writing:
                mirror.wait()
                mirror.push()
        except BaseException as error:
            error.args = tuple(named(part) if isinstance(part, str) else part for part in error.args)
            if writing:
                mirror.wait()  # a save under way ends, as it would on a disk
                try:
                    mirror.push()
                except OSError as second:
                    error.add_note(f"what was written last is not in {mirror.url} either: {second}")
            raise
        finally:
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


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where it is gone by now."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns
