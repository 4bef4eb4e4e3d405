"""A user's own rows: lines, tables and JSON lines in, the parts of each row out, and what is said of bad ones."""

import gzip
import json

import pytest

from ernie_m_jax.data import given
from ernie_m_jax.data.readers import DataError

ONE = (("text", "words"),)
TWO = (("sentence1", "premise"), ("sentence2", "hypothesis"))


def rows(path, text, inputs):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return [row for _, row in given.rows(str(path), inputs)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", "a b\tc\n\td\n", [("a b", "c"), ("", "d")]),
        ("a.tsv", "premise\tx\thypothesis\na\t1\tb\n", [("a", "b")]),
        ("a.tsv", "\ufeffpremise\thypothesis\r\na\tb\r\n", [("a", "b")]),
        ("a.tsv.gz", "a\tb\n", [("a", "b")]),
        ("a.tsv", "Premise \tHYPOTHESIS\na\tb\n", [("a", "b")]),
        ("a.TSV", "premise\thypothesis\na\tb\n", [("a", "b")]),
        ("a.txt", "a\tb\nc\td", [("a", "b"), ("c", "d")]),
        ("a.jsonl", '{"premise": "a", "sentence2": " b ", "more": 1}\n', [("a", " b ")]),
    ],
)
def test_pairs(name, text, expected, tmp_path):
    found = rows(tmp_path / name, text, TWO)
    assert [(row["sentence1"], row["sentence2"]) for row in found] == expected


def test_a_line_is_a_text_as_it_stands(tmp_path):
    assert rows(tmp_path / "a.txt", "text\n a\tb c \n", ONE) == [{"text": "text"}, {"text": " a\tb c "}]
    found = rows(tmp_path / "a.jsonl", '{"words": ["a", "b"], "id": 7}\n{"text": "c"}', ONE)
    assert found == [{"text": ["a", "b"], "id": 7}, {"text": "c"}]
    assert rows(tmp_path / "a.tsv", "id\ttext\n7\tc d\n", ONE) == [{"text": "c d", "id": "7"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tb\na\n", r"a\.tsv:2: 1 columns, there must be one each for sentence1, sentence2"),
        ("a.tsv", "premise\thypothesis\tx\na\tb\n", r"a\.tsv:2: 2 columns, the header has 3"),
        ("a.tsv", "a\tb\n\nc\td\n", r"a\.tsv:2: the line is empty; every line is a row"),
        ("a.txt", b"a\tb\n\xff\tb\n", r"a\.txt:2.*UTF-8"),
        ("a.jsonl", '{"premise": "a"}\n', r"a\.jsonl:1: sentence2 or hypothesis: is missing; it has 'premise'"),
        ("a.jsonl", '{"premise": "a", "sentence1": "a"}\n', r"both 'premise' and 'sentence1' are given; keep one"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: not a JSON object but list"),
        ("a.jsonl", "{\n", r"a\.jsonl:1: not a JSON object: "),
        ("a.jsonl", "{}\n", r"a\.jsonl:1: sentence1 or premise: is missing; it has no keys"),
        ("a.tsv", "premise\thypothesis\tpremise\na\tb\tc\n", r"a\.tsv:2: the header names the column 'premise' twice"),
        ("a.txt", "premise\thypothesis\na\tb\n", r"a\.txt:1: a header; name the file \.tsv"),
        ("a.tsv", "sentence2\tsentense1\na\tb\n", r"it has 'sentence2', but with no column sentence1 or"),
        ("a.json", "[1]\n", r"a\.json: \.json files are not read; give lines of text, \.tsv or \.jsonl"),
        ("a.CSV.gz", "a\n", r"\.csv files are not read"),
        ("a.tsv", "", r"a\.tsv: the file is empty"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        rows(tmp_path / name, text, TWO)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv"):
        list(given.rows(str(tmp_path / "none.tsv"), TWO))


def test_deep_json_is_no_crash(tmp_path):
    with pytest.raises(DataError, match=r":1: not a JSON object"):
        rows(tmp_path / "a.jsonl", "[" * 200_000 + "\n", ONE)
    assert rows(tmp_path / "a.jsonl", json.dumps({"text": "\ud800"}), ONE) == [{"text": "\ud800"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "\ud800"}, "a:1: text is not valid Unicode"),
        ({"text": ["a", "\ud800"]}, "a:1: text is not valid Unicode"),
        ({"text": "a", "id": "\ud800"}, "a:1: id is not valid Unicode"),
        ({"text": "a", "id": float("nan")}, "a:1: id is nan; it must be a text or a whole number"),
        ({"text": "a", "id": ["a"]}, "a:1: id is"),
    ],
)
def test_what_no_tokenizer_and_no_json_takes(row, message):
    with pytest.raises(DataError, match=message):
        given.check(given.Given("a:1", row))
