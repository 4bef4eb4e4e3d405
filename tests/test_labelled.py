"""Labelled sentence pairs in files: every published format, and users' own tables and JSON lines."""

import json
import pickle

import numpy as np
import pytest

from ernie_m_jax.data import readers
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record
from tests.labelled_files import PAWS, XNLI_HEADER
from tests.pair_files import MULTINLI_HEADER, NLI, named, open_pairs, plain, tsv, write, xtreme

GLUE_HEADER = [
    *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
    *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"),
]
QUOTED = ['"Yes," he said.', 'He said "no".', '"', '""', 'a "" b']


# XNLI and MultiNLI


def xnli_rows():
    return [
        XNLI_HEADER,
        named(XNLI_HEADER, language="de", gold_label="neutral", sentence1="Eins", sentence2="zwei", pairID="1"),
        named(XNLI_HEADER, language="en", gold_label="entailment", sentence1="One", sentence2='"two', pairID="1"),
        named(XNLI_HEADER, language="zh", gold_label="neutral", sentence1="\u3000一 ", sentence2="二", pairID="2"),
        named(XNLI_HEADER, language="en", gold_label="contradiction", sentence1="Three", sentence2="four", pairID="2"),
    ]


def test_xnli_is_one_file_with_a_language_column(tmp_path):
    path = tsv(tmp_path / "xnli.dev.tsv", *xnli_rows())
    opened = open_pairs(path, "dev", ("en", "zh"))
    assert list(opened) == ["en", "zh"]
    assert plain(opened["en"]) == [("One", '"two', "entailment", "1"), ("Three", "four", "contradiction", "2")]
    assert opened["zh"][0] == Record(("一", "二"), ("zh", "zh"), {"label": "neutral", "id": "2"})
    assert opened["en"][-1] == opened["en"][1]
    assert opened["en"].skipped == {}
    with pytest.raises(IndexError):
        opened["en"][2]


def test_a_language_that_is_not_in_the_file_is_named_with_those_that_are(tmp_path):
    path = tsv(tmp_path / "xnli.dev.tsv", *xnli_rows())
    with pytest.raises(DataError, match=r"xnli\.dev\.tsv: no rows in 'fr'; languages there: de, en, zh"):
        open_pairs(path, "dev", ("en", "fr"))


def test_unused_cells_at_the_end_of_a_row_may_be_missing(tmp_path):
    rows = xnli_rows()
    used = XNLI_HEADER.index("pairID") + 1
    path = tsv(tmp_path / "xnli.test.tsv", rows[0], *(row[:used] for row in rows[1:]))
    assert len(open_pairs(path, "test")["en"]) == 2
    path = tsv(tmp_path / "xnli.test.tsv", *rows[:4], rows[4][: used - 1])
    with pytest.raises(DataError, match=r"xnli\.test\.tsv:5: 9 cells, the header has 19 and column 10 is needed"):
        open_pairs(path, "test")
    path = tsv(tmp_path / "xnli.test.tsv", *rows[:4], [*rows[4], ""])
    with pytest.raises(DataError, match=r"xnli\.test\.tsv:5: 20 cells, the header has 19"):
        open_pairs(path, "test")


def test_an_empty_sentence_at_the_end_of_a_short_row_is_seen(tmp_path):
    path = write(tmp_path / "x.tsv", "premise\thypo\tnote\na\tb\tx\nc\t\nd\te\tx\n")
    assert open_pairs(path, "test", bad_rows="skip")["en"].skipped == {"empty sentence": 1}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_xnli_mt_is_a_file_per_language_and_spells_a_label_differently(tmp_path, newline):
    header = ["premise", "hypo", "label"]
    for language in ("en", "de"):
        spelled = [*NLI[:2], "contradictory", *NLI[:2]]
        rows = [[f"{language} {text}", text, label] for text, label in zip(QUOTED, spelled, strict=True)]
        tsv(tmp_path / f"multinli.train.{language}.tsv", header, *rows, newline=newline)
    opened = open_pairs(tmp_path / "multinli.train.{language}.tsv", languages=("de", "en"))
    assert list(opened) == ["de", "en"]
    assert [record.texts for record in opened["de"]] == [(f"de {text}", text) for text in QUOTED]
    assert [label for _, _, label, _ in plain(opened["en"])] == [*NLI, *NLI[:2]]
    assert [number for *_, number in plain(opened["en"])] == ["1", "2", "3", "4", "5"]
    with pytest.raises(DataError, match=r"train\.de\.tsv:4: label 'contradictory' is not allowed; .* neutral"):
        open_pairs(tmp_path / "multinli.train.{language}.tsv", languages=("de",), aliases=None)


