"""Every format of `open_source` on real files, and what it says about files that cannot be read."""

import gzip
import json
import pickle

import fsspec
import numpy as np
import pytest

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import readers, records
from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import Record

LANGUAGES = ("en", "de", "zh-cn")
ENGLISH = ["One small step.", "  Two, with spaces \t", "Three: naïve café", "Four"]
GERMAN = ["Ein kleiner Schritt.", "Zwei, mit Leerzeichen", "Drei: größer", "Vier"]


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


# Text


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_is_one_record_a_line_without_blank_ones(tmp_path, suffix, newline):
    blank = ["", "   ", "\u3000", "\xa0\t"]
    for language, lines in (("en", ENGLISH), ("de", GERMAN)):
        mixed = [line for pair in zip(blank, lines, strict=True) for line in pair]
        write(tmp_path / f"x.{language}{suffix}", newline.join(mixed))
    opened = open_source(tmp_path / f"x.{{language}}{suffix}", "monolingual", languages=("de", "en"))
    assert list(opened) == ["de", "en"]
    assert texts(opened["en"]) == [line.strip() for line in ENGLISH]
    assert texts(opened["de"]) == GERMAN
    assert opened["de"][1] == Record((GERMAN[1],), ("de",))
    assert opened["en"][-1] == opened["en"][3]
    with pytest.raises(IndexError):
        opened["en"][4]


def test_text_without_extension_needs_its_format(tmp_path):
    write(tmp_path / "corpus.en", "a\nb\n")
    assert len(open_source(tmp_path / "corpus.{language}", "monolingual", ("en",), format="text")["en"]) == 2
    with pytest.raises(DataError, match=r"source 'src': .*does not tell the format; set format to one of: text, tsv"):
        open_source(tmp_path / "corpus.{language}", "monolingual", ("en",))


def test_a_byte_order_mark_is_no_text(tmp_path):
    write(tmp_path / "x.txt", b"\xef\xbb\xbfone\ntwo")
    assert texts(open_source(tmp_path / "x.txt", "monolingual", ("en",))["en"]) == ["one", "two"]


