"""ArrayRecord files and data sets that TFDS prepared as sources of records."""

import pickle

import pytest

from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import Record
from tests.source_files import array_record, open_source, texts


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
