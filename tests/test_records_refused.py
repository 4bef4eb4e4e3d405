"""What is said of sources that make no sense, and of their files that cannot be read."""

import gzip

import pytest

from ernie_m_jax.data import readers
from ernie_m_jax.data.records import DataError
from tests.source_files import open_source, write

BAD_FILES = {
    "missing": ("x.txt", None, "monolingual", r"x\.txt: no such file"),
    "missing tsv": ("x.tsv", None, "parallel", r"x\.tsv: no such file"),
    "missing array_record": ("x.array_record", None, "parallel", r"x\.array_record: no such file"),
    "no array_record": ("x.array_record", b"nothing of the sort" * 9, "parallel", "cannot be read as ArrayRecord"),
    "empty": ("x.txt", b"", "monolingual", r"x\.txt: the file is empty"),
    "blank": ("x.txt", b"\n \n", "monolingual", "no data in 'en', every line is blank"),
    "utf-8": ("x.txt", b"good\nb\xfcse\nmore\n", "monolingual", r"x\.txt:2: invalid UTF-8"),
    "utf-8 at the end": ("x.txt", b"good\nb\xc3", "monolingual", r"x\.txt:2: invalid UTF-8"),
    "gzip": ("x.txt.gz", None, "monolingual", r"x\.txt\.gz: no such file"),
    "tsv cells": ("x.tsv", b"en\tde\na\tb\n\nc\td\te\n", "parallel", r"x\.tsv:4: 3 cells, the header has 2"),
    "tsv one cell": ("x.tsv", b"en\tde\na\tb\nc\n", "parallel", r"x\.tsv:3: 1 cells, the header has 2"),
    "tsv language": ("x.tsv", b"en\tfr\na\tb\n", "parallel", r"no data in 'de'; its columns: en, fr"),
    "tsv only blanks": ("x.tsv", b"en\tde\na\t\nb\t\n", "parallel", r"no data in 'en-de'; languages with data: en$"),
    "tsv repeated": ("x.tsv", b"en\ten\na\tb\n", "monolingual", r"column names are repeated: \['en', 'en'\]"),
    "json": ("x.jsonl", b'{"en": "a", "de": "b"}\n\n{"en": \n', "parallel", r"x\.jsonl:3: not a JSON object"),
    "json list": ("x.jsonl", b'["a"]\n', "parallel", r"x\.jsonl:1: an object with keys is needed, got list"),
    "json number": ("x.jsonl", b'{"en": 3, "de": "b"}\n', "parallel", r"x\.jsonl:1: the text of 'en' is int"),
    "json language": ("x.jsonl", b'{"en": "a", "fr": "b"}\n', "parallel", r"no data in 'en-de'; keys: en, fr"),
    "json labels": (
        "x.jsonl",
        b'{"text": "a", "language": "fr"}\n{"text": "b", "language": "es"}\n',
        "monolingual",
        r"no data in 'en'; keys: text, language; languages: es, fr",
    ),
    "json unlabelled": (
        "x.jsonl",
        b'{"text": "a"}\n',
        "monolingual",
        r"x\.jsonl:1: no key 'language' says the language",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_read_is_named(tmp_path, case):
    name, content, kind, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    languages = ("en",) if name.startswith("x.txt") or "repeated" in case else ("en", "de")
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path / name, kind, languages)
    assert "source 'src'" in str(caught.value)
    assert name in str(caught.value)


def test_invalid_utf8_far_into_a_file_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK", 16)
    path = write(tmp_path / "x.txt", "größe 語\n".encode() * 40 + b"bad \xff\n" + b"good\n" * 9)
    with pytest.raises(DataError, match=r"x\.txt:41: invalid UTF-8"):
        open_source(path, "monolingual", ("en",))


def test_a_broken_gzip_file_is_named(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(b"text\n" * 1000)[:30])
    with pytest.raises(DataError, match=r"x\.txt\.gz: cannot be read"):
        open_source(path, "monolingual", ("en",))


BAD_SOURCES = [
    ("", "monolingual", {}, "path is empty"),
    ("x.txt", "parallel", {}, "text holds one language"),
    ("x.txt", "monolingual", {}, r"text is one file per language; put \{language\} into the path"),
    ("x.csv", "monolingual", {}, "does not tell the format"),
    ("x", "parallel", {}, "does not tell the format"),
    ("tests", "monolingual", {}, "tests is a folder; name its files"),
    ("x.tsv", "monolingual", {"format": "csv"}, "format 'csv' must be auto or one of: text, tsv"),
    ("x.tsv", "monolingual", {"pairs": ("en-de",)}, "pairs: en-de given for a monolingual source"),
    ("x.tsv", "parallel", {"pairs": ("en-fr",)}, "pairs: 'en-fr' must be two different languages .* en, de, zh-cn"),
    ("x.tsv", "parallel", {"pairs": ("en-en",)}, "pairs: 'en-en' must be two different languages"),
    ("x.tsv", "parallel", {"pairs": ("en",)}, "pairs: 'en' must be two different languages"),
    ("x.tsv", "parallel", {"reads": ("en", "fr")}, "fr not among the configured ones: en, de, zh-cn"),
    ("x.tsv", "parallel", {"reads": ("en",)}, "needs two languages, got: en"),
    ("x.{pair}.en", "monolingual", {"format": "moses"}, "moses is parallel"),
    ("x.{pair}", "parallel", {"format": "moses"}, r"the path needs \{language\}"),
    ("x.{language}.tsv", "parallel", {}, "does not|only moses"),
    ("x.{language}.txt", "monolingual", {"columns": ("en",)}, "columns: en given, but text has no columns"),
    ("corpus:nope", "parallel", {}, "corpus:nope: no such bundled corpus; there are: diagnostics/pairs"),
]


@pytest.mark.parametrize(("path", "kind", "keys", "message"), BAD_SOURCES)
def test_a_source_that_makes_no_sense_is_refused(path, kind, keys, message):
    with pytest.raises(DataError, match=message):
        open_source(path, kind, **keys)


def test_a_key_mapping_that_makes_no_sense_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"en": "a", "de": "b"}')
    with pytest.raises(
        DataError, match="columns: 'en' must be NAME=KEY with NAME among text, language, translation, en"
    ):
        open_source(path, "parallel", ("en", "de"), columns=("en",))
