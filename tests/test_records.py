"""Text, TSV, JSON lines and Moses as sources of records, and short records that are joined to longer ones."""

import gzip
import json
import pickle

import fsspec
import numpy as np
import pytest

from ernie_m_jax.data import readers, records
from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import Record
from tests.source_files import array_record, open_source, texts, write

ENGLISH = ["One small step.", "  Two, with spaces \t", "Three: naïve café", "Four"]
GERMAN = ["Ein kleiner Schritt.", "Zwei, mit Leerzeichen", "Drei: größer", "Vier"]


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
