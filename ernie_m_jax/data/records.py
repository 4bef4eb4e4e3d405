"""Sources in, random access to `Record`s out: the first step of the data's way, before the tokenizer.

`open_source` reads one `SourceConfig`. What stands under `path`, by `format` (`auto`: by prefix and extension):

| format       | files | records |
| ------------ | ----- | ------- |
| text         | one file per language, `{language}` in the path | a line, monolingual only |
| tsv          | a column per language, named by the header row, or by `columns=("en", "de")` if there is none | a row |
| jsonl        | objects: `{"en": .., "de": ..}`, `{"translation": {..}}` or `{"text": .., "language": ..}` | a line |
| moses        | two aligned files, `{language}` and often `{pair}` in the path: `OPUS.{pair}.{language}` | two lines |
| array_record | JSON objects as in jsonl, one file or `{language}` / `{pair}` in the path | a record |
| tfds         | `tfds:NAME/CONFIG`, or `tfds:/DIRECTORY` of a prepared data set; `split` as in TFDS | an example |
| ids          | a folder of `python -m ernie_m_jax.data.prepare corpus` (`stored_ids.py`): no text | a line or pair |

`.gz` may follow text, tsv, jsonl and moses names. `corpus:NAME` is a corpus bundled with the package (`CORPORA`). Paths
are local or any URL that fsspec opens. For jsonl, array_record and tfds, `columns` maps names to keys:
`("text=sentence",)`, `("en=source", "de=target")`, `("translation=translations",)`; dots reach into nested keys.

Blank lines, and pairs with a blank side, are skipped. text, tsv, moses and jsonl are read through once at opening to
index and check them; array_record and tfds are not: a record with a blank text there is passed over when reached.
"""

import importlib.resources
import itertools
import os
from typing import Any, Literal

import numpy as np

from ernie_m_jax import stores
from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import objects, readers, stored_ids
from ernie_m_jax.data.readers import DataError as DataError
from ernie_m_jax.task import RandomAccess, Record

Kind = Literal["monolingual", "parallel"]
FORMATS = ("text", "tsv", "jsonl", "moses", "array_record", "tfds", "ids")
CORPORA = {
    "diagnostics/pairs": "diagnostics/pairs.tsv.gz",
    "diagnostics/mono": "diagnostics/mono.tsv.gz",
    "diagnostics/dev": "diagnostics/dev.tsv.gz",
    "diagnostics/test": "diagnostics/test.tsv.gz",
    "udhr": "udhr/udhr18.tsv.gz",
}
FIRST_RECORDS = 1000  # looked at when data that is too large to scan is opened
JOIN_SAMPLE = 1000  # records, evenly spread, whose mean length says how many are joined
_EXTENSIONS = {
    ".txt": "text",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".array_record": "array_record",
    ".arrayrecord": "array_record",
}


class NoRecords(DataError):
    """A file that can be read, without any record of what is asked for."""