@pytest.mark.parametrize("header", [MULTINLI_HEADER, GLUE_HEADER])
def test_multinli_rows_without_consensus_are_left_out_and_counted(tmp_path, header):
    rows = [
        named(header, gold_label="neutral", sentence1="a", sentence2="b", pairID="7n"),
        named(header, gold_label="-", sentence1="c", sentence2="d", pairID="8n"),
        named(header, gold_label="-", sentence1="n/a", sentence2="", pairID="9n"),
        named(header, gold_label="entailment", sentence1='"e', sentence2="f", pairID="9e"),
    ]
    opened = open_pairs(tsv(tmp_path / "multinli_1.0_train.txt", header, *rows))["en"]
    assert plain(opened) == [("a", "b", "neutral", "7n"), ('"e', "f", "entailment", "9e")]
    assert opened.skipped == {"no consensus of the annotators": 2}
    with pytest.raises(DataError, match=r"train\.txt: no language column, but 2 languages are asked .* {language}"):
        open_pairs(tmp_path / "multinli_1.0_train.txt", languages=("en", "de"))


def test_a_dash_is_an_unknown_label_in_other_columns(tmp_path):
    path = tsv(tmp_path / "x.tsv", ["sentence1", "sentence2", "label"], ["a", "b", "neutral"], ["a", "b", "-"])
    with pytest.raises(DataError, match=r"x\.tsv:3: label '-' is not allowed"):
        open_pairs(path)


# PAWS-X and XTREME


def test_paws_x_has_ids_and_labels_of_0_and_1(tmp_path):
    header = ["id", "sentence1", "sentence2", "label"]
    path = tsv(tmp_path / "translated_train.tsv", header, ["4", '"A', "NS", "1"], ["9", "B", '"b"', "0"])
    assert plain(open_pairs(path, labels=PAWS)["en"]) == [('"A', "NS", "1", "4"), ("B", '"b"', "0", "9")]


def test_xtreme_files_are_unquoted(tmp_path):
    rows = [(text, f"größer {text}", NLI[number % 3]) for number, text in enumerate(QUOTED)]
    xtreme(tmp_path / "train-en.tsv", rows)
    opened = open_pairs(tmp_path / "train-{language}.tsv")["en"]
    assert plain(opened) == [(*row, str(number)) for number, row in enumerate(rows, 1)]


def test_xtreme_test_files_have_no_labels(tmp_path):
    xtreme(tmp_path / "test-de.tsv", [("a", 'b "c"'), ("d", "e")])
    opened = open_pairs(tmp_path / "test-{language}.tsv", "test", ("de",), PAWS)["de"]
    assert opened[0] == Record(("a", 'b "c"'), ("de", "de"), {"id": "1"})
    assert plain(opened)[1] == ("d", "e", None, "2")
    with pytest.raises(DataError, match=r"test-de\.tsv: no labels; only the test split may have none"):
        open_pairs(tmp_path / "test-{language}.tsv", "dev", ("de",), PAWS)
    xtreme(tmp_path / "test-de.tsv", [("a", "b"), ("d", "e"), ("f", "g", "1")])
    with pytest.raises(DataError, match=r"test-de\.tsv:3: 3 cells, a row is two sentences as others, without label"):
        open_pairs(tmp_path / "test-{language}.tsv", "test", ("de",), PAWS)
    xtreme(tmp_path / "test-de.tsv", [("a", "b"), ("d", "e", "0"), ("f", "g", "1")])
    assert len(open_pairs(tmp_path / "test-de.tsv", "test", ("de",), PAWS, bad_rows="skip")["de"]) == 2


def test_bad_rows_of_xtreme_files(tmp_path):
    path = write(tmp_path / "train-en.tsv", b"a\xff\tb\tneutral\n")
    with pytest.raises(DataError, match=r"train-en\.tsv:1: invalid UTF-8.*Correct it"):
        open_pairs(path)
    path = write(tmp_path / "train-en.tsv", 'a\tb\tneutral\n"a\tb\tneutral\n""\tb\tneutral\na\t"b" c\tneutral\n')
    with pytest.raises(DataError, match=r"train-en\.tsv:2: sentence 1 begins with a quote"):
        open_pairs(path)
    write(tmp_path / "test-en.tsv", "a\tb\nc\t")
    assert open_pairs(tmp_path / "test-en.tsv", "test", bad_rows="skip")["en"].skipped == {"empty sentence": 1}
    opened = open_pairs(path, bad_rows="skip")["en"]
    assert plain(opened) == [("a", "b", "neutral", "1")]
    assert opened.skipped == {"wrong quotes": 2, "empty sentence": 1}


