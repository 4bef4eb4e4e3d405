"""A prepared folder: records written once as ArrayRecord files with a manifest, and read again by index.

    {split: {language: records}} --Writer--> DIR/SPLIT-LANGUAGE.array_record, DIR/manifest.json
                                 --open_split--> the same records

A file holds a JSON object per record. Each appears whole or not at all, the manifest last of all: a folder without one
is not finished. While it is written it has a lock file, which stays where a preparation is killed; one that fails
removes what it wrote. The same records make the same bytes. The manifest says which task the records are for, with
which labels, and of each file how many records and bytes it has, its SHA-256, and what was left out of it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ernie_m_jax import atomic, mirrors, stores
from ernie_m_jax.data import array_records, objects
from ernie_m_jax.data.array_records import SUFFIX, UNFINISHED
from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.task import Record

VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".preparing.lock"
DATA = re.compile(r"(train|dev|test|monolingual|parallel)-[^/]+\.array_record")
WORK = re.compile(r"\.work-[0-9a-f]{16}")  # a folder of what several processes have done; see `preparation_shards.py`
_FILES = (".gz", ".tsv", ".txt", ".jsonl", SUFFIX)  # URLs of files end so; for others the store is asked
_BLOCK = 1 << 20  # bytes hashed at a time


@dataclasses.dataclass(frozen=True)
class File:
    """What the manifest says of a file.

    Attributes:
      records: how many it holds.
      bytes: its size.
      sha256: of its bytes, in hex.
      skipped: how many rows of the raw file were left out, by reason; see `labelled.EACH` for those that count twice.
      note: what the raw file's reader said of it.
      tokens: how many ids it holds, where it holds ids.
    """

    records: int
    bytes: int
    sha256: str
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""
    tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds.

    Attributes:
      task: for which, by the name that a config gives it.
      labels: the names of the labels; none where the task has none.
      source: of the raw data, as it was given.
      files: by name.
      tokenizer: fingerprint of the tokenizer whose ids they hold; "" where they hold text.
    """

    task: str
    labels: tuple[str, ...]
    source: str
    files: Mapping[str, File]
    tokenizer: str = ""


