"""Every format of tagged words on generated files, and what is said about files that cannot be read."""

import gzip
import pickle
import re

import pytest

from ernie_m_jax.data import tagged
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record

TYPES = ("PER", "ORG", "LOC", "MISC")
SPANISH = "Melbourne NP B-LOC\n( Fpa O\n\nJosé NP B-PER\nÁvila NP I-PER\n. Fp O\n\n"


def open_tagged(path, split="train", languages=("es",), types=TYPES, **keys):
    return tagged.open_tagged(str(path), split, languages, types, **keys)


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def plain(sentences):
    """`word/TAG word/TAG` of every record."""
    records = [sentences[index] for index in range(len(sentences))]
    assert all(record.texts == (" ".join(record.fields["words"]),) for record in records)
    return [" ".join(f"{w}/{t}" for w, t in zip(r.fields["words"], r.fields["tags"], strict=True)) for r in records]


def column(*sentences):
    """A file of two columns from lines of tags alone."""
    return "\n".join("".join(f"w{i} {tag}\n" for i, tag in enumerate(tags.split())) for tags in sentences)


def tags_of(sentences):
    return [" ".join(record.fields["tags"]) for record in sentences]


def test_conll_2002_columns(tmp_path):
    path = write(tmp_path / "esp.train", SPANISH)
    opened = open_tagged(path)
    assert list(opened) == ["es"]
    fields = {"words": ("José", "Ávila", "."), "tags": ("B-PER", "I-PER", "O"), "id": f"{path}:4"}
    assert opened["es"][1] == opened["es"][-1] == Record(("José Ávila .",), ("es",), fields)
    assert plain(opened["es"]) == ["Melbourne/B-LOC (/O", "José/B-PER Ávila/I-PER ./O"]
    assert (opened["es"].skipped, opened["es"].encoding) == ({}, "utf-8")
    with pytest.raises(IndexError):
        opened["es"][2]
    assert plain(pickle.loads(pickle.dumps(opened["es"]))) == plain(opened["es"])


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n"), lambda text: "\n\n" + text[:-2]])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_encodings_line_ends_and_compression(tmp_path, change, suffix, encoding):
    path = write(tmp_path / f"esp.train{suffix}", change(SPANISH), encoding)
    opened = open_tagged(path)["es"]
    assert plain(opened) == ["Melbourne/B-LOC (/O", "José/B-PER Ávila/I-PER ./O"]
    assert opened.encoding == ("latin-1" if encoding == "latin-1" else "utf-8")


def test_bytes_that_are_line_ends_in_unicode_do_not_end_a_line(tmp_path):
    path = write(tmp_path / "a", "a\x85b\xe9 O\nc\xa0 B-PER\n\xa0 I-PER\n", "latin-1")
    record = open_tagged(path)["es"][0]
    assert record.fields["words"] == ("a\x85bé", "c\xa0", "\xa0")


def test_conll_2003_columns_with_document_marks_and_iob1(tmp_path):
    text = (
        "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\n\n"
        "Peter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n-DOCSTART- -X- O O\n"
        "Paris NNP I-NP I-LOC\nRome NNP I-NP B-LOC\n"
    )
    opened = open_tagged(write(tmp_path / "eng.train", text), languages=("en",))["en"]
    assert plain(opened) == [
        "EU/B-ORG rejects/O German/B-MISC",
        "Peter/B-PER Blackburn/I-PER",
        "Paris/B-LOC Rome/B-LOC",
    ]


