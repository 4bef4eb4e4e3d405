"""Every format of labelled sentence pairs on generated files, and what is said about files that cannot be read."""

import csv
import gzip
import json
import pickle

import numpy as np
import pytest

from ernie_m_jax.data import labelled, published, readers
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record

NLI = ("entailment", "neutral", "contradiction")
PAWS = ("0", "1")
ALIASES = {"contradictory": "contradiction"}
XNLI_HEADER = [
    *("language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse"),
    *("sentence2_parse", "sentence1", "sentence2", "promptID", "pairID", "genre", "label1", "label2", "label3"),
    *("label4", "label5", "sentence1_tokenized", "sentence2_tokenized", "match"),
]
MULTINLI_HEADER = XNLI_HEADER[1:16]
GLUE_HEADER = [
    *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
    *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"),
]
QUOTED = ['"Yes," he said.', 'He said "no".', '"', '""', 'a "" b']


def open_pairs(path, split="train", languages=("en",), labels=NLI, aliases=ALIASES, **keys):
    aliases = None if labels == PAWS else aliases
    return labelled.open_pairs(str(path), split, languages, labels, aliases, **keys)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def tsv(path, *rows, newline="\n"):
    return write(path, "".join("\t".join(row) + newline for row in rows))


def named(header, **cells):
    """A row with these cells under a header's names."""
    return [cells.get(name, "") for name in header]


def plain(pairs):
    """Sentences, label and id of every record."""
    assert [pairs[index] for index in range(len(pairs))] == list(pairs)
    return [(*record.texts, record.fields.get("label"), record.fields["id"]) for record in pairs]


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


def xtreme(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return path


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


# Directories

HEADERS = {
    "x-final": ["id", "sentence1", "sentence2", "label"],
    "xnli": ["language", "gold_label", "sentence1", "sentence2", "pairID"],
    "mt": ["premise", "hypo", "label"],
}
LAYOUTS = [
    ("x-final", "train", {"en": "en/train.tsv", "de": "de/translated_train.tsv"}),
    ("x-final", "dev", {"en": "en/dev_2k.tsv", "de": "de/dev_2k.tsv"}),
    ("x-final", "test", {"en": "en/test_2k.tsv", "de": "de/test_2k.tsv.gz"}),
    ("xtreme", "train", {"en": "train-en.tsv", "de": "train-de.tsv"}),
    ("xtreme", "dev", {"en": "dev-en.tsv"}),
    ("xtreme", "test", {"en": "test-en.tsv"}),
    ("xnli", "dev", {"en": "xnli.dev.tsv", "de": "xnli.dev.tsv"}),
    ("xnli", "test", {"en": "xnli.test.tsv", "de": "xnli.test.tsv"}),
    ("mt", "train", {"en": "multinli/multinli.train.en.tsv", "de": "multinli/multinli.train.de.tsv"}),
    ("mt", "train", {"en": "multinli.train.en.tsv", "de": "multinli.train.de.tsv"}),
    ("multinli", "train", {"en": "multinli_1.0_train.txt"}),
]


@pytest.mark.parametrize(("layout", "split", "files"), LAYOUTS)
def test_a_directory_of_a_known_layout_is_read_by_split_and_language(tmp_path, layout, split, files):
    for language, file in files.items():
        cells = {"sentence1": f"one {language}", "sentence2": "two", "premise": f"one {language}", "hypo": "two"}
        cells |= {"label": "neutral", "gold_label": "neutral", "language": language, "id": "5", "pairID": "5"}
        if layout == "xtreme":
            xtreme(tmp_path / file, [(f"one {language}", "two", "neutral")])
        elif layout == "xnli":
            every = [cells | {"language": code, "sentence1": f"one {code}"} for code in files]
            tsv(tmp_path / file, HEADERS["xnli"], *(named(HEADERS["xnli"], **row) for row in every))
        else:
            header = HEADERS.get(layout, MULTINLI_HEADER)
            tsv(tmp_path / file, header, named(header, **cells))
    opened = open_pairs(tmp_path, split, tuple(files))
    assert {code: pairs[0].texts for code, pairs in opened.items()} == {code: (f"one {code}", "two") for code in files}


def test_a_directory_without_a_known_file_says_what_was_looked_for(tmp_path):
    tsv(tmp_path / "multinli_1.0_train.txt", MULTINLI_HEADER)
    with pytest.raises(DataError) as caught:
        open_pairs(tmp_path, "train", ("de",))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no file of the train split in 'de'; looked for: ")
    for file in ("de/train.tsv", "de/translated_train.tsv", "train-de.tsv", "multinli/multinli.train.de.tsv"):
        assert file in message
    assert "multinli_1.0_train.txt" not in message  # English


def test_a_directory_with_two_fitting_files_is_refused(tmp_path):
    xtreme(tmp_path / "train-en.tsv", [("a", "b", "neutral")])
    tsv(tmp_path / "multinli.train.en.tsv", ["premise", "hypo", "label"], ["a", "b", "neutral"])
    with pytest.raises(DataError, match=r"several files .* 'en': train-en\.tsv, multinli\.train\.en\.tsv; name one"):
        open_pairs(tmp_path)


# TFDS


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """Data sets with the features of `xnli`, `paws_x_wiki/de` and an unlabelled one, prepared by TFDS itself."""
    import tensorflow_datasets as tfds

    pair = {"sentence1": tfds.features.Text(), "sentence2": tfds.features.Text()}
    languages = ("de", "en")
    features = {
        "xnli": {
            "premise": tfds.features.Translation(languages=languages),
            "hypothesis": tfds.features.TranslationVariableLanguages(languages=languages),
            "label": tfds.features.ClassLabel(names=NLI),
        },
        "paws": pair | {"label": tfds.features.ClassLabel(names=["different_meaning", "paraphrase"])},
    }
    examples = {
        "xnli": lambda number: {
            "premise": {"en": f"one {number}", "de": f"eins größer {number}"},
            "hypothesis": {"en": "two", "de": "zwei" if number else ""},
            "label": NLI[number % 3],
        },
        "paws": lambda number: {"sentence1": f"a {number}", "sentence2": "b", "label": number % 2},
    }

    def builder(name):
        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features[name]))

            def _split_generators(self, dl_manager):
                return {"validation": self._examples(3), "test": self._examples(3, unlabelled=name == "paws")}

            def _examples(self, count, unlabelled=False):
                for number in range(count):
                    yield number, examples[name](number) | ({"label": -1} if unlabelled else {})

            _generate_examples = _examples

        return Tiny

    tfds.disable_progress_bar()
    found = {}
    for name in features:
        made = builder(name)(data_dir=str(tmp_path_factory.mktemp(name)), file_format="array_record")
        made.download_and_prepare()
        found[name] = str(made.data_dir)
    return found


