"""What is asked of a preparation, checked before anything is read or written; used by `preparation.py`."""

import os
import re
from collections.abc import Mapping, Sequence

from ernie_m_jax import stores
from ernie_m_jax import task as tasks
from ernie_m_jax.data import prepared, published
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import RandomAccess


def once(flag: str, names: Sequence[str]) -> None:
    """Raises `DataError` where a flag names something twice."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{flag}: {name!r} is named twice; name each {flag.removeprefix('--')[:-1]} once")


def splits(name: str, source: str, asked: Sequence[str], languages: Sequence[str]) -> None:
    """Checks the splits that are asked for.

    A file is one split, whichever it is asked for as. A reader from outside the package may find several in one, but
    has to be told which.

    Raises:
      DataError: an unknown split, or not exactly one of a file.
    """
    once("--splits", asked)
    for split in asked:
        if split not in published.SPLITS:
            raise DataError(f"--splits: {split!r} must be train, dev or test")
    if len(asked) == 1 or (asked and tasks.is_outside(name)):
        return
    for path in places(source, languages):
        if "://" in path or os.path.isfile(path):
            raise DataError(f"--splits: {path} is a file, which is one split; name it: --splits dev, for example")


def distinct(opened: Mapping[str, Mapping[str, RandomAccess]]) -> None:
    """Raises `DataError` where two splits of a language are one file, as far as the records tell theirs as `path`."""
    seen: dict[tuple[str, str], str] = {}
    for split, by_language in opened.items():
        for language, records in by_language.items():
            path = getattr(records, "path", "")
            if not path or path.startswith("tfds:"):
                continue
            first = seen.setdefault((language, os.path.realpath(path)), split)
            if first != split:
                raise DataError(
                    f"{first} and {split} in {language!r} are one file, {os.path.realpath(path)}: leave one of them "
                    "out by --splits"
                )


def folders(source: str, output: str, languages: Sequence[str]) -> None:
    """Checks the folder to write, and that the source is raw data elsewhere.

    Raises:
      DataError: the folder is a file or prepared already; the source is prepared, or would be taken for a part of what
        is prepared, and be removed with it.
    """
    above = output
    while above and not os.path.lexists(above):
        above = os.path.dirname(above)
    if above and not os.path.isdir(above):
        raise DataError(f"--output {output}: {above} is no folder; name another one")
    paths = [re.sub(r"^tfds:(?=/|.*://)", "", path) for path in places(source, languages)]
    for path in paths:
        if os.path.isfile(os.path.join(path, prepared.MANIFEST)):
            task = prepared.manifest(path).task
            raise DataError(
                f"--source {path}: is prepared already, for the task {task!r}; name it in the config, or give raw data"
            )
    # The folder of a template's files is the source's too.
    templates = [path.partition("{")[0] for path in ways(source).values() if "{" in path]
    beside = [os.path.dirname(path) or "." for path in (*templates, *filter(os.path.isfile, paths))]
    beside += filter(stores.is_url, paths)
    inside = [path for path in paths if os.path.isdir(path)]
    if any(_holds(output, path) for path in (*beside, *inside)):
        raise DataError(f"--output {output}: the source stands in this folder; name a new one")
    there = sorted(os.listdir(output)) if os.path.isdir(output) else []
    foreign = [name for name in there if not prepared.is_own(name)]
    if foreign and any(_holds(path, output) for path in inside):
        raise DataError(
            f"--output {output}: a folder of the source with files in it, such as {foreign[0]}; name a new one"
        )
    prepared.check_free(output)


def _holds(folder: str, path: str) -> bool:
    """Whether a path or URL is a folder or stands in it."""
    place, inside = map(_real, (folder, path))
    return os.path.commonpath([place, inside]) == place


def _real(path: str) -> str:
    """What all names of a file have in common; of a URL in another the outer one, where the bytes are."""
    path = path.rpartition("::")[2]
    for name, meant in (("file://", ""), ("local://", ""), ("s3a://", "s3://"), ("gcs://", "gs://")):
        path = meant + path.removeprefix(name) if path.startswith(name) else path
    return os.path.normpath(f"/{path}") if stores.is_url(path) else os.path.realpath(path)


def ways(source: str) -> dict[str, str]:
    """The source's paths by language, or by "" where there is one: `en=PATH,es=PATH`, as `data/tagged.py` takes it."""
    if os.path.exists(source) or not published.BY_LANGUAGE.match(source):
        return {"": source}
    return published.by_language(source)


def places(source: str, languages: Sequence[str]) -> list[str]:
    """The paths that a source means, with the languages filled in."""
    filled = [path.replace("{language}", code) for path in ways(source).values() for code in (*languages, "{language}")]
    return [path for path in dict.fromkeys(filled) if "{language}" not in path]