# Users' own files


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_own_tsv_by_header_with_byte_order_mark_and_blank_lines(tmp_path, suffix, newline):
    lines = ["\ufefflang\ttext_a\ttext_b\tnote\tgold_label", "de\tgrößer\tb\t\tneutral", "", "en\tc\td\tx\tentailment"]
    path = write(tmp_path / f"own.tsv{suffix}", newline.join(lines))
    opened = open_pairs(path, languages=("en", "de"))
    assert plain(opened["en"]) == [("c", "d", "entailment", "2")]
    assert opened["de"][0] == Record(("größer", "b"), ("de", "de"), {"label": "neutral", "id": "1"})


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_own_jsonl(tmp_path, suffix):
    items = [
        {"premise": "größer", "hypothesis": "b ", "label": "contradictory", "language": "de", "id": 7},
        {"premise": 'c "', "hypothesis": "d", "label": "neutral", "language": "en"},
        {"premise": "e", "hypothesis": "f", "label": "-", "language": "fr"},
    ]
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(item, ensure_ascii=item["language"] == "en") for item in items)
    path = write(tmp_path / f"own.jsonl{suffix}", text)
    opened = open_pairs(path, languages=("en", "de"))
    assert opened["de"][0] == Record(("größer", "b"), ("de", "de"), {"label": "contradiction", "id": "7"})
    assert plain(opened["en"]) == [('c "', "d", "neutral", "2")]
    with pytest.raises(DataError, match=r"no rows in 'es'; languages there: de, en, fr"):
        open_pairs(path, languages=("es",), bad_rows="skip")


def test_jsonl_per_language_with_number_labels_or_none(tmp_path):
    for language in ("en", "de"):
        items = [{"text1": f"a {language}", "text2": "b", "label": 1}, {"text1": "c", "text2": "d", "label": 0}]
        write(tmp_path / f"{language}.jsonl", "\n".join(map(json.dumps, items)))
    opened = open_pairs(tmp_path / "{language}.jsonl", languages=("en", "de"), labels=PAWS)
    assert plain(opened["de"]) == [("a de", "b", "1", "1"), ("c", "d", "0", "2")]
    path = write(tmp_path / "test.jsonl", '{"text1": "a", "text2": "b"}')
    assert open_pairs(path, "test")["en"][0].fields == {"id": "1"}
    with pytest.raises(DataError, match=r"test\.jsonl:1: no label; allowed are: entailment"):
        open_pairs(path, "dev")


def test_a_label_may_not_be_missing_in_one_object_only(tmp_path):
    items = [{"text1": "a", "text2": "b"}, {"text1": "a", "text2": "b", "label": "neutral"}]
    path = write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, items)))
    with pytest.raises(DataError, match=r"test\.jsonl:1: no label; allowed are: entailment, neutral, contradiction"):
        open_pairs(path, "test")


def test_other_column_names_can_be_given(tmp_path):
    path = tsv(tmp_path / "x.tsv", ["q", "sentence1", "a", "label"], ["one", "x", "two", "neutral"])
    opened = open_pairs(path, text_names=(("q",), ("a",)))["en"]
    assert opened[0].texts == ("one", "two")


def test_opened_pairs_pickle_as_their_path_and_read_texts_on_demand(tmp_path):
    rows = [["word " * 1000, f"hypothesis {number}", NLI[number % 3]] for number in range(300)]
    path = tsv(tmp_path / "x.tsv", ["premise", "hypo", "label"], *rows)
    opened = open_pairs(path)["en"]
    stored = pickle.dumps(opened)
    assert len(stored) < 20_000
    assert pickle.loads(stored)[299] == opened[299]
    assert opened.labels.dtype == np.int8
    assert [NLI[code] for code in opened.labels] == [row[2] for row in rows]


def test_indexing_in_blocks_equals_splitting_line_by_line(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    letters = ["a", "ü", "語", "😀", " ", "\u3000", '"']

    def cell():
        return "".join(letters[choice] for choice in rng.integers(0, 7, rng.integers(0, 4)))

    rows = [[cell(), cell()] for _ in range(200)]
    path = tsv(tmp_path / "x.tsv", ["id", "premise", "hypo", "label"], *(["", *row, "neutral"] for row in rows))
    good = [
        (*map(str.strip, row), "neutral", str(number)) for number, row in enumerate(rows, 1) if all(map(str.strip, row))
    ]
    for block in (1, 7, 4096):
        monkeypatch.setattr(readers, "BLOCK", block)
        opened = open_pairs(path, bad_rows="skip")["en"]
        assert plain(opened) == good
        assert opened.skipped == {"empty sentence": 200 - len(good)}
