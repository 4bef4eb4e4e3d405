"""Labelled sentence pairs found in folders of a published layout, and in data sets that TFDS prepared."""

import pickle

import pytest

from ernie_m_jax.data.readers import DataError
from tests.labelled_files import PAWS
from tests.pair_files import MULTINLI_HEADER, NLI, named, open_pairs, plain, tsv, xtreme

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
    with pytest.raises(
        DataError, match=r"no rows in 'fr'; languages there: de, en\. Put its rows there, or leave 'fr'"
    ):
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
