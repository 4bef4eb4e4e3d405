"""Files of published data sets: a path, a split and a language in, the one file meant out."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.task import RawRecords

SPLITS = ("train", "dev", "test")
BY_LANGUAGE = re.compile(r"[A-Za-z][\w-]*=")  # begins a path by language: "en=PATH,es=PATH"


def check(split: str, languages: Sequence[str], bad_rows: str) -> None:
    """Checks what every reader of labelled data is called with.

    Raises:
      DataError: an unknown split or way with bad rows, or no language.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} must be train, dev or test")
    if bad_rows not in ("error", "skip"):
        raise DataError(f"bad_rows {bad_rows!r} must be error or skip")
    if not languages:
        raise DataError("no language is asked for")


def by_language(path: str) -> dict[str, str]:
    """The paths of `LANGUAGE=PATH,LANGUAGE=PATH`."""
    return {language: one for language, _, one in (item.partition("=") for item in path.split(","))}


def summary(skipped: Mapping[str, int]) -> str:
    """Rows left out as text: "empty sentence 2, no label 1"."""
    return ", ".join(f"{reason} {count}" for reason, count in skipped.items())


def remarks(records: RawRecords) -> Iterator[str]:
    """What is to be said of the raw records of a language: those left out, and what their reader notes of the file."""
    if records.skipped:
        yield f"left out: {summary(records.skipped)}"
    if note := getattr(records, "note", ""):
        yield note


def key(config_key: str, name: str) -> str:
    """What a message calls a key of a task's entry: its path in the config, or the flag of a command line."""
    return f"{config_key}.{name}" if config_key else f"--{name}"


def find(
    path: str,
    split: str,
    language: str,
    layouts: Mapping[str, Sequence[str]],
    english: Sequence[str],
    source: str = "",
) -> tuple[str, bool]:
    """The file that has a language's rows, and whether its name or kind says that language.

    Args:
      path: a file, perhaps with `{language}`; a directory; a URL or `tfds:NAME/CONFIG`.
      split: a key of `layouts`.
      language: the language's code.
      layouts: the files that a directory may have by split, with `{language}`; `.gz` may follow.
      english: those of them that are English without saying so.
      source: where the data can be had and where it belongs, for messages.

    Raises:
      MissingData: there is no such file.
      DataError: there are several.
    """
    filled = path.replace("{language}", language)
    if path.startswith("tfds:") or "://" in path or os.path.isfile(filled):
        return filled, filled != path
    if not os.path.isdir(filled):
        reason = f"{filled}: no such file or directory; put the data there or change the path"
        raise MissingData(reason, language, source)
    patterns = [pattern for pattern in layouts[split] if pattern not in english or language == "en"]
    found = {
        name: pattern
        for pattern in patterns
        for name in (pattern.replace("{language}", language) + suffix for suffix in ("", ".gz"))
        if os.path.isfile(os.path.join(filled, name))
    }
    if not found:
        names = ", ".join(pattern.replace("{language}", language) for pattern in patterns) or "nothing, it is English"
        reason = f"{filled}: no file of the {split} split in {language!r}; looked for: {names}"
        raise MissingData(reason, language, source)
    if len(found) > 1:
        raise DataError(f"{filled}: several files fit the {split} split in {language!r}: {', '.join(found)}; name one")
    ((name, pattern),) = found.items()
    return os.path.join(filled, name), "{language}" in pattern or pattern in english or filled != path
