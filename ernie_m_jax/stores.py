"""Files behind URLs: `s3://`, `gs://`, `memory://` and whatever else fsspec opens. `mirrors.py` has whole folders.

One object is put whole or not at all, so a single file needs no renaming. What must be a file of this machine to be
read (memory maps, ArrayRecord) is downloaded once into a cache:

    $XDG_CACHE_HOME/ernie_m_jax/files/<SHA-256 of URL and version>/<name>

The version is what the store says of the object: its entity tag, checksum or time. Where it says nothing, the copy is
this process's own. The cache may be removed at any time when nothing runs.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

# What tells one version of an object from another, whatever the store calls it.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
_EXTRA = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # URL scheme -> our extra that brings its library


class StoreError(OSError):
    """A store that does not do what it is asked; the message has the URL and the cause, in one line."""


def is_url(path: Any) -> bool:
    """Whether a path is a URL, `s3://...` or `zip://...::s3://...`, and so not on a disk of this machine.

    What only has one in it, as `tfds:gs://...` and `en=s3://...,de=s3://...` do, is none.
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)", os.fspath(path)) is not None


def join(url: Any, *names: str) -> str:
    """The URL of something in a folder; of a local folder, its path."""
    if not is_url(url):
        return os.path.join(url, *names)
    return "/".join([os.fspath(url).rstrip("/"), *names])


def cache(name: str) -> Path:
    """A folder for what is kept between runs and may be removed when nothing runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ernie_m_jax" / name


def opened(url: Any) -> tuple[Any, str]:
    """The file system of a URL, which keeps no listings, and the path in it.

    Raises:
      StoreError: nothing knows the scheme, or the library that does is not installed.
    """
    scheme = os.fspath(url).partition("://")[0]
    more = {"auto_mkdir": True} if scheme in ("file", "local") else {}  # as elsewhere, where folders are but names
    try:
        return fsspec.core.url_to_fs(os.fspath(url), use_listings_cache=False, **more)
    except ImportError as error:
        package = f'pip install "ernie_m_jax[{_EXTRA[scheme]}]"; ' if scheme in _EXTRA else ""
        raise StoreError(f"{url}: {scheme}:// needs a library that is not installed: {package}{_line(error)}") from None
    except ValueError as error:
        raise StoreError(f"{url}: {_line(error)}; {scheme}:// is no scheme that fsspec knows") from None


@contextlib.contextmanager
def told(url: Any) -> Iterator[None]:
    """Whatever a store raises in the block becomes one line.

    Raises:
      FileNotFoundError: the object, or the bucket, is not there.
      StoreError: anything else.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: no such file or bucket: {_line(error)}") from error
    except Exception as error:  # each library has exceptions of its own
        advice = ""
        if "credentials" in f"{type(error).__name__} {error}".lower():
            advice = "; say who you are as the store's own tools are told (AWS_ACCESS_KEY_ID, AWS_PROFILE, gcloud auth)"
        raise StoreError(f"{url}: {type(error).__name__}: {_line(error)}{advice}") from error


def exists(url: Any) -> bool:
    """Whether there is a file at a URL or local path."""
    if not is_url(url):
        return os.path.isfile(url)
    files, path = opened(url)
    with told(url):
        return bool(files.isfile(path))


def read(url: Any, start: int = 0, end: int | None = None) -> bytes:
    """The content of a file at a URL or local path, or its bytes from `start` to `end`, exclusive, and no more."""
    if not is_url(url):
        with open(url, "rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)
    if start == end:  # a range that stores refuse
        return b""
    files, path = opened(url)
    with told(url):
        return files.cat_file(path, start=start, end=end) if start or end is not None else files.cat_file(path)


def facts(url: Any) -> str:
    """What tells this version of a file at a URL or local path from another: its size, and its tag or time."""
    if not is_url(url):
        found = os.stat(url)
        return f"{found.st_size} {found.st_mtime_ns}"
    files, path = opened(url)
    with told(url):
        found = files.info(path)
    return f"{found.get('size')} {_version(found)}"


def probe(url: Any) -> None:
    """Writes an object into the folder of a URL and removes it: a store that cannot be written to says so here."""
    files, folder = opened(url)
    place = f"{folder.rstrip('/')}/.{uuid.uuid4().hex}.tmp"
    with told(url):
        files.pipe_file(place, b"")
        files.rm_file(place)


@contextlib.contextmanager
def reading(url: Any) -> Iterator[BinaryIO]:
    """The file at a URL or local path, open to be read anywhere; some MB more of it are downloaded than are read."""
    if not is_url(url):
        with open(url, "rb") as file:
            yield file
        return
    files, path = opened(url)
    with told(url):
        file = files.open(path, "rb")
    with file:  # what the block raises is not the store's
        yield file


def names(folder: Any) -> list[str]:
    """What stands in a folder, sorted; nothing where there is none."""
    if not is_url(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files, path = opened(folder)
    with told(folder):
        found = files.ls(path, detail=False) if files.isdir(path) else []
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found})


def sizes(folder: Any) -> dict[str, int | None]:
    """The size in bytes, as far as the store tells it, of each file in a folder, by name."""
    if not is_url(folder):
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    files, path = opened(folder)
    with told(folder):
        found = files.ls(path, detail=True) if files.isdir(path) else []
    return {entry["name"].rpartition("/")[2]: entry.get("size") for entry in found if entry.get("type") == "file"}


def remove(url: Any) -> None:
    """Removes a file, or a folder with all in it."""
    if not is_url(url):
        shutil.rmtree(url) if os.path.isdir(url) else os.unlink(url)
        return
    files, path = opened(url)
    with told(url):
        files.rm(path, recursive=True)


def write(url: Any, content: bytes) -> None:
    """Puts one object, which appears whole or not at all."""
    files, path = opened(url)
    with told(url):
        files.pipe_file(path, content)


def put(local: Any, url: Any) -> None:
    """Puts a local file's content as one object, which appears whole or not at all."""
    files, path = opened(url)
    with told(url):
        files.put_file(os.fspath(local), path)


def local(path: Any) -> str:
    """A file of this machine with the content behind a URL, downloaded if need be; a local path as it is.

    Raises:
      FileNotFoundError: there is none.
      StoreError: it cannot be read, or what came is not of its size.
    """
    if not is_url(path):
        return os.fspath(path)
    files, inside = opened(path)
    with told(path):
        facts = files.info(inside)
    version = _version(facts)
    key = hashlib.sha256(f"{os.fspath(path)}\n{version}\n{facts.get('size')}".encode()).hexdigest()
    folder = (cache("files") if version else _own()) / key
    target = folder / (inside.rstrip("/").rpartition("/")[2] or "file")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with told(path):
                files.get_file(inside, str(temporary))
            if facts.get("size") not in (None, size := temporary.stat().st_size):
                raise StoreError(f"{path}: {size} bytes were read, but it has {facts['size']}")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return str(target)


def _version(facts: Mapping[str, Any]) -> str:
    """What a store says of the version of an object; "" where it says nothing."""
    return next((str(facts[name]) for name in _VERSIONS if facts.get(name)), "")


@functools.cache
def _own() -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="ernie_m_jax-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"