@pytest.mark.parametrize(
    ("iob1", "iob2"),
    [
        ("I-PER I-PER O", "B-PER I-PER O"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-ORG B-ORG", "B-PER B-ORG B-ORG"),
        ("O I-LOC O I-LOC", "O B-LOC O B-LOC"),
        ("I-PER B-PER B-PER I-PER I-LOC", "B-PER B-PER B-PER I-PER B-LOC"),
    ],
)
def test_iob1_becomes_iob2_and_iob2_stays(tmp_path, iob1, iob2):
    assert tags_of(open_tagged(write(tmp_path / "one", column(iob1)))["es"]) == [iob2]
    assert tags_of(open_tagged(write(tmp_path / "two", column(iob2)))["es"]) == [iob2]


def test_a_chunk_may_go_on_over_the_end_of_a_sentence(tmp_path):
    # As in esp.train: ". B-LOC", a blank line, "San I-LOC".
    path = write(tmp_path / "one", column("O B-LOC", "I-LOC I-LOC O B-PER"))
    assert tags_of(open_tagged(path)["es"]) == ["O B-LOC", "B-LOC I-LOC O B-PER"]


def test_tab_separated_words_may_hold_spaces(tmp_path):
    path = write(tmp_path / "train-es.tsv", "New York\tB-LOC\n \nwas\tO\n")
    assert [record.fields["words"] for record in open_tagged(path)["es"]] == [("New York",), ("was",)]


def test_xtreme_test_files_have_no_tags_and_no_other_split_may(tmp_path):
    for split in ("test", "dev"):
        write(tmp_path / f"{split}-es.tsv", "a\nb\n\nc\n")
    records = list(open_tagged(tmp_path, "test")["es"])
    assert [record.fields["words"] for record in records] == [("a", "b"), ("c",)]
    assert all("tags" not in record.fields for record in records)
    with pytest.raises(DataError, match=r"dev-es.tsv: no tags; only the test split may have none"):
        open_tagged(tmp_path, "dev")


# Folders and paths

FILES = {
    "train": ("esp.train", "ned.train", "eng.train", "deu.train"),
    "dev": ("esp.testa", "ned.testa", "eng.testa", "deu.testa"),
    "test": ("esp.testb", "ned.testb", "eng.testb.gz", "deu.testb"),
}


@pytest.mark.parametrize("split", FILES)
def test_folder_of_the_shared_tasks(tmp_path, split):
    for name in FILES[split]:
        write(tmp_path / name, f"{name[:3]} O\n")
    opened = open_tagged(tmp_path, split, ("en", "es", "nl", "de"))
    assert {language: plain(part) for language, part in opened.items()} == {
        "en": ["eng/O"],
        "es": ["esp/O"],
        "nl": ["ned/O"],
        "de": ["deu/O"],
    }


@pytest.mark.parametrize(("split", "name"), [("train", "train.txt"), ("dev", "valid.txt"), ("test", "test.txt")])
def test_usual_copies_of_conll_2003_are_english(tmp_path, split, name):
    write(tmp_path / name, "a O\n")
    assert plain(open_tagged(tmp_path, split, ("en",))["en"]) == ["a/O"]
    with pytest.raises(DataError, match=r"no file of the .* split in 'es'; looked for: esp\."):
        open_tagged(tmp_path, split, ("es",))


def test_a_folder_or_file_per_language(tmp_path):
    write(tmp_path / "es" / "train.txt", "a O\n")
    write(tmp_path / "fr" / "train.txt", "b O\n")
    write(tmp_path / "mine.fr", "c O\n")
    for path in (tmp_path, tmp_path / "{language}", tmp_path / "{language}" / "train.txt"):
        assert [plain(part) for part in open_tagged(path, languages=("es", "fr")).values()] == [["a/O"], ["b/O"]]
    own = f"es={tmp_path}/es/train.txt,fr={tmp_path}/mine.fr"
    assert [plain(part) for part in open_tagged(own, languages=("fr", "es")).values()] == [["c/O"], ["a/O"]]
    with pytest.raises(DataError, match=re.escape("no path for 'nl'; there are paths for: es, fr")):
        open_tagged(own, languages=("nl",))


def test_one_file_is_not_several_languages(tmp_path):
    path = write(tmp_path / "all.txt", "a O\n")
    with pytest.raises(DataError, match=r"one file for es, nl; put \{language\} into its path"):
        open_tagged(path, languages=("es", "nl"))


def test_two_files_that_fit_are_refused(tmp_path):
    write(tmp_path / "esp.train", "a O\n")
    write(tmp_path / "esp.train.gz", "a O\n")
    with pytest.raises(DataError, match=r"several files .*: esp.train, esp.train.gz; name one"):
        open_tagged(tmp_path)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("de", r"German.*ECI Multilingual Text.*LDC94T5.*deu.train"),
        ("en", r"English.*Reuters.*NIST.*eng.train"),
        ("nl", r"ned.train.*conll2002"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_missing_download_is_named_with_its_place(tmp_path, language, said, there):
    folder = tmp_path / "conll"
    if there:
        write(folder / "esp.train", "a O\n")
    languages = ("es", language) if there else (language,)
    with pytest.raises(DataError, match=rf"(?s){folder}.*{said}.*into {folder}.*ner.train_languages") as error:
        open_tagged(folder, "train", languages, config_key="ner")
    assert there or "no such file or directory" in str(error.value)


# Bad lines

BAD = {
    "one column": ("a O\nb\n", 2, "one column", "no tag"),
    "unknown tag": ("a O\nb B-FOO\n", 2, "unknown tag", r"tag 'B-FOO' is not allowed; allowed are: O, B-PER, I-PER"),
    "no tag": ("a\tO\nb\t \n", 2, "one column", "no tag"),
    "lower case": ("a o\n", 1, "unknown tag", "tag 'o'"),
    "IOB1 behind IOB2": (
        "a B-PER\nb I-ORG\n",
        2,
        "impossible tags",
        "I-ORG begins a chunk as in IOB1, but B-PER .*IOB2",
    ),
    "IOB2 behind IOB1": (
        "a O\nb I-PER\nc O\nd B-PER\n",
        4,
        "impossible tags",
        "B-PER begins a chunk as in IOB2, but I-PER .*IOB1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_an_error_with_its_place_or_its_sentence_is_left_out(tmp_path, case):
    text, line, reason, said = BAD[case]
    good = "x B-LOC\ny I-LOC\n\n"
    path = write(tmp_path / "a.txt", good + text)
    line += good.count("\n")
    with pytest.raises(DataError, match=rf"a\.txt:{line}: .*{said}.*set config.x.bad_rows to \"skip\""):
        open_tagged(path, config_key="config.x")
    opened = open_tagged(path, bad_rows="skip")["es"]
    assert opened.skipped == {reason: 1}
    assert plain(opened)[0] == "x/B-LOC y/I-LOC"
    assert len(opened) == f"\n{good}{text}".count("\n\n")  # as many as there are, less the bad one


def test_a_file_without_a_good_sentence_says_why(tmp_path):
    path = write(tmp_path / "a", "a O\nb X\n")
    with pytest.raises(DataError, match=r"no good sentence in 'es': unknown tag 1; the first is .*a:2: tag 'X'"):
        open_tagged(path, bad_rows="skip")
    with pytest.raises(DataError, match=r"no good sentence in 'es': the file has none"):
        open_tagged(write(tmp_path / "b", "-DOCSTART- -X- O O\n\n"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "validation"}, "split 'validation' must be train, dev or test"),
        ({"bad_rows": "ignore"}, "bad_rows 'ignore' must be error or skip"),
        ({"languages": ()}, "no language is asked for"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(tmp_path, keys, message):
    with pytest.raises(DataError, match=message):
        open_tagged(tmp_path, **keys)


# TFDS


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """Data sets with the features of `conll2003` and `wikiann`, prepared by TFDS itself."""
    import tensorflow_datasets as tfds

    names = ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI")]
    words = tfds.features.Sequence(tfds.features.Text())
    classes = tfds.features.Sequence(tfds.features.ClassLabel(names=names))
    features = {
        "conll": ({"tokens": words, "pos": classes, "ner": classes}, "dev"),
        "wikiann": ({"tokens": words, "tags": classes, "langs": words}, "validation"),
    }

    def builder(name):
        keys, split = features[name]

        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(keys))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples()}

            def _generate_examples(self):
                own = {key: ["O"] for key in keys if key == "pos"} | {key: ["xx"] for key in keys if key == "langs"}
                tag = "ner" if "ner" in keys else "tags"
                yield 0, {"tokens": ["Ávila", "x", "y"], tag: ["B-LOC", "I-LOC", "O"]} | own
                yield 1, {"tokens": ["-DOCSTART-"], tag: ["O"]} | own
                yield 2, {"tokens": ["x", "y"], tag: ["B-LOC", "I-PER"]} | own

        return Tiny

    tfds.disable_progress_bar()
    found = {}
    for name in features:
        made = builder(name)(data_dir=str(tmp_path_factory.mktemp(name)), file_format="array_record")
        made.download_and_prepare()
        found[name] = str(made.data_dir)
    return found


@pytest.mark.parametrize("name", ["conll", "wikiann"])
def test_tfds_tokens_and_classes(tfds_directory, name):
    path = f"tfds:{tfds_directory[name]}"
    opened = open_tagged(path, "dev", bad_rows="skip")["es"]
    assert plain(opened) == ["Ávila/B-LOC x/I-LOC y/O"]
    assert opened.skipped == {"impossible tags": 1}
    with pytest.raises(DataError, match=rf"{re.escape(path)}: example \d, word 2: I-PER begins a chunk"):
        open_tagged(path, "dev")
    with pytest.raises(DataError, match=r"\(split 'test'\): cannot be opened"):
        open_tagged(path, "test")


def test_a_tfds_data_set_that_is_not_prepared_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"tfds:conll2002/es \(split 'train'\): cannot be opened"):
        open_tagged("tfds:conll2002/{language}")
