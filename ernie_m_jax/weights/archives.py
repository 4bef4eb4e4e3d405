"""Packed folders of weights (.tar, .tar.gz, .tgz), unpacked for as long as they are read.

An archive is untrusted: it may be larger than it looks and may want to write elsewhere. It is read as a stream, once,
to its very end, so that a cut or a flipped bit of a compressed one is found.
"""

import contextlib
import gzip
import os
import pathlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ernie_m_jax.weights.tensors import ConversionError

MAX_BYTES = 20_000_000_000
MAX_MEMBERS = 10_000
MAX_RATIO = 100  # weights shrink by a tenth, a bomb by a thousand
_FREE = 64 << 20  # bytes from which the ratio counts
_BLOCK = 512  # bytes of tar's block; two of zeros end an archive


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str],
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    max_ratio: int = MAX_RATIO,
    directory: str | os.PathLike[str] | None = None,
) -> Iterator[pathlib.Path]:
    """Gives an archive's content as a folder, removed afterwards; any other path is given back as it is.

    Args:
      path: archive, by its content, or any other file or folder.
      max_bytes: unpacked, headers included.
      max_members: files and folders in it.
      max_ratio: unpacked by packed size, above 64 MB.
      directory: where to unpack; by default where the system keeps temporary files.

    Yields:
      The folder; where the archive has nothing but one folder, that one.

    Raises:
      ConversionError: damaged or cut short, too large, or a member that is no plain file or folder below it.
    """
    path = pathlib.Path(path)
    if not _is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ernie_m_jax_", dir=directory) as temporary:
        folder = pathlib.Path(temporary)
        try:
            with path.open("rb") as packed:
                _unpack(path, packed, folder, (max_bytes, max_members, max_ratio))
        except ConversionError:
            raise
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
            raise ConversionError(f"{path}: the archive is damaged or cannot be unpacked: {error}") from error
        inside = list(folder.iterdir())
        yield inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


class _Capped:
    """What an archive unpacks to, as a stream that raises where it becomes too long."""

    def __init__(self, path: pathlib.Path, file: BinaryIO, max_bytes: int, max_ratio: int):
        self.path, self.file = path, file
        self.limit = min(max_bytes, max(_FREE, path.stat().st_size * max_ratio))
        self.count, self.last = 0, b""

    def read(self, size: int) -> bytes:
        """As `file.read`."""
        data = self.file.read(size)
        self.count += len(data)
        if self.count > self.limit:
            raise ConversionError(f"{self.path}: unpacks to more than the {self.limit} bytes allowed for its size")
        self.last = (self.last + data)[-2 * _BLOCK :]
        return data


def _is_archive(path: pathlib.Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    return head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" or path.suffix == ".tar"


def _unpack(path: pathlib.Path, packed: BinaryIO, folder: pathlib.Path, limits: tuple[int, int, int]) -> None:
    max_bytes, max_members, max_ratio = limits
    compressed = packed.read(2) == b"\x1f\x8b"
    packed.seek(0)
    stream = _Capped(path, gzip.GzipFile(fileobj=packed) if compressed else packed, max_bytes, max_ratio)  # type: ignore[arg-type]
    seen: set[pathlib.PurePosixPath] = set()
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            place = _checked(path, member)
            if place in seen:
                raise ConversionError(f"{path}: {member.name[:200]!r} stands twice in the archive")
            seen.add(place)
            if len(seen) > max_members:
                raise ConversionError(f"{path}: more than the {max_members} members allowed")
            archive.extract(member, folder, filter="data")
        end = archive.offset  # of the last member
    while stream.read(1 << 20):  # a compressed stream is checked at its end
        pass
    if stream.last != bytes(2 * _BLOCK) or stream.count < end + 2 * _BLOCK:
        raise ConversionError(f"{path}: the archive is cut short: it has no end mark")


def _checked(path: pathlib.Path, member: tarfile.TarInfo) -> pathlib.PurePosixPath:
    """The member's place below the folder."""
    name = member.name
    where = f"{path}: the member {name[:200]!r}"
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise ConversionError(f"{where} is a link, a device or something else that is no plain file or folder")
    place = pathlib.PurePosixPath(name)
    if not name.isprintable() or "\\" in name or ":" in name or place.is_absolute() or ".." in place.parts:
        raise ConversionError(f"{where} would be written outside of the folder, or has a name that is no file name")
    return place
