"""A task's raw data in, a prepared folder out: what `prepare.py` does for a task.

Everything is opened before anything is written, so that a row which cannot be used, or a download that is missing, is
said at once.
"""

import functools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from ernie_m_jax import stores
from ernie_m_jax import task as tasks
from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import array_records, preparation_checks, prepared, published, records
from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.task import RawRecords, Task

PARALLEL = ("tatoeba",)  # tasks on pairs of texts, which need no reader of their own
# LASER's names, and those of XTREME's script.
_PAIR_FILES = re.compile(r"(?P<start>tatoeba\.|)(?P<pair>[^.]+-[^.]+)\.(?P<side>[^.]+)")
TATOEBA = (
    "Tatoeba's pairs are the files tatoeba.PAIR.LANGUAGE in data/tatoeba/v1 of "
    "https://github.com/facebookresearch/LASER, or PAIR.LANGUAGE, made by scripts/download_data.sh of "
    "https://github.com/google-research/xtreme; put them into "
)

_say = functools.partial(print, flush=True)  # a line of what is done


def labelled(
    name: str,
    source: str,
    output: str,
    languages: Sequence[str] = (),
    splits: Sequence[str] = (),
    labels: Sequence[str] = (),
    bad_rows: str = "error",
) -> None:
    """Prepares the data of a labelled task, `SPLIT-LANGUAGE.array_record`.

    Args:
      name: of the task, as in a config.
      source: any path that the task's keys train, dev and test may have.
      output: the folder.
      languages: those that must be there; empty: those of the task's languages that are.
      splits: those that must be there, exactly one where the source is a file; empty: those that are.
      labels: empty: the task's own.
      bad_rows: "error", or "skip" to leave out and count rows that cannot be used.

    Raises:
      DataError: the task reads no labelled data; what is missing or cannot be used.
    """
    task = _task(name)
    languages = languages or tuple(filter(None, preparation_checks.ways(source)))  # what is named must be there
    if not languages and not task.languages:
        raise DataError(f"{name}: the task does not say its languages; name them by --languages")
    if labels and not task.labels:
        raise DataError(f"--labels: {', '.join(labels)} given, but {name} has no labels")
    preparation_checks.once("--labels", labels)
    preparation_checks.once("--languages", languages)
    preparation_checks.folders(source, output, languages or task.languages)
    preparation_checks.splits(name, source, splits, languages or task.languages)
    labels = tuple(labels) or task.labels
    opened: dict[str, Mapping[str, RawRecords]] = {}
    left_out: dict[tuple[str, ...], MissingData] = {}  # split, or split and language -> why
    for split in splits or published.SPLITS:
        try:
            opened[split], absent = _open(task, source, split, languages, labels, bad_rows)
            left_out |= {(split, language): why for language, why in absent.items()}
        except MissingData as error:
            if splits:
                raise
            left_out[(split,)] = error
    if not opened:
        raise next(iter(left_out.values()))
    if not (splits and tasks.is_outside(name)):
        preparation_checks.distinct(opened)
    for line in absences(left_out):
        _say(line)
    with prepared.writing(output) as writer:
        counts = _write(writer, opened)
        writer.finish(name, labels, source)
    for line in table(counts):
        _say(line)
    entry = "NAME" if tasks.is_outside(name) else name
    _say(
        f"for the config: {' '.join(shlex.quote(f'--config.objectives.{entry}.{split}={output}') for split in opened)}"
    )


def parallel(name: str, source: str, output: str, languages: Sequence[str] = (), pairs: Sequence[str] = ()) -> None:
    """Prepares pairs of texts, `PAIR.array_record`, for `config.data.parallel` and retrieval: `OUTPUT/{pair}...`.

    Args:
      name: of the task.
      source: any parallel source, or a folder of files `tatoeba.PAIR.LANGUAGE` or `PAIR.LANGUAGE`.
      output: the folder.
      languages: codes; empty: those of the pairs.
      pairs: "de-en"; empty: all that a folder has, otherwise all of the languages.

    Raises:
      DataError: what is missing or cannot be read.
    """
    preparation_checks.folders(source, output, languages)
    if not ("{" in source or ":" in source or os.path.isfile(source)):
        source, there = _folder(source)
        pairs = pairs or [pair for pair, sides in there.items() if not languages or set(sides) <= set(languages)]
        if not pairs:
            raise DataError(f"{source}: no pair of these languages; pairs there: {', '.join(there)}")
        languages = languages or [side for pair in pairs for side in there.get(pair, ())]
    languages = tuple(dict.fromkeys(languages or [side for pair in pairs for side in pair.split("-")]))
    if not languages:
        raise DataError(f"{source}: name --pairs, such as de-en,fr-en, or --languages")
    try:
        config = SourceConfig(source, "auto", (), tuple(pairs), (), "train")
        opened = records.open_source("--source", config, tuple(languages), "parallel")
    except DataError as error:
        raise DataError(f"{error}. {TATOEBA}{os.path.dirname(source) or '.'}") from error
    with prepared.writing(output) as writer:
        for pair, sequence in opened.items():
            _written(writer, f"{pair}{array_records.SUFFIX}", array_records.text_lines(sequence), {}, "")
        writer.finish(name, (), source)
    path = stores.join(output, f"{{pair}}{array_records.SUFFIX}")
    train, search = (
        shlex.quote(f"--config.{key}={path}") for key in ("data.parallel.NAME.path", "evals.NAME.source.path")
    )
    _say(f"for the config: {train} or, to search in, {search}")


