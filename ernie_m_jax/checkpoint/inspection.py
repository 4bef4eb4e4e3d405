"""What checkpoints a work directory holds, and whether every byte of them is as it was written.

A run's work directory, a stage of one or a converted model comes in, local or behind a URL; lines for people go out.
Nothing is changed, and no array is read.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from ernie_m_jax import mirrors, stores
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.manifest import MANIFEST, CheckpointError, load_json
from ernie_m_jax.config import in_order

UNFINISHED = f"unfinished: it has no {MANIFEST}, and does not count"


@dataclasses.dataclass(frozen=True)
class Found:
    """One step's directory.

    Attributes:
      stage: whose; empty where the directory given is a stage or a model itself.
      name: of the directory: the step, or `<step>.damaged`.
      size: bytes that its manifest lists; None where it cannot be read.
      age: seconds since the manifest was written; None where nobody knows.
      mesh: devices per axis that it was written on; None where it does not say.
      marks: newest, selected, unfinished, set aside.
    """

    stage: str
    name: str
    size: int | None
    age: float | None
    mesh: Mapping[str, int] | None
    marks: tuple[str, ...]


def places(workdir: Path) -> list[tuple[str, Path]]:
    """Each stage's name with its directory of checkpoints, in the order they run.

    Raises:
      CheckpointError: there is none.
    """
    names = in_order(path.parent.name for path in workdir.glob("*/checkpoints"))
    found = [(name, workdir / name / "checkpoints") for name in names]
    if (workdir / "checkpoints").is_dir():
        found.insert(0, ("", workdir / "checkpoints"))
    if not found:
        raise CheckpointError(f"{workdir} holds no checkpoints: name a run's --workdir or one of its stages")
    return found


def listed(workdir: Path, now: Callable[[], float] = time.time) -> list[Found]:
    """Every step's directory in the order they were trained, those that do not count included."""
    return [one for stage, directory in places(workdir) for one in _of_stage(stage, directory, now())]


def _of_stage(stage: str, directory: Path, now: float) -> Iterator[Found]:
    steps = saved_steps.found(directory)
    newest = max((step for step, done in steps if done), default=None)
    try:
        selected = saved_steps.selected(directory)
    except CheckpointError:  # `verify` says why
        selected = None
        yield Found(stage, saved_steps.SELECTED, None, None, None, ("damaged",))
    for step, done in steps:
        folder = directory / str(step)
        if not done:
            yield Found(stage, str(step), None, None, None, ("unfinished",))
            continue
        meta = _mapping(_content(folder / "meta.json").get("meta"))
        marks = ["newest"] * (step == newest)
        if step == selected:
            value = _mapping(meta.get("selection")).get("value")
            value = float(value) if value in ("nan", "inf", "-inf") else value
            marks.append(f"selected ({value:.4f})" if isinstance(value, int | float) else "selected")
        mesh = _mapping(meta.get("mesh")) or None
        yield Found(stage, str(step), _size(folder), _age(folder / MANIFEST, now), mesh, tuple(marks))
    for folder in sorted(directory.glob("*.damaged*")):
        yield Found(stage, folder.name, _size(folder), _age(folder / MANIFEST, now), None, ("set aside",))


def _content(path: Path) -> Mapping[str, Any]:
    """What a small file says; what cannot be read says nothing here, and `verify` says why."""
    try:
        return _mapping(load_json(path))
    except CheckpointError:
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _size(folder: Path) -> int | None:
    try:
        return sum(entry["size"] for entry in _content(folder / MANIFEST)["files"].values())
    except (KeyError, TypeError, AttributeError):
        return None


def _age(path: Path, now: float) -> float | None:
    """Seconds since a file was written; of one in a mirror, the object in the store."""
    try:
        if mirrors.of(path) is None:
            return now - path.stat().st_mtime
        files, place = _stored(path)
        return now - files.modified(place).timestamp()
    except (OSError, NotImplementedError, KeyError, AttributeError):
        return None


def _stored(path: Path) -> tuple[Any, str]:
    """The store, and in it the place, of a file in a mirror."""
    mirror = mirrors.of(path)
    assert mirror is not None
    return stores.opened(stores.join(mirror.url, path.relative_to(mirror.root).as_posix()))


def _exists(path: Path) -> bool:
    """Whether a file is there now; of one in a mirror, the object in the store."""
    if mirrors.of(path) is None:
        return path.exists()
    files, place = _stored(path)
    return bool(files.exists(place))


def verified(workdir: Path) -> Iterator[tuple[str, str]]:
    """Reads every file of every step; yields a line for each step, and what is wrong with it, or "".

    Also each stage's choice of model selection is held against its steps. Of a URL one step at a time is on this
    machine. The run may be going on: a step that it deletes meanwhile, whose manifest goes first, is not damaged.

    Raises:
      OSError: a store cannot be read, which is no damage.
    """
    for stage, directory in places(workdir):
        start = f"{stage}/" if stage else ""
        good, steps = [], saved_steps.found(directory)
        for step, done in steps:
            if not done:
                yield f"{start}{step}: {UNFINISHED}", ""
                continue
            folder = directory / str(step)
            try:
                saved_steps.check(epath.Path(folder))
            except CheckpointError as error:
                if _exists(folder / MANIFEST):
                    yield f"{start}{step}: damaged: {error}", str(error)
                else:
                    yield f"{start}{step}: deleted meanwhile", ""
            else:
                good.append(step)
                files = _mapping(_content(folder / MANIFEST).get("files"))
                yield f"{start}{step}: good, {len(files)} files, {size_text(_size(folder))}", ""
            if mirrors.of(folder) is not None:
                shutil.rmtree(folder, ignore_errors=True)
        yield from _selection(start, directory, good, [step for step, _ in steps])


def _selection(start: str, directory: Path, good: list[int], seen: list[int]) -> Iterator[tuple[str, str]]:
    try:
        step = saved_steps.selected(directory)
    except CheckpointError as error:
        yield f"{start}{saved_steps.SELECTED}: damaged: {error}", str(error)
        return
    is_new = step not in seen and step in saved_steps.complete(directory)  # saved meanwhile
    if step is not None and step not in good and not is_new:
        problem = f"{directory / saved_steps.SELECTED} names step {step}, which is not there or is damaged"
        yield f"{start}{saved_steps.SELECTED}: {problem}", problem


def size_text(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "-"
    for unit, text in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {text}"
    return f"{size} B"


def age_text(seconds: float | None) -> str:
    """A time for people, in the unit that it has at least two of."""
    if seconds is None:
        return "-"
    for unit, text in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {text}"
    return f"{max(seconds, 0):.0f} s"
