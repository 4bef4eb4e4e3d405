"""Single files behind URLs: tokenizers, data, vectors; and what is said where a store does not answer."""

import gzip
import os
import pathlib
import sys

import fsspec
import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax import atomic, mirrors, stores
from ernie_m_jax import config as configs
from ernie_m_jax.convert import __main__ as convert
from ernie_m_jax.data import array_records, prepare, prepared
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.data.records import open_source
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.tokenizer import training as tokenizer_command
from ernie_m_jax.weights.tensors import ConversionError
from tests import memory_store
from tests.small_models import random_model

cache, url = memory_store.cache, memory_store.url


def names(url):
    files, path = fsspec.core.url_to_fs(url)
    return sorted(name.removeprefix(f"{path}/") for name in files.find(path))


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("s3://bucket/run", True),
        ("zip://text.txt::s3://bucket/text.zip", True),
        ("simplecache::s3://bucket/text.txt", True),
        ("tfds:gs://bucket/dataset", False),
        ("en=s3://bucket/en.txt,es=s3://bucket/es.txt", False),
        ("corpus:udhr", False),
        ("runs/s3://", False),
        (pathlib.Path("/runs"), False),
    ],
)
def test_what_a_url_is(path, is_one):
    assert stores.is_url(path) == is_one
    assert is_one or not prepared.is_prepared(str(path))


def test_a_file_is_put_whole_or_not_at_all(url):
    atomic.write(f"{url}/a", b"one")
    with pytest.raises(RuntimeError, match="in the middle"), atomic.replacing(f"{url}/a") as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError("in the middle")
    assert stores.read(f"{url}/a") == b"one"
    with atomic.replacing(f"{url}/a") as file:
        file.write(b"two")
    assert stores.read(f"{url}/a") == b"two"
    assert names(url) == ["a"]


def test_a_file_is_downloaded_once_for_each_version(url, monkeypatch):
    atomic.write(f"{url}/words.txt", b"one\n")
    first = stores.local(f"{url}/words.txt")
    assert os.path.basename(first) == "words.txt"
    monkeypatch.setattr(type(stores.opened(url)[0]), "get_file", None)
    assert stores.local(f"{url}/words.txt") == first
    monkeypatch.undo()
    atomic.write(f"{url}/words.txt", b"two\n")
    second = stores.local(f"{url}/words.txt")
    assert [pathlib.Path(path).read_bytes() for path in (first, second)] == [b"one\n", b"two\n"]


def test_a_download_that_was_cut_short_is_an_error_and_is_not_kept(url, monkeypatch):
    atomic.write(f"{url}/words.txt", b"one\n")
    files = type(stores.opened(url)[0])
    monkeypatch.setattr(files, "get_file", lambda self, path, local: pathlib.Path(local).write_bytes(b"o"))
    with pytest.raises(stores.StoreError, match=r"words\.txt: 1 bytes were read, but it has 4"):
        stores.local(f"{url}/words.txt")
    monkeypatch.undo()
    assert pathlib.Path(stores.local(f"{url}/words.txt")).read_bytes() == b"one\n"