def test_indexing_in_blocks_equals_reading_line_by_line(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    letters = ["a", "ü", "語", "😀", " ", "\n"]
    text = "".join(letters[choice] for choice in rng.integers(0, len(letters), 2000))
    path = write(tmp_path / "x.txt", text)
    expected = [line for line in text.split("\n") if line.strip()]
    for block in (1, 7, 64, 4096):
        monkeypatch.setattr(readers, "BLOCK", block)
        found = open_source(path, "monolingual", ("en",))["en"]
        assert texts(found) == [line.strip() for line in expected]


def test_a_local_file_is_mapped_and_pickles_as_its_path(tmp_path):
    path = write(tmp_path / "x.txt", "word " * 100_000 + "\nlast")
    opened = open_source(path, "monolingual", ("en",))["en"]
    stored = pickle.dumps(opened)
    assert len(stored) < 2000
    assert pickle.loads(stored)[1] == opened[1] == Record(("last",), ("en",))


@pytest.mark.parametrize("url", ["memory://records/x.txt", "memory://records/y.txt.gz"])
def test_other_paths_are_opened_by_fsspec(url):
    with fsspec.open(url, "wb") as file:
        file.write(gzip.compress(b"one\ntwo\n") if url.endswith(".gz") else b"one\ntwo\n")
    opened = open_source(url, "monolingual", ("en",))["en"]
    assert texts(opened) == ["one", "two"]
    assert texts(pickle.loads(pickle.dumps(opened))) == ["one", "two"]
    with pytest.raises(DataError, match=r"memory://none\.txt: no such file"):
        open_source("memory://none.txt", "monolingual", ("en",))


# TSV


def test_tsv_columns_are_languages_in_both_kinds(tmp_path):
    rows = ["key\tde\ten\tzh-cn", "1\teins\tone\t一", "", "2\t\ttwo\t二", "3\tdrei\tthree\t", "\t\t\t"]
    path = write(tmp_path / "x.tsv", "\n".join(rows))
    mono = open_source(path, "monolingual")
    assert {key: texts(value) for key, value in mono.items()} == {
        "en": ["one", "two", "three"],
        "de": ["eins", "drei"],
        "zh-cn": ["一", "二"],
    }
    parallel = open_source(path, "parallel")
    assert list(parallel) == ["en-de", "en-zh-cn", "de-zh-cn"]
    assert parallel["en-de"][1] == Record(("three", "drei"), ("en", "de"))
    assert [len(sequence) for sequence in parallel.values()] == [2, 2, 1]
    chosen = open_source(path, "parallel", pairs=("zh-cn-en",))
    assert {key: texts(value) for key, value in chosen.items()} == {"zh-cn-en": [("一", "one"), ("二", "two")]}


def test_tsv_without_header_is_named_by_columns(tmp_path):
    path = write(tmp_path / "x.tsv.gz", "0.9\tone\teins\n0.8\ttwo\tzwei\n")
    opened = open_source(path, "parallel", ("en", "de"), columns=("score", "en", "de"))
    assert texts(opened["en-de"]) == [("one", "eins"), ("two", "zwei")]


def test_only_languages_of_the_source_are_read(tmp_path):
    path = write(tmp_path / "x.tsv", "en\tde\none\teins\n")
    assert list(open_source(path, "monolingual", reads=("de",))) == ["de"]
    with pytest.raises(DataError, match="no data in 'zh-cn'; its columns: en, de"):
        open_source(path, "monolingual")


# JSON lines

JSON_STYLES = {
    "languages": ([{"en": "one ", "de": "eins"}, {"en": "", "de": "x"}, {"en": "two", "de": "zwei", "id": 4}], ()),
    "translation": ([{"translation": {"en": "one", "de": "eins"}}, {"translation": {"en": "two", "de": "zwei"}}], ()),
    "named": ([{"a": "one", "b": {"c": "eins"}}, {"a": "two", "b": {"c": "zwei"}}], ("en=a", "de=b.c")),
    "renamed": ([{"t": {"en": "one", "de": "eins"}}, {"t": {"en": "two", "de": "zwei"}}], ("translation=t",)),
    "lists": (
        [{"t": {"language": ["de", "en"], "translation": [d, e]}} for e, d in (("one", "eins"), ("two", "zwei"))],
        ("translation=t",),
    ),
}


@pytest.mark.parametrize("style", JSON_STYLES)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl_pairs(tmp_path, style, suffix):
    items, columns = JSON_STYLES[style]
    path = write(tmp_path / f"x{suffix}", "\n\n".join(map(json.dumps, items)))
    opened = open_source(path, "parallel", ("en", "de"), columns=columns)
    assert texts(opened["en-de"]) == [("one", "eins"), ("two", "zwei")]


def test_jsonl_monolingual_by_key_by_language_and_by_file(tmp_path):
    labelled = [
        {"text": "one", "language": "en"},
        {"text": "une", "language": "fr"},
        {"text": "größer", "language": "de"},
    ]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, labelled)))
    opened = open_source(path, "monolingual", ("en", "de"))
    assert {key: texts(value) for key, value in opened.items()} == {"en": ["one"], "de": ["größer"]}
    renamed = [{"body": item["text"], "lang": item["language"]} for item in labelled]
    path = write(tmp_path / "y.jsonl", "\n".join(map(json.dumps, renamed)))
    opened = open_source(path, "monolingual", ("en", "de"), columns=("text=body", "language=lang"))
    assert texts(opened["de"]) == ["größer"]
    for language in ("en", "de"):
        write(tmp_path / f"z.{language}.jsonl", json.dumps({"content": f"in {language}"}))
    opened = open_source(tmp_path / "z.{language}.jsonl", "monolingual", ("en", "de"), columns=("text=content",))
    assert {key: texts(value) for key, value in opened.items()} == {"en": ["in en"], "de": ["in de"]}


# Moses


def test_moses_pairs_in_either_order_of_the_name(tmp_path):
    write(tmp_path / "OPUS.en-zh-cn.en", "one\n\ntwo\nthree\n")
    write(tmp_path / "OPUS.en-zh-cn.zh-cn", "一\n二\n\n三\n")
    write(tmp_path / "OPUS.de-en.en", "one\n")
    write(tmp_path / "OPUS.de-en.de", "eins\n")
    path = tmp_path / "OPUS.{pair}.{language}"
    opened = open_source(path, "parallel", pairs=("en-zh-cn", "en-de"))
    assert texts(opened["en-zh-cn"]) == [("one", "一"), ("three", "三")]
    assert opened["en-de"][0] == Record(("one", "eins"), ("en", "de"))


