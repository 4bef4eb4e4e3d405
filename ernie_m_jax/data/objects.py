"""Keyed objects in (JSON lines, ArrayRecord, TFDS), records out; used by `records.py`.

An object holds texts under keys: `{"en": ..., "de": ...}`, `{"translation": {"en": ..., "de": ...}}`, TFDS's
`{"language": [...], "translation": [...]}` or, for monolingual data, `{"text": ..., "language": ...}`. `Fields` finds
them; `columns` of the source, entries `NAME=KEY` with dots for nested keys, say where they stand under other keys.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from array_record.python import array_record_module

from ernie_m_jax import stores
from ernie_m_jax.data.readers import DataError, MissingData, Texts, lines, listed
from ernie_m_jax.task import RandomAccess, Record


class Objects(Protocol):
    """Random access to decoded objects."""

    path: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def place(self, index: int) -> str:
        """Where an object stands, for messages."""


class Fields:
    """Where an object keeps the text of each language."""

    def __init__(self, columns: tuple[str, ...], languages: tuple[str, ...]):
        """Reads `columns`.

        Args:
          columns: `NAME=KEY`, NAME one of `text`, `language`, `translation` or a language code.
          languages: the languages that may be named.

        Raises:
          DataError: an entry without `=` or with another name.
        """
        self.languages = languages
        self.keys = {}
        for column in columns:
            name, equals, key = column.partition("=")
            if not equals or not key or name not in ("text", "language", "translation", *languages):
                raise DataError(
                    f"columns: {column!r} must be NAME=KEY with NAME among text, language, translation, "
                    f"{', '.join(languages)}"
                )
            self.keys[name] = key

    def texts(self, item: Mapping[str, Any], place: str, language: str = "") -> dict[str, str]:
        """The texts of an object by language, stripped; empty ones are left out.

        Args:
          item: the object.
          place: where it stands, for messages.
          language: the language of its `text` where the file says it.

        Raises:
          DataError: a value that is not text, or a `text` whose language nothing tells.
        """
        if not isinstance(item, Mapping):
            raise DataError(f"{place}: an object with keys is needed, got {type(item).__name__}")
        found: dict[str, Any] = {}
        text = _value(item, self.keys.get("text", "text"))
        translation = _value(item, self.keys.get("translation", "translation"))
        if text is not None:
            found = {self._language(item, place, language): text}
        elif isinstance(translation, Mapping) and {"language", "translation"} <= translation.keys():
            found = _aligned(translation["language"], translation["translation"], place)
        elif isinstance(translation, Mapping):
            found = dict(translation)
        elif translation is not None and "language" in item:
            found = _aligned(item["language"], translation, place)
        for name in self.languages:
            value = _value(item, self.keys.get(name, name))
            if value is not None:
                found[name] = value
        texts = {}
        for name, value in found.items():
            if name in self.languages and value is not None:
                value = _decode(value)
                if not isinstance(value, str):
                    raise DataError(f"{place}: the text of {name!r} is {type(value).__name__}, not a string")
                if value.strip():
                    texts[name] = value.strip()
        return texts

    def _language(self, item: Mapping[str, Any], place: str, language: str) -> str:
        key = self.keys.get("language", "language")
        named = language or _decode(_value(item, key)) or (self.languages[0] if len(self.languages) == 1 else "")
        if not isinstance(named, str) or not named:
            raise DataError(f"{place}: no key {key!r} says the language; keys: {listed(item)}")
        return named


class JsonLines:
    """Objects of a JSON Lines file."""

    def __init__(self, path: str):
        self.path = path
        texts = lines(path)
        self.numbers = np.flatnonzero(texts.filled())
        self.texts: Texts = texts.take(self.numbers)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return _parse(self.texts[index], self.place(index))

    def place(self, index: int) -> str:
        """File and line."""
        return f"{self.path}:{self.numbers[index] + 1}"


class ArrayRecords:
    """JSON objects of an ArrayRecord file. Threads may read it; a copy, also in another process, opens it anew."""

    def __init__(self, path: str):
        if not stores.exists(path):
            raise DataError(f"{path}: no such file")
        self.path = path
        self._lock = threading.Lock()
        try:
            # For one record at a time, anywhere in the file: with the reader's own threads, or by its `read([index])`,
            # a record takes 2 ms of a processor; so 0.01 ms.
            self._reader = array_record_module.ArrayRecordReader(
                stores.local(path), options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
            )
            if not self._reader.ok():
                self._reader.read()  # raises what is wrong
            self.size = self._reader.num_records()
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(f"{path}: cannot be read as ArrayRecord: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayRecords, (self.path,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        index = range(self.size)[index]
        return _parse(self.content(index), self.place(index))

    def content(self, index: int) -> bytes:
        """The bytes of the record `index`, counted from 0, whatever they hold."""
        try:
            with self._lock:
                self._reader.seek(index)
                return self._reader.read()
        except RuntimeError as error:
            raise DataError(f"{self.place(index)}: cannot be read: {error}") from error

    def place(self, index: int) -> str:
        """File and number of the record, from 0."""
        return f"{self.path}: record {index}"


class TfdsExamples:
    """Examples of a prepared TFDS data set, read without TensorFlow (`file_format="array_record"`)."""

    def __init__(self, path: str, split: str):
        # Without these imports a builder "is not found": the registration stops at a swallowed ImportError of h5py.
        import tensorflow_datasets as tfds
        import tensorflow_datasets.question_answering
        import tensorflow_datasets.text
        import tensorflow_datasets.translate

        self.path = path
        name = path.removeprefix("tfds:")
        prepared = name.startswith("/") or "://" in name
        try:
            builder = tfds.builder_from_directory(name) if prepared else tfds.builder(name)
            splits = list(builder.info.splits or ())
            if splits and split.isidentifier() and split not in splits:
                there = ", ".join(splits)
                raise MissingData(f"{path} (split {split!r}): cannot be opened: the splits there are {there}")
            self.folder = str(builder.data_dir)
            self.source = builder.as_data_source(split=split)
        except MissingData:
            raise
        except (ValueError, OSError, NotImplementedError, AssertionError, ImportError) as error:
            raise DataError(
                f"{path} (split {split!r}): cannot be opened: {' '.join(str(error).split())}; prepare it with "
                f'`tfds.builder({name!r}, file_format="array_record").download_and_prepare()`'
            ) from error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[index]

    def place(self, index: int) -> str:
        """Data set and number of the example, from 0."""
        return f"{self.path}: example {index}"


class ObjectRecords:
    """Records out of objects: one language, or two."""

    def __init__(self, objects: Objects, fields: Fields, languages: tuple[str, ...], language: str = ""):
        """Reads nothing yet.

        Args:
          objects: where the texts are.
          fields: how to find them.
          languages: one code, or the two of a pair.
          language: the language of `text` where the file says it.
        """
        self.objects, self.fields, self.languages, self.language = objects, fields, languages, language

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        place = self.objects.place(index)
        texts = self.fields.texts(self.objects[index], place, self.language)
        # A blank text makes no example: in data too large to scan, one such record must not end a run.
        return Record(tuple(texts.get(language, "") for language in self.languages), self.languages)


class ChosenRecords:
    """Some of the records of a sequence."""

    def __init__(self, records: RandomAccess, rows: np.ndarray):
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.records[int(self.rows[index])]


def scan(
    objects: Objects, fields: Fields, groups: Sequence[tuple[str, ...]], language: str = ""
) -> list[ChosenRecords]:
    """Reads every object once and keeps, for each group of languages, those that have all its texts.

    Args:
      objects: a file that is cheap to read whole.
      fields: how to find the texts.
      groups: languages of each sequence wanted, one code or two.
      language: the language of `text` where the file says it.

    Returns:
      One sequence per group, in the same order, possibly empty.
    """
    rows: list[list[int]] = [[] for _ in groups]
    for index in range(len(objects)):
        texts = fields.texts(objects[index], objects.place(index), language)
        for kept, group in zip(rows, groups, strict=True):
            if all(code in texts for code in group):
                kept.append(index)
    return [
        ChosenRecords(ObjectRecords(objects, fields, group, language), np.array(kept, np.int64))
        for group, kept in zip(groups, rows, strict=True)
    ]


def describe(objects: Objects, fields: Fields) -> str:
    """What a file holds, for messages: the keys of its first object and the languages its objects name."""
    named: set[str] = set()
    for index in range(len(objects)):
        item = objects[index]
        named.add(str(item.get(fields.keys.get("language", "language"), "")))
        if isinstance(item.get("translation"), Mapping):
            named.update(map(str, item["translation"]))
    languages = listed(sorted(named - {""})) or "none named"
    return f"keys: {listed(objects[0])}; languages: {languages}"


def _value(item: Mapping[str, Any], key: str) -> Any:
    value: Any = item
    for part in key.split(".") if key not in item else [key]:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _aligned(languages: Any, texts: Any, place: str) -> dict[str, Any]:
    """Texts by language out of two lists.

    Raises:
      DataError: they are no lists of one length, or a language is no text.
    """
    try:
        names = [_decode(name) for name in languages]
        found = dict(zip(names, texts, strict=True))
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: languages and translations are no two lists of one length: {error}") from error
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{place}: a language is no text: {names!r:.80}")
    return found


def _decode(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _parse(text: str | bytes, place: str) -> Mapping[str, Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a JSON object: {error}") from error
