"""ArrayRecord files of JSON objects, written whole or not at all; used by `prepared.py` and `preparation.py`.

    records --text_lines, record_lines--> JSON --write--> file --objects.ArrayRecords, restored--> the same records

`text_lines` keeps texts by language, which is what every reader of text takes. `record_lines` keeps whole records.
"""

import contextlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from array_record.python import array_record_module

from ernie_m_jax import stores
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import RandomAccess, Record

SUFFIX = ".array_record"
UNFINISHED = re.compile(r"\..+\.array_record\.[0-9a-f]{32}\.tmp")  # what a killed `write` leaves behind


def write(path: str, lines: Iterable[bytes], compressed: bool = True) -> int:
    """Writes an ArrayRecord file, whole or not at all, and returns how many lines it holds.

    The bytes depend on the lines alone. What is not `compressed` is read faster.

    Raises:
      DataError: it cannot be written.
    """
    folder, name = (tempfile.gettempdir(), "url") if stores.is_url(path) else os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    count = 0
    try:
        options = "group_size:1" if compressed else "group_size:1,uncompressed"
        writer = array_record_module.ArrayRecordWriter(temporary, options)
        for line in lines:
            writer.write(line)
            count += 1
        writer.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if stores.is_url(path):
            stores.put(temporary, path)
        else:
            os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return count


def text_lines(records: RandomAccess) -> Iterator[bytes]:
    """Texts by language, `{"en": .., "de": ..}`, as every reader of text takes them."""
    for index in range(len(records)):
        record = records[index]
        yield json.dumps(dict(zip(record.languages, record.texts, strict=True)), ensure_ascii=False).encode()


def record_lines(records: RandomAccess) -> Iterator[bytes]:
    """Whole records, of which `Records` makes the same again.

    Raises:
      DataError: a field is of a type that JSON cannot give back.
    """
    for index in range(len(records)):
        record = records[index]
        try:
            fields = {name: _plain(value) for name, value in record.fields.items()}
        except TypeError as error:
            raise DataError(f"record {index} in {record.languages[0]!r}: cannot be written: {error}") from error
        tree = {"texts": record.texts, "languages": record.languages, "fields": fields}
        yield json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def restored(item: Mapping[str, Any], place: str) -> Record:
    """The record of a line of `record_lines`; `place` is where it stands, for messages.

    Raises:
      DataError: it is no such line.
    """
    try:
        fields = {name: _restored(value) for name, value in item["fields"].items()}
        texts, languages = tuple(item["texts"]), tuple(item["languages"])
        if not all(isinstance(text, str) for text in (*texts, *languages)):
            raise TypeError("a text or a language is no string")
        return Record(texts, languages, fields)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{place}: not a prepared record: {error!r}") from error


def check_plain(*names: Any) -> None:
    """Raises TypeError or ValueError where one is no text, or has a line feed or another control character."""
    for name in names:
        if not str.isprintable(name):
            raise ValueError(f"the name {name!r:.80} has a control character")


def check_whole(*numbers: Any) -> None:
    """Raises TypeError where one is no whole number."""
    for number in numbers:
        if type(number) is not int:
            raise TypeError(f"{number!r:.80} is no whole number")


def _plain(value: Any) -> Any:
    """A value as JSON: its arrays are tuples here, lists and mappings stand in an object that says so."""
    if type(value) is tuple:
        return [_plain(one) for one in value]
    if type(value) is list:
        return {"list": [_plain(one) for one in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _plain(one) for key, one in value.items()}}
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{value!r} is {type(value).__name__}; fields hold text, numbers, tuples, lists and dictionaries")


def _restored(value: Any) -> Any:
    """What `_plain` was given."""
    if isinstance(value, list):
        return tuple(map(_restored, value))
    if isinstance(value, dict):
        ((kind, held),) = value.items()
        return list(map(_restored, held)) if kind == "list" else {key: _restored(one) for key, one in held.items()}
    return value