class JoinedRecords:
    """Groups of consecutive records joined with a space, so that short lines become long examples.

    Every group has the same number of records, chosen from the mean length of some of them: nothing is read to build
    the groups, no record is lost or repeated, and any group is found in O(1).
    """

    def __init__(self, records: RandomAccess, target_characters: int):
        """Chooses the number of records per group.

        Args:
          records: monolingual.
          target_characters: about this many characters per group, at least 1.

        Raises:
          DataError: a target below 1.
        """
        if target_characters < 1:
            raise DataError(f"target_characters must be at least 1, got {target_characters}")
        step = -(-len(records) // JOIN_SAMPLE)
        sizes = [len(records[index].texts[0]) + 1 for index in range(0, len(records), step)]  # 1: the joining space
        self.records = records
        self.count = max(1, round(target_characters * len(sizes) / sum(sizes)))

    def __len__(self) -> int:
        return -(-len(self.records) // self.count)

    def __getitem__(self, index: int) -> Record:
        start = range(0, len(self.records), self.count)[index]
        members = [self.records[row] for row in range(start, min(start + self.count, len(self.records)))]
        # A blank text, which some formats only show when it is read, adds no space.
        text = " ".join(member.texts[0] for member in members if member.texts[0])
        return Record((text,), members[0].languages)


def open_source(
    name: str,
    source: SourceConfig,
    languages: tuple[str, ...],
    kind: Kind,
    takes_ids: bool = False,
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Opens one source of the config; texts are read when they are asked for.

    Args:
      name: of the source in the config, for messages.
      source: path, format, and which languages or pairs of it to read.
      languages: the configured languages; only these are read.
      kind: `monolingual` or `parallel`.
      takes_ids: whether the source may hold ids instead of texts.
      only: the one language (a tuple of one) or pair to open; empty: all.

    Returns:
      Sequences of `Record` by language ("en") or pair ("en-de", texts in that order), in the order of the config; of a
      language whose ids are stored, `stored_ids.StoredText`.

    Raises:
      DataError: naming file, line or key, where something is missing, malformed or not configured.
    """
    try:
        wanted = _languages(source, languages)
        groups = [only] if only else groups_of(source, languages, kind)
        format_ = format_of(source, kind)
        if format_ == "ids":
            if not takes_ids:
                raise DataError(f"{source.path}: holds ids, and text is needed here; name the text they were made of")
            return dict(stored_ids.open_folder(source.path, groups))
        if format_ == "text":
            if "{language}" not in source.path and len(groups) > 1:
                raise DataError(f"{source.path}: text is one file per language; put {{language}} into the path")
            return {language: _text(source.path, language) for (language,) in groups}
        if format_ == "moses":
            return {"-".join(pair): _moses(source, pair) for pair in groups}
        read = _tsv if format_ == "tsv" else _objects
        if "{language}" not in source.path and "{pair}" not in source.path:
            return read(source, _resolve(source.path), format_, groups, wanted)
        opened: dict[str, RandomAccess] = {}
        for group in groups:
            path = _fill(source.path, group)
            opened |= read(source, path, format_, [group], wanted)
        return opened
    except DataError as error:
        raise (NoRecords if isinstance(error, NoRecords) else DataError)(f"source {name!r}: {error}") from error


def split_pair(pair: str, languages: tuple[str, ...]) -> tuple[str, str]:
    """Splits "en-de", also where the codes hold hyphens ("en-zh-cn").

    Raises:
      DataError: the pair does not name two different languages of the given ones.
    """
    parts = pair.split("-")
    found = [("-".join(parts[:cut]), "-".join(parts[cut:])) for cut in range(1, len(parts))]
    found = [(a, b) for a, b in found if a in languages and b in languages and a != b]
    if len(found) != 1:
        raise DataError(f"pairs: {pair!r} must be two different languages with a hyphen, of: {', '.join(languages)}")
    return found[0]


def _languages(source: SourceConfig, languages: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [language for language in source.languages if language not in languages]
    if unknown:
        raise DataError(f"languages: {', '.join(unknown)} not among the configured ones: {', '.join(languages)}")
    return source.languages or languages


def groups_of(source: SourceConfig, languages: tuple[str, ...], kind: Kind) -> list[tuple[str, ...]]:
    """Which languages, one code each, or pairs `open_source` takes of a source.

    Raises:
      DataError: they are not configured.
    """
    languages = _languages(source, languages)
    if kind == "monolingual":
        if source.pairs:
            raise DataError(f"pairs: {', '.join(source.pairs)} given for a monolingual source")
        return [(language,) for language in languages]
    if kind != "parallel":
        raise DataError(f"kind {kind!r} must be monolingual or parallel")
    if source.pairs:
        return [split_pair(pair, languages) for pair in source.pairs]
    if len(languages) < 2:
        raise DataError(f"a parallel source needs two languages, got: {', '.join(languages)}")
    return list(itertools.combinations(languages, 2))


def files_of(source: SourceConfig, format_: str, group: tuple[str, ...]) -> list[str]:
    """The files, two for moses, in which a source has a language or pair; none for tfds, which has a folder."""
    if format_ == "tfds":
        return []
    if format_ == "moses":
        template = _fill_pair(source.path, group)
        return [template.replace("{language}", language) for language in group]
    return [_fill(source.path, group) if "{" in source.path else _resolve(source.path)]


def format_of(source: SourceConfig, kind: Kind) -> str:
    """The format of a source, which "auto" leaves to its path.

    Raises:
      DataError: the path does not tell, or what is given does not fit together.
    """
    path = source.path
    if not path:
        raise DataError("path is empty")
    format_ = source.format
    if format_ == "auto":
        extension = os.path.splitext(path.removesuffix(".gz"))[1]
        if stored_ids.is_stored(path):
            format_ = "ids"
        elif path.startswith("tfds:"):
            format_ = "tfds"
        elif path.startswith("corpus:"):
            format_ = "tsv"
        elif extension in ("", ".txt") or extension not in _EXTENSIONS:
            moses = kind == "parallel" and "{language}" in path
            format_ = "moses" if moses else _EXTENSIONS.get(extension, "")
        else:
            format_ = _EXTENSIONS[extension]
        if not format_ and os.path.isdir(path):
            raise DataError(f"{path} is a folder; name its files, for instance {path.rstrip('/')}/{{language}}.txt")
        if not format_:
            raise DataError(f"{path}: the name does not tell the format; set format to one of: {', '.join(FORMATS)}")
    if format_ not in FORMATS:
        raise DataError(f"format {format_!r} must be auto or one of: {', '.join(FORMATS)}")
    if format_ == "text" and kind == "parallel":
        raise DataError(
            f"{path}: text holds one language; parallel data is moses, tsv, jsonl, array_record, tfds or ids"
        )
    if format_ == "moses" and kind == "monolingual":
        raise DataError(f"{path}: moses is parallel; read one side of it as text")
    if format_ == "moses" and "{language}" not in path:
        raise DataError(f"{path}: moses is two files, the path needs {{language}}")
    if format_ in ("text", "moses", "ids") and source.columns:
        raise DataError(f"columns: {', '.join(source.columns)} given, but {format_} has no columns")
    if kind == "monolingual" and "{pair}" in path:
        raise DataError(f"{path}: {{pair}} has no meaning in a monolingual source")
    return format_


def _resolve(path: str) -> str:
    if not path.startswith("corpus:"):
        return path
    name = path.removeprefix("corpus:")
    if name not in CORPORA:
        raise DataError(f"{path}: no such bundled corpus; there are: {', '.join(CORPORA)}")
    return str(importlib.resources.files("ernie_m_jax.data").joinpath("corpora", *CORPORA[name].split("/")))


def _fill(path: str, group: tuple[str, ...]) -> str:
    if len(group) == 1:
        return path.replace("{language}", group[0])
    if "{language}" in path:
        raise DataError(f"{path}: only moses has a file for each side of a pair; use {{pair}} or no template")
    return _fill_pair(path, group)


def _fill_pair(path: str, pair: tuple[str, ...]) -> str:
    """The pair's name in the path; OPUS sorts the codes, so a file named the other way round is the same pair."""
    given, turned = (path.replace("{pair}", "-".join(order)) for order in (pair, pair[::-1]))
    samples = [template.replace("{language}", pair[0]) for template in (given, turned)]
    found = [stores.exists(sample) for sample in samples]
    return turned if found == [False, True] else given


def _text(path: str, language: str) -> RandomAccess:
    filled = path.replace("{language}", language)
    texts = readers.lines(filled)
    texts = texts.take(texts.filled())
    if not len(texts):
        raise NoRecords(f"{filled}: no data in {language!r}, every line is blank")
    return readers.MonolingualTexts(texts, language)


def _moses(source: SourceConfig, pair: tuple[str, ...]) -> RandomAccess:
    paths = files_of(source, "moses", pair)
    left, right = (readers.lines(side) for side in paths)
    if len(left) != len(right):
        raise DataError(f"unequal sides: {paths[0]} has {len(left)} lines, {paths[1]} has {len(right)}")
    filled = left.filled() & right.filled()
    if not filled.any():
        raise NoRecords(f"{paths[0]}, {paths[1]}: no line with both sides")
    return readers.ParallelTexts((left.take(filled), right.take(filled)), (pair[0], pair[1]))


def _tsv(
    source: SourceConfig, path: str, format_: str, groups: list[tuple[str, ...]], wanted: tuple[str, ...]
) -> dict[str, RandomAccess]:
    columns = readers.table(path, source.columns)
    used = dict.fromkeys(itertools.chain(*groups))
    for language in used:
        if language not in columns:
            raise DataError(f"{path}: no data in {language!r}; its columns: {readers.listed(columns)}")
    filled = {language: columns[language].filled() for language in used}
    opened: dict[str, RandomAccess] = {}
    for group in groups:
        rows = np.logical_and.reduce([filled[language] for language in group])
        if not rows.any():
            present = [language for language in used if filled[language].any()]
            raise NoRecords(
                f"{path}: no data in {'-'.join(group)!r}; languages with data: {', '.join(present) or 'none'}"
            )
        texts = [columns[language].take(rows) for language in group]
        if len(group) == 1:
            opened[group[0]] = readers.MonolingualTexts(texts[0], group[0])
        else:
            opened["-".join(group)] = readers.ParallelTexts((texts[0], texts[1]), (group[0], group[1]))
    return opened


def _check_first(path: str, group: tuple[str, ...], records: RandomAccess, items: objects.Objects) -> None:
    """A source with other keys than expected fails here, not in the middle of training.

    Raises:
      DataError: none of the first records has all texts of the group.
    """
    first = [records[index].texts for index in range(min(len(records), FIRST_RECORDS))]
    if not any(all(texts) for texts in first):
        missing = next(code for place, code in enumerate(group) if not all(texts[place] for texts in first))
        raise DataError(f"{path}: no text in {missing!r}; keys: {readers.listed(items[0])}")


def _objects(
    source: SourceConfig, path: str, format_: str, groups: list[tuple[str, ...]], wanted: tuple[str, ...]
) -> dict[str, RandomAccess]:
    fields = objects.Fields(source.columns, wanted)
    language = groups[0][0] if "{language}" in source.path else ""
    items: objects.Objects
    if format_ == "jsonl":
        items = objects.JsonLines(path)
    elif format_ == "array_record":
        items = objects.ArrayRecords(path)
    else:
        items = objects.TfdsExamples(path, source.split)
    if not len(items):
        raise NoRecords(f"{path}: the file is empty")
    if format_ == "jsonl":
        chosen: list[RandomAccess] = list(objects.scan(items, fields, groups, language))
    else:
        chosen = [objects.ObjectRecords(items, fields, group, language) for group in groups]
    for group, records in zip(groups, chosen, strict=True):
        if not len(records):
            raise NoRecords(f"{path}: no data in {'-'.join(group)!r}; {objects.describe(items, fields)}")
        _check_first(path, group, records, items)
    return {"-".join(group): records for group, records in zip(groups, chosen, strict=True)}