def test_moses_of_unequal_sides_names_files_and_counts(tmp_path):
    write(tmp_path / "x.en", "one\ntwo\n")
    write(tmp_path / "x.de", "eins\nzwei\ndrei\n")
    with pytest.raises(DataError, match=r"unequal sides: .*x\.en has 2 lines, .*x\.de has 3"):
        open_source(tmp_path / "x.{language}", "parallel", ("en", "de"))


# ArrayRecord and TFDS


def test_array_record_of_pairs_and_by_language(tmp_path):
    array_record(tmp_path / "x.array_record", [{"en": f"text {n}", "de": f"Text {n}"} for n in range(50)])
    opened = open_source(tmp_path / "x.array_record", "parallel", ("en", "de"))["en-de"]
    assert len(opened) == 50
    assert opened[37] == Record(("text 37", "Text 37"), ("en", "de"))
    assert pickle.loads(pickle.dumps(opened))[3] == opened[3]
    array_record(tmp_path / "y.de.array_record", [{"text": "eins"}, {"text": "  "}])
    mono = open_source(tmp_path / "y.{language}.array_record", "monolingual", ("de",))["de"]
    assert mono[0] == Record(("eins",), ("de",))
    assert mono[1] == Record(("",), ("de",))  # makes no example; the file is too large to scan for such lines
    array_record(tmp_path / "z.de.array_record", [{"text": "  "}, {"words": "eins"}])
    with pytest.raises(DataError, match=r"z\.de\.array_record: no text in 'de'; keys: text"):
        open_source(tmp_path / "z.{language}.array_record", "monolingual", ("de",))


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """A data set made and prepared by TFDS itself, as array_record."""
    import tensorflow_datasets as tfds

    class TinyPairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"source": tfds.features.Text(), "target": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"source": f"größer {number}\n", "target": f"bigger {number}"}

    tfds.disable_progress_bar()
    builder = TinyPairs(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


def test_tfds_data_set_without_tensorflow(tfds_directory):
    path = f"tfds:{tfds_directory}"
    opened = open_source(path, "parallel", ("en", "de"), columns=("de=source", "en=target"))["en-de"]
    assert sorted(texts(opened)) == [(f"bigger {n}", f"größer {n}") for n in range(5)]
    test = open_source(path, "monolingual", ("de",), columns=("text=source",), split="test")["de"]
    assert sorted(texts(test)) == ["größer 0", "größer 1"]
    with pytest.raises(DataError, match=r"no text in 'de'; keys: source, target"):
        open_source(path, "parallel", ("en", "de"), columns=("en=target",))
    with pytest.raises(DataError, match="split 'nope'"):
        open_source(path, "monolingual", ("de",), columns=("text=source",), split="nope")


def test_tfds_data_set_that_is_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"tfds:xnli .*cannot be opened"):
        open_source("tfds:xnli", "monolingual", ("en",), columns=("text=premise",))
    with pytest.raises(DataError, match=r"tfds:no_such_set .*cannot be opened"):
        open_source("tfds:no_such_set", "monolingual", ("en",))


# Errors


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


# Joined records


@pytest.mark.parametrize("target", [1, 40, 300, 10**6])
def test_joined_records_keep_every_line_once_and_reach_about_the_target(tmp_path, target):
    rng = np.random.default_rng(1)
    lines = [f"{n}" + "ü" * int(rng.integers(1, 30)) for n in range(500)]
    path = write(tmp_path / "x.txt", "\n".join(lines))
    joined = records.JoinedRecords(open_source(path, "monolingual", ("de",))["de"], target)
    found = texts(joined)
    assert " ".join(found) == " ".join(lines)
    assert joined[0].languages == ("de",)
    if target == 300:
        assert np.mean([len(text) for text in found[:-1]]) == pytest.approx(300, rel=0.1)
    if target == 1:
        assert found == lines
    assert joined[-1] == joined[len(joined) - 1]
    with pytest.raises(IndexError):
        joined[len(joined)]


def test_records_of_unknown_length_are_joined_too(tmp_path):
    array_record(tmp_path / "x.array_record", [{"en": text} for text in ("one", "", "two", "three", "four")])
    opened = open_source(tmp_path / "x.array_record", "monolingual", ("en",))["en"]
    joined = records.JoinedRecords(opened, 12)
    assert texts(joined) == ["one two", "three four"]
    with pytest.raises(DataError, match="at least 1, got 0"):
        records.JoinedRecords(opened, 0)