def array_record(source: SourceConfig, languages: tuple[str, ...], kind: records.Kind, output: str) -> dict[str, int]:
    """Writes one ArrayRecord file per language or pair: a JSON object per record, with the language as key.

    Args:
      source: anything `records.open_source` reads.
      languages: codes to read.
      kind: `monolingual` or `parallel`.
      output: path with `{language}` (monolingual) or `{pair}` (parallel).

    Returns:
      Number of records by language or pair.
    """
    key = "{language}" if kind == "monolingual" else "{pair}"
    if key not in output:
        raise DataError(f"--output {output!r} must contain {key}: one file each")
    counts = {}
    for name, sequence in records.open_source("input", source, languages, kind).items():
        path = output.replace(key, name)
        if not stores.is_url(path):
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        counts[name] = array_records.write(path, array_records.text_lines(sequence))
    return counts


def absences(left_out: Mapping[tuple[str, ...], MissingData]) -> Iterator[str]:
    """Why a split, or a split's language, is left out; then where to get what is missing, each advice once."""
    advice: dict[str, list[str]] = {}
    for (split, *language), why in left_out.items():
        yield f"{': '.join([split, 'left out', *language])}: {why.reason}"
        if why.advice:
            advice.setdefault(why.advice, []).extend(language or [split])
    for how, names in advice.items():
        yield f"to have {', '.join(dict.fromkeys(names))}: {how}"


def table(counts: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Number of records by split and language, a line per language and a column per split."""
    splits, languages = (list(dict.fromkeys(key[place] for key in counts)) for place in (0, 1))
    rows = [["language", *splits]]
    for language in languages:
        found = [counts.get((split, language)) for split in splits]
        rows.append([language, *("-" if count is None else f"{count:,}" for count in found)])
    rows.append(["all", *(f"{sum(n for (split, _), n in counts.items() if split == one):,}" for one in splits)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def _task(name: str) -> Task:
    try:
        task = tasks.load(name)
    except (KeyError, ImportError) as error:
        raise DataError(error.args[0]) from error
    if task.read is None:
        known = [other for other in tasks.names() if tasks.load(other).read is not None]
        raise DataError(f"{name}: the task reads no labelled data; these do: {', '.join([*known, *PARALLEL])}")
    return task


def _open(
    task: Task,
    source: str,
    split: str,
    languages: Sequence[str],
    labels: Sequence[str],
    bad_rows: str,
) -> tuple[Mapping[str, RawRecords], Mapping[str, MissingData]]:
    """A split in the languages that were asked for, or else in those that it has, and why it lacks the others.

    Raises:
      MissingData: it has none of them, or some of those that were asked for.
    """
    assert task.read is not None
    wanted = list(languages or task.languages)
    absent: dict[str, MissingData] = {}
    while wanted:
        try:
            opened = task.read(source, split, wanted, labels, bad_rows, "")
        except MissingData as error:
            if error.language not in wanted:
                raise
            absent[error.language] = error
            wanted.remove(error.language)
        else:
            if absent and languages:
                raise DataError(str(next(iter(absent.values()))))
            return opened, absent
    raise next(iter(absent.values()))


def _write(writer: prepared.Writer, opened: Mapping[str, Mapping[str, RawRecords]]) -> dict[tuple[str, str], int]:
    """Writes a file for each split and language; returns how many records each has."""
    counts = {}
    for split, by_language in opened.items():
        for language, sequence in by_language.items():
            file, lines = f"{split}-{language}{array_records.SUFFIX}", array_records.record_lines(sequence)
            counts[split, language] = _written(writer, file, lines, sequence.skipped, getattr(sequence, "note", ""))
            for remark in published.remarks(sequence):
                _say(f"{split} {language}: {remark}")
    return counts


def _written(writer: prepared.Writer, name: str, lines: Iterator[bytes], skipped: Mapping[str, int], note: str) -> int:
    file = writer.add(name, lines, skipped, note)
    _say(f"{name}: {file.records:,} records, {file.bytes:,} bytes")
    return file.records


def _folder(path: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The template of a folder's files and its pairs, each with both languages.

    Raises:
      DataError: there is no such folder or no pair in it, with where to get them.
    """
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder. {TATOEBA}{path}")
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(os.listdir(path)):
        if match := _PAIR_FILES.fullmatch(name):
            found.setdefault(match["start"], {}).setdefault(match["pair"], []).append(match["side"])
    for start, by_pair in found.items():
        pairs: dict[str, tuple[str, str]] = {}
        for pair, sides in by_pair.items():
            ordered = [(a, b) for a in sides for b in sides if f"{a}-{b}" == pair]
            pairs |= {pair: ordered[0]} if ordered else {}
        if pairs:
            return os.path.join(path, f"{start}{{pair}}.{{language}}"), pairs
    raise DataError(f"{path}: no pair of files. {TATOEBA}{path}")
