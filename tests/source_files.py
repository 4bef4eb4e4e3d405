"""Files of text for `open_source`, and what is read of them."""

import gzip
import json

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import records

LANGUAGES = ("en", "de", "zh-cn")


def open_source(path, kind, languages=LANGUAGES, *, reads=(), **keys):
    """Opens a source that reads `reads` of the configured `languages`."""
    keys = {"format": "auto", "languages": reads, "pairs": (), "columns": (), "split": "train"} | keys
    return records.open_source("src", SourceConfig(str(path), **keys), languages, kind)


def write(path, text):
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def texts(sequence):
    assert [sequence[index] for index in range(len(sequence))] == list(sequence)
    return [record.texts if len(record.texts) > 1 else record.texts[0] for record in sequence]


def array_record(path, items):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for item in items:
        writer.write(json.dumps(item).encode())
    writer.close()