class Writer:
    """Writes a prepared folder: `add` each file, then `finish`."""

    def __init__(self, directory: str, began: bool = False):
        """Makes the folder; what a preparation that was killed left unfinished there is removed.

        Args:
          directory: the folder.
          began: whether every ArrayRecord file there is known to be of such a one, not only those of splits.

        Raises:
          DataError: there is a finished one, or the folder cannot be made.
        """
        self.directory = Path(directory)
        self._files: dict[str, File] = {}
        check_free(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(directory):
                if is_left(name) or (began and name.endswith(SUFFIX)):
                    stores.remove(self.directory / name)
        except OSError as error:
            raise DataError(f"{directory}: cannot be written: {error.strerror}") from error

    def add(
        self, name: str, lines: Iterable[bytes], skipped: Mapping[str, int], note: str = "", compressed: bool = True
    ) -> File:
        """Writes a file of these lines; `skipped` and `note` as in `File`."""
        self._files[name] = dataclasses.replace(
            written(str(self.directory), name, lines, skipped, compressed), note=note
        )
        return self._files[name]

    def counted(self, name: str, tokens: int) -> File:
        """Notes how many ids a file that was added holds, which is known once it is written."""
        self._files[name] = dataclasses.replace(self._files[name], tokens=tokens)
        return self._files[name]

    def finish(self, task: str, labels: Sequence[str], source: str, tokenizer: str = "") -> Manifest:
        """Writes the manifest, with which the folder is complete; `tokenizer` as in `Manifest`."""
        manifest = Manifest(task, tuple(labels), source, self._files, tokenizer)
        complete(str(self.directory), manifest)
        self._files = {}  # nothing to remove any more
        return manifest

    def remove(self) -> None:
        """Removes the files that were added, unless the folder is complete."""
        for name in self._files:
            (self.directory / name).unlink(missing_ok=True)


def written(directory: str, name: str, lines: Iterable[bytes], skipped: Mapping[str, int], compressed: bool) -> File:
    """Writes one file of a folder, or of the URL of one, and returns what the manifest says of it; see `Writer.add`."""
    away = stores.is_url(directory)
    with tempfile.TemporaryDirectory() if away else contextlib.nullcontext(directory) as folder:
        path = Path(folder, name)
        count = array_records.write(str(path), lines, compressed)
        if away:
            stores.put(path, stores.join(directory, name))
        return File(count, path.stat().st_size, _digest(path), dict(skipped))


def complete(directory: str, manifest: Manifest) -> None:
    """Writes the manifest of a folder, or of the URL of one, all files of which are there."""
    text = json.dumps({"version": VERSION, **dataclasses.asdict(manifest)}, ensure_ascii=False, indent=1)
    atomic.write(stores.join(directory, MANIFEST), f"{text}\n".encode())


def is_left(name: str) -> bool:
    """Whether a preparation that does not finish leaves something of such a name."""
    return any(pattern.fullmatch(name) for pattern in (DATA, WORK, UNFINISHED))


@contextlib.contextmanager
def writing(directory: str) -> Iterator[Writer]:
    """A `Writer` that no other process writes beside; what it has added is removed where the block fails.

    Raises:
      DataError: there is a finished folder, it is being written, or it cannot be made.
    """
    check_free(directory)
    with mirrors.mirrored(directory, writing=True) as folder, alone(str(folder)) as began:
        writer = Writer(str(folder), began)
        try:
            yield writer
        except BaseException:
            writer.remove()
            raise


@contextlib.contextmanager
def alone(directory: str) -> Iterator[bool]:
    """Makes a local folder and holds its lock; yields whether a preparation was killed there. Raises as `writing`."""
    with contextlib.ExitStack() as stack:
        lock = os.path.join(directory, LOCK)
        try:
            os.makedirs(directory, exist_ok=True)
            began = os.path.exists(lock)
            stack.enter_context(atomic.alone(lock))
        except BlockingIOError:
            raise DataError(
                f"{directory}: another preparation is writing here; wait for it, or name another folder"
            ) from None
        except OSError as error:
            raise DataError(f"{directory}: cannot be written: {error.strerror}") from error
        yield began


def check_free(directory: str) -> None:
    """Raises `DataError` where a prepared folder is complete already: what trains on it must not find other data."""
    path = stores.join(directory, MANIFEST)
    if stores.exists(path) or os.path.lexists(path):
        raise DataError(f"{directory}: prepared already; remove the folder, or name another one")


def is_own(name: str) -> bool:
    """Whether a preparation writes files of such a name."""
    return name in (MANIFEST, LOCK) or name.endswith(SUFFIX) or UNFINISHED.fullmatch(name) is not None


class Records:
    """Random access to the records of a prepared file; see `RawRecords`.

    Attributes:
      skipped: how many rows of the raw file were left out, by reason.
      note: what the raw file's reader said of it.
    """

    def __init__(self, path: str, file: File):
        """Opens it.

        Raises:
          DataError: it is not the file that the manifest means, by its size or its number of records.
        """
        self.skipped, self.note = dict(file.skipped), file.note
        self._objects = checked(path, file)

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        return array_records.restored(self._objects[index], self._objects.place(index))


def is_prepared(path: str) -> bool:
    """Whether a path of a config is a prepared folder.

    Raises:
      DataError: it is one whose preparation did not finish.
    """
    if stores.is_url(path):
        return not path.endswith(_FILES) and stores.exists(stores.join(path, MANIFEST))
    if not os.path.isdir(path):
        return False
    if os.path.isfile(os.path.join(path, MANIFEST)):
        return True
    if any(name == LOCK or is_left(name) for name in os.listdir(path)):
        raise DataError(f"{path}: no {MANIFEST}: its preparation did not finish; run it again")
    return False


def manifest(path: str) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
      DataError: it is missing, damaged or of another version.
    """
    name = stores.join(path, MANIFEST)
    try:
        tree = json.loads(stores.read(name))
        version = tree.pop("version")
        if version == VERSION:
            files = {key: File(**one | {"skipped": dict(one["skipped"])}) for key, one in tree.pop("files").items()}
            array_records.check_plain(tree["task"], *tree["labels"], *files)
            array_records.check_whole(*(number for file in files.values() for number in (file.records, file.bytes)))
            return Manifest(**tree | {"labels": tuple(map(str, tree["labels"]))}, files=files)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; {path} is no prepared folder, or one that is not finished") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: cannot be read: {error!r}; prepare the data again") from error
    raise DataError(f"{name}: version {version!r}; this package reads version {VERSION}: prepare the data again")


def open_split(path: str, task: str, split: str, languages: Sequence[str], labels: Sequence[str]) -> dict[str, Records]:
    """Opens one split of a prepared folder.

    Args:
      path: of the folder.
      task: that the records are for, by the name that a config gives it.
      split: "train", "dev" or "test".
      languages: codes.
      labels: that the task expects, in any order.

    Returns:
      `Records` by language, in the order of `languages`; equal to those that were prepared.

    Raises:
      DataError: prepared for another task or other labels; a language is missing; a file is missing or another one.
    """
    found = manifest(path)
    if found.task != task:
        raise DataError(
            f"{path}: prepared for the task {found.task!r}, not for {task!r}; name a folder prepared for it"
        )
    if sorted(found.labels) != sorted(labels):
        raise DataError(
            f"{path}: prepared with the labels {', '.join(found.labels) or '(none)'}; config.model.labels has "
            f"{', '.join(labels) or '(none)'}. Prepare the data again with these, or correct the config"
        )
    names = {language: f"{split}-{language}{SUFFIX}" for language in languages}
    for language, name in names.items():
        if name not in found.files:
            there = ", ".join(other.removesuffix(SUFFIX) for other in found.files) or "nothing"
            raise MissingData(f"{path}: no {split} split in {language!r}; prepared are: {there}", language)
    return {language: Records(stores.join(path, name), found.files[name]) for language, name in names.items()}


def verify(path: str) -> Manifest:
    """Compares every byte of a prepared folder with its manifest.

    Raises:
      DataError: naming every file that differs, and every other one of a prepared folder's kind.
    """
    with mirrors.mirrored(path) as folder:
        return _verified(str(folder))


def _verified(path: str) -> Manifest:
    """See `verify`; the folder is a local one."""
    found = manifest(path)
    others = [name for name in sorted(os.listdir(path)) if is_own(name) and name not in (MANIFEST, *found.files)]
    wrong = [f"{name}: the manifest does not name it; remove it" for name in others]
    for name, file in found.files.items():
        try:
            _sized(os.path.join(path, name), file)
            if _digest(Path(path, name)) != file.sha256:
                raise DataError(f"{name}: its SHA-256 is not the manifest's")
            checked(os.path.join(path, name), file)
        except (DataError, OSError) as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(f"{path}: {len(wrong)} of {len(found.files) + len(others)} files differ: {'; '.join(wrong)}")
    return found


_WAY = "copy the folder again, or prepare the data again"


def _sized(path: str, file: File) -> None:
    """Raises `DataError` where a file has not the size that the manifest says."""
    if not stores.exists(path):
        raise DataError(f"{path}: no such file, but the manifest names it; {_WAY}")
    if (size := os.path.getsize(stores.local(path))) != file.bytes:
        raise DataError(f"{path}: {size} bytes, the manifest has {file.bytes}; {_WAY}")


def checked(path: str, file: File) -> objects.ArrayRecords:
    """A file, opened, that has the size and number of records that the manifest says, and if downloaded the digest."""
    _sized(path, file)
    if stores.is_url(path) and _digest(Path(stores.local(path))) != file.sha256:
        raise DataError(f"{path}: its SHA-256 is not the manifest's; {_WAY}")
    opened = objects.ArrayRecords(path)
    if len(opened) != file.records:
        raise DataError(f"{path}: {len(opened)} records, the manifest has {file.records}; {_WAY}")
    return opened


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