def test_tfds_data_set_with_all_languages_in_an_example(tfds_directory):
    path = f"tfds:{tfds_directory['xnli']}"
    opened = open_pairs(path, "dev", ("en", "de"), bad_rows="skip")
    assert sorted(plain(opened["en"]))[1][:3] == ("one 1", "two", "neutral")
    assert sorted(record.texts for record in opened["de"]) == [("eins größer 1", "zwei"), ("eins größer 2", "zwei")]
    assert (opened["en"].skipped, opened["de"].skipped) == ({}, {"empty sentence": 1})
    assert pickle.loads(pickle.dumps(opened["de"]))[1] == opened["de"][1]
    with pytest.raises(DataError, match=r"xnli.*: example \d: sentence 2 is empty"):
        open_pairs(path, "dev", ("en", "de"))
    with pytest.raises(DataError, match=r"no rows in 'fr'; languages there: de, en"):
        open_pairs(path, "dev", ("fr",))


def test_tfds_labels_are_numbers_where_their_names_are_not_asked_for(tfds_directory):
    path = f"tfds:{tfds_directory['paws']}"
    opened = open_pairs(path, "dev", ("de",), PAWS)["de"]
    assert {record.texts: record.fields["label"] for record in opened} == {
        ("a 0", "b"): "0",
        ("a 1", "b"): "1",
        ("a 2", "b"): "0",
    }
    by_name = open_pairs(path, "dev", ("de",), ("different", "paraphrase"), {"different_meaning": "different"})["de"]
    assert sorted(record.fields["label"] for record in by_name) == ["different", "different", "paraphrase"]
    assert sorted(number for *_, number in plain(open_pairs(path, "test", ("de",), PAWS)["de"])) == ["1", "2", "3"]
    with pytest.raises(DataError, match=r"example 0: no language; .*\{language\}"):
        open_pairs(path, "dev", ("de", "en"), PAWS)


def test_tfds_data_set_that_is_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"tfds:paws_x_wiki/de \(split 'validation'\): cannot be opened"):
        open_pairs("tfds:paws_x_wiki/{language}", "dev", ("de",), PAWS)


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


def test_the_rows_left_out_are_told_in_a_line():
    assert published.summary({"empty sentence": 2, "no label": 1}) == "empty sentence 2, no label 1"
