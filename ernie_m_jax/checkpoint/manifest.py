"""The manifest of a checkpoint: size and SHA-256 of every file in its directory, written last, checked before use.

Orbax restores an array with a flipped bit silently, and a directory cut short looks like any other; the manifest
is what tells a checkpoint from them. It counts only once every file it lists would survive a loss of power.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import jax

from ernie_m_jax import atomic

MANIFEST = "manifest.json"
_CHUNK = 1 << 22  # bytes read at a time for a digest


class CheckpointError(Exception):
    """A checkpoint that could not be written, or that must not be used; the message names the path and the cause."""


def write_manifest(directory: Any) -> None:
    """Writes the size and digest of every file, once all are synced to disk; appears whole or not at all."""
    files = dict(zip(paths := list(_files(directory)), _digests(directory, paths), strict=True))
    _sync(*(directory / name for name in paths), *_directories(directory))
    atomic.write(directory / MANIFEST, dump_json({"files": files, "sha256": _seal(files)}).encode())
    # The directories above, down from the run's, may be as new as this step.
    _sync(directory, *list(directory.parents)[:3])


def verify(directory: Any) -> None:
    """Compares the files with the manifest; with several processes, each checks its share.

    Raises:
      CheckpointError: the first file that is missing, altered, not listed or not to be read.
    """
    path = directory / MANIFEST
    manifest = load_json(path)
    if (
        not isinstance(manifest, dict)
        or set(manifest) != {"files", "sha256"}
        or not _is_listing(manifest["files"])
        or _seal(manifest["files"]) != manifest["sha256"]
    ):
        raise CheckpointError(f"{path} is damaged: its content does not have the digest it names")
    names = sorted(manifest["files"])[jax.process_index() :: jax.process_count()]
    try:
        there = set(_files(directory))
        for name in sorted(there):
            if name != MANIFEST and name not in manifest["files"]:
                raise CheckpointError(
                    f"{directory / name} is not in {MANIFEST}: it was not written with the checkpoint"
                )
        for name in names:
            file, size = directory / name, manifest["files"][name]["size"]
            if name not in there:
                raise CheckpointError(f"{file} is missing")
            if (actual := file.stat().length) != size:
                raise CheckpointError(f"{file} is damaged: it has {actual} bytes, not the {size} written")
        for name, entry in zip(names, _digests(directory, names), strict=True):
            if entry != manifest["files"][name]:
                raise CheckpointError(f"{directory / name} is damaged: its SHA-256 is not that of what was written")
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {type(error).__name__}: {error}") from error


def _is_listing(files: Any) -> bool:
    """Whether a value has the size and the digest of each file."""
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and set(entry) == {"size", "sha256"}
        and type(entry["size"]) is int
        and isinstance(entry["sha256"], str)
        for entry in files.values()
    )


def _files(directory: Any, prefix: str = "") -> Iterator[str]:
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name


def _directories(directory: Any) -> Iterator[Any]:
    yield directory
    for path in directory.iterdir():
        if path.is_dir():
            yield from _directories(path)


def _sync(*paths: Any) -> None:
    """Has the system write files and directories to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digests(directory: Any, names: list[str]) -> list[dict[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda name: _digest(directory / name), names))


def _digest(path: Any) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _seal(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def dump_json(value: Any) -> str:
    """JSON with sorted keys; a value that is not finite is a ValueError."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def load_json(path: Any) -> Any:
    """The content of a JSON file, or CheckpointError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