def test_a_tokenizer(tokenizer, url):
    tokenizer.save(f"{url}/tokenizer")
    assert names(url) == ["tokenizer/sentencepiece.bpe.model", "tokenizer/vocab.txt"]
    loaded = Tokenizer.load(f"{url}/tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint
    with pytest.raises(FileNotFoundError, match=f"^{url}/none/sentencepiece.bpe.model: no such file"):
        Tokenizer.load(f"{url}/none")


def test_a_tokenizer_is_trained_from_and_to_urls(url, capsys):
    text = "".join(f"line {number} of a text with some words in it, {number * 7}\n" for number in range(300))
    atomic.write(f"{url}/text.txt", text.encode())
    given = ["train", "--input", f"{url}/text.txt", "--vocab_size", "50", "--output", f"{url}/tokenizer"]
    assert tokenizer_command.main(given) == 0, capsys.readouterr().err
    assert Tokenizer.load(f"{url}/tokenizer").vocab_size == 50


def source(path):
    return configs.SourceConfig(path, "auto", (), (), (), "train")


def test_text_and_pairs_and_array_records(url):
    atomic.write(f"{url}/en.txt", b"one\ntwo\n")
    atomic.write(f"{url}/de.txt.gz", gzip.compress(b"eins\nzwei\n"))
    texts = open_source("x", source(f"{url}/{{language}}.txt"), ("en",), "monolingual")["en"]
    assert [texts[place].texts for place in range(2)] == [("one",), ("two",)]
    texts = open_source("x", source(f"{url}/{{language}}.txt.gz"), ("de",), "monolingual")["de"]
    assert texts[1].texts == ("zwei",)
    for language, words in {"en": b"one\n", "de": b"eins\n"}.items():
        atomic.write(f"{url}/OPUS.de-en.{language}", words)  # named the other way round
    pairs = open_source("x", source(f"{url}/OPUS.{{pair}}.{{language}}"), ("en", "de"), "parallel")["en-de"]
    assert pairs[0].texts == ("one", "eins")
    array_records.write(f"{url}/en-de.array_record", array_records.text_lines(pairs))
    again = open_source("x", source(f"{url}/{{pair}}.array_record"), ("en", "de"), "parallel")["en-de"]
    assert again[0].texts == ("one", "eins")
    with pytest.raises(DataError, match=f"{url}/fr.txt: no such file"):
        open_source("x", source(f"{url}/{{language}}.txt"), ("fr",), "monolingual")


@pytest.fixture
def prepared_url(url, tmp_path, capsys):
    rows = "".join(f"{number % 2}\tone {number}\ttwo {number}\n" for number in range(8))
    (tmp_path / "rows.tsv").write_text("label\tsentence1\tsentence2\n" + rows)
    given = ["pawsx", "--source", str(tmp_path / "rows.tsv"), "--output", f"{url}/prepared", "--languages", "en"]
    prepare.main([*given, "--splits", "test"])
    assert f"--config.objectives.pawsx.test={url}/prepared" in capsys.readouterr().out
    return f"{url}/prepared"


def test_a_prepared_folder(prepared_url, url, capsys):
    assert names(url) == ["prepared/manifest.json", "prepared/test-en.array_record"]
    assert prepared.is_prepared(prepared_url)
    assert not prepared.is_prepared(url)
    labels = prepared.manifest(prepared_url).labels
    records = prepared.open_split(prepared_url, "pawsx", "test", ["en"], labels)["en"]
    assert records[3].texts == ("one 3", "two 3")
    prepare.main(["verify", prepared_url])
    assert "8 records" in capsys.readouterr().out
    with pytest.raises(DataError, match="prepared already"):
        prepared.check_free(prepared_url)


def test_a_damaged_object_of_a_prepared_folder_is_found_by_its_digest(prepared_url):
    name = f"{prepared_url}/test-en.array_record"
    content = bytearray(stores.read(name))
    content[-1] ^= 1
    stores.write(name, bytes(content))
    labels = prepared.manifest(prepared_url).labels
    with pytest.raises(DataError, match=r"test-en\.array_record: its SHA-256 is not the manifest's"):
        prepared.open_split(prepared_url, "pawsx", "test", ["en"], labels)
    with pytest.raises(SystemExit):
        prepare.main(["verify", prepared_url])


@pytest.mark.parametrize("to", ["native", "huggingface"])
def test_a_model_is_saved_loaded_and_converted(to, tokenizer, url, capsys):
    model = random_model(tokenizer, language_embedding="none", mlm_head="none")
    ernie_m_jax.save(f"{url}/model", model, to=to)
    assert "model/config.json" in names(url)
    again = ernie_m_jax.load(f"{url}/model")
    np.testing.assert_array_equal(again.encode(["unexpected end"]), model.encode(["unexpected end"]))
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    with pytest.raises(ConversionError, match=f"{url}/model: is there already and not empty"):
        ernie_m_jax.save(f"{url}/model", model)
    assert convert.main(["--source", f"{url}/model", "--output", f"{url}/other", "--to", "native"]) == 0
    other = ernie_m_jax.load(f"{url}/other")
    np.testing.assert_array_equal(other.encode(["unexpected end"]), model.encode(["unexpected end"]))
    with pytest.raises(ConversionError, match=f"{url}/none': no such file or folder"):
        ernie_m_jax.load(f"{url}/none")


def test_a_damaged_object_of_a_model_is_an_error_that_names_the_url(tokenizer, url):
    ernie_m_jax.save(f"{url}/model", random_model(tokenizer))
    name = next(name for name in names(url) if name.endswith("meta.json"))
    stores.write(f"{url}/{name}", stores.read(f"{url}/{name}") + b" ")
    with pytest.raises(Exception, match=f"{url}/model/checkpoints has no good checkpoint: .*{url}/{name} is damaged"):
        ernie_m_jax.load(f"{url}/model")


def test_a_models_one_file(tokenizer, url, tmp_path):
    model = random_model(tokenizer, language_embedding="none", mlm_head="none")
    ernie_m_jax.save(tmp_path / "model", model, to="huggingface")
    for path in (tmp_path / "model").iterdir():
        atomic.write(f"{url}/{path.name}", path.read_bytes())
    stores.write(f"{url}/other.bin", b"large and not asked for")
    again = ernie_m_jax.load(f"{url}/model.safetensors")
    np.testing.assert_array_equal(again.encode(["unexpected end"]), model.encode(["unexpected end"]))


def test_a_scheme_that_nothing_knows():
    with pytest.raises(stores.StoreError, match=r"^nosuch://bucket/run: Protocol not known: nosuch"):
        stores.read("nosuch://bucket/run")


@pytest.mark.parametrize(("scheme", "library", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_library_that_is_not_installed(scheme, library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})  # `fsspec.registry` is the mapping in it
    with pytest.raises(stores.StoreError, match=rf'needs a library.*pip install "ernie_m_jax\[{extra}\]"') as caught:
        stores.read(f"{scheme}://bucket/run")
    assert "\n" not in str(caught.value)
    with pytest.raises(stores.StoreError, match=library), mirrors.mirrored(f"{scheme}://bucket/run"):
        pass


def test_a_data_file_of_a_store_that_does_not_answer(url, monkeypatch):
    atomic.write(f"{url}/en.txt", b"one\n")

    def fail(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(stores.opened(url)[0]), "get_file", fail)
    with pytest.raises(DataError, match=r"en\.txt: cannot be read: .*PermissionError: Access Denied"):
        open_source("x", source(f"{url}/{{language}}.txt"), ("en",), "monolingual")
