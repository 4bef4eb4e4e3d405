"""What is said of bad rows of sentence pairs, and of files of them that cannot be read."""

import pytest

from ernie_m_jax.data import published
from ernie_m_jax.data.readers import DataError
from tests.pair_files import open_pairs, tsv, write

# Bad rows

HEAD = b"premise\thypo\tlabel\n"
GOOD = b"good\tpair\tneutral\n"
JSON_GOOD = b'{"premise": "good", "hypo": "pair", "label": "neutral"}\n'
BAD_ROWS = {  # what stands on line 3: format, line, message, reason
    "few cells": ("tsv", b"a\tneutral\n", "2 cells, the header has 3", "wrong number of cells"),
    "one cell": ("tsv", b"a\n", "1 cells, the header has 3", "wrong number of cells"),
    "many cells": ("tsv", b"a\tb\tc\tneutral\n", "4 cells, the header has 3", "wrong number of cells"),
    "label": ("tsv", b"a\tb\tNeutral\n", "label 'Neutral' is not allowed; allowed are: entailment", "unknown label"),
    "no label": ("tsv", b"a\tb\t \n", "no label; allowed are: entailment", "no label"),
    "empty first": ("tsv", b" \tb\tneutral\n", "sentence 1 is empty", "empty sentence"),
    "empty second": ("tsv", "a\t\u3000\tneutral\n".encode(), "sentence 2 is empty", "empty sentence"),
    "utf-8": ("tsv", b"a\tb\xfc\tneutral\n", "invalid UTF-8", "invalid UTF-8"),
    "utf-8 of a line": ("tsv", b"\xa0\n", "invalid UTF-8", "invalid UTF-8"),
    "json": ("jsonl", b'{"premise": \n', "not a JSON object", "not a JSON object"),
    "json list": ("jsonl", b'["a"]\n', "not a JSON object", "not a JSON object"),
    "json utf-8": ("jsonl", b'{"premise": "\xff"}\n', "invalid UTF-8", "invalid UTF-8"),
    "json missing": ("jsonl", b'{"premise": "a", "label": "neutral"}\n', "no sentence 2; .*hypothesis", "no sentence"),
    "json number": ("jsonl", b'{"premise": 3, "hypo": "b", "label": "neutral"}\n', "sentence 1 is int", "no sentence"),
    "json mapping": (
        "jsonl",
        b'{"premise": {"en": "a"}, "hypo": "b", "label": "neutral"}\n',
        "sentence 1 is dict, not text",
        "no sentence",
    ),
    "json two keys": (
        "jsonl",
        b'{"premise": "a", "text1": "b", "hypo": "c"}\n',
        "both 'premise' and 'text1'",
        "two keys of one meaning",
    ),
    "json empty": ("jsonl", b'{"premise": "a", "hypo": " ", "label": "neutral"}\n', "2 is empty", "empty sentence"),
    "json surrogate": (
        "jsonl",
        b'{"premise": "\\ud800", "hypo": "b", "label": "neutral"}\n',
        "Unicode",
        "invalid UTF-8",
    ),
    "json label": (
        "jsonl",
        b'{"premise": "a", "hypo": "b", "label": 3}\n',
        "label '3' is not allowed",
        "unknown label",
    ),
    "json no label": ("jsonl", b'{"premise": "a", "hypo": "b", "label": null}\n', "no label", "no label"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line_or_skipped_and_counted(tmp_path, case):
    format_, line, message, reason = BAD_ROWS[case]
    good = GOOD if format_ == "tsv" else JSON_GOOD
    head = HEAD if format_ == "tsv" else good
    path = write(tmp_path / f"x.{format_}", head + good + line + good + line)
    key = "config.objectives.xnli.bad_rows"
    with pytest.raises(DataError, match=rf"x\.{format_}:3: .*{message}") as caught:
        open_pairs(path, config_key=key)
    assert f'set {key} to "skip"' in str(caught.value)
    opened = open_pairs(path, bad_rows="skip", config_key=key)["en"]
    assert opened.skipped == {reason: 2}
    assert {record.texts for record in opened} == {("good", "pair")}
    assert opened[len(opened) - 1].fields["id"] == ("3" if format_ == "tsv" else "4")
    path.write_bytes((HEAD if format_ == "tsv" else b"") + line * 2)
    with pytest.raises(DataError, match=rf"no good row in 'en': {reason} 2; the first is .*{message}"):
        open_pairs(path, bad_rows="skip", config_key=key)


def test_a_row_without_language_is_bad(tmp_path):
    head = ["language", "sentence1", "sentence2", "label"]
    path = tsv(tmp_path / "x.tsv", head, ["en", "a", "b", "neutral"], [" ", "a", "b", "neutral"])
    with pytest.raises(DataError, match=r"x\.tsv:3: no language"):
        open_pairs(path)
    assert open_pairs(path, bad_rows="skip")["en"].skipped == {"no language": 1}


def test_rows_in_languages_not_asked_for_are_not_checked(tmp_path):
    head = ["language", "sentence1", "sentence2", "label"]
    path = tsv(tmp_path / "x.tsv", head, ["de", "a", "", "neutral"], ["en", "a", "b", "neutral"])
    assert open_pairs(path)["en"].skipped == {}


def test_the_rows_left_out_are_told_in_a_line():
    assert published.summary({"empty sentence": 2, "no label": 1}) == "empty sentence 2, no label 1"


# Files that cannot be read

BAD_FILES = {
    "missing": ("x.tsv", None, r"x\.tsv: no such file or directory; put the data there or change the path"),
    "missing jsonl": ("x.jsonl", None, r"x\.jsonl: no such file or directory"),
    "empty": ("x.tsv", b"", r"x\.tsv: the file is empty"),
    "only a header": ("x.tsv", HEAD, r"x\.tsv: no good row in 'en': the file has no rows"),
    "no header": (
        "x.tsv",
        GOOD,
        r"x\.tsv: the first row names no column for sentence 1: .* premise, .*XTREME",
    ),
    "half a header": ("x.tsv", b"premise\tb\tlabel\n", r"no column for sentence 2: .* sentence2, hypothesis"),
    "two columns fit": ("x.tsv", b"premise\ttext1\thypo\tlabel\n", r"both 'premise' and 'text1' .* sentence 1"),
    "header repeated": ("x.tsv", b"premise\tpremise\thypo\tlabel\n", r"both 'premise' and 'premise'"),
    "header": ("x.tsv", b"premise\xff\thypo\tlabel\n", r"x\.tsv:1: invalid UTF-8"),
    "no labels": (
        "x.tsv",
        b"premise\thypo\na\tb\n",
        r"no labels; only the test split may have none.* gold_label",
    ),
    "gzip": ("x.tsv.gz", b"nothing", r"x\.tsv\.gz: cannot be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, case, bad_rows):
    name, content, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_pairs(tmp_path / name, bad_rows=bad_rows)


BAD_CALLS = [
    ({"split": "valid"}, "split 'valid' must be train, dev or test"),
    ({"bad_rows": "drop"}, "bad_rows 'drop' must be error or skip"),
    ({"languages": ()}, "no language"),
    ({"aliases": {"yes": "maybe"}}, "alias 'yes' stands for 'maybe', which is none of: entailment"),
]


@pytest.mark.parametrize(("keys", "message"), BAD_CALLS)
def test_a_call_that_makes_no_sense_is_refused(tmp_path, keys, message):
    with pytest.raises(DataError, match=message):
        open_pairs(write(tmp_path / "x.tsv", HEAD + GOOD), **keys)
