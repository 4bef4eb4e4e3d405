"""The public surface: load and save a run's model, encode, search, train; what it says where something is missing."""

import csv
import dataclasses
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax import version
from ernie_m_jax.convert import __main__ as cli
from ernie_m_jax.evaluation import retrieval
from ernie_m_jax.weights.tensors import ConversionError
from tests.conftest import small_tree
from tests.reference import assert_same
from tests.small_models import LANGUAGES, random_model

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ["the class name is not a valid name", "", "der Name fehlt", "the class name is not a valid name"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer_path):
    """A run of one step, and its summary."""
    workdir = tmp_path_factory.mktemp("run") / "mine"
    tree = small_tree(
        tokenizer__path=str(tokenizer_path),
        data__pair_positions="restarted",
        stages__one__steps=1,
        stages__one__warmup_steps=0,
        stages__one__weights={"mmlm": 1.0},
    )
    return workdir, ernie_m_jax.train(ConfigDict(tree), workdir)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(tokenizer)


@pytest.mark.slow
def test_a_config_trains_from_python_and_its_run_loads(trained, tokenizer):
    workdir, summary = trained
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert set(summary["objectives"]) == {"one"}
    model = ernie_m_jax.load(workdir)
    config, params, loaded = model
    assert (config, params, loaded) == (model.config, model.params, model.tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (model.languages, model.pair_positions, model.labels) == (LANGUAGES, "restarted", ())
    assert ernie_m_jax.load(workdir / "one").languages == LANGUAGES


@pytest.mark.slow
def test_train_takes_a_resolved_config_too_and_goes_on_where_the_run_stands(trained, tokenizer_path):
    workdir, summary = trained
    config = configs.resolve(json.loads((workdir / "config.json").read_text())["config"])
    assert ernie_m_jax.train(config, str(workdir)) == summary


@pytest.mark.slow
def test_what_training_decided_survives_conversion(trained, tmp_path):
    workdir, _ = trained
    ernie_m_jax.save(tmp_path / "saved", ernie_m_jax.load(workdir))
    assert cli.main(["--source", str(workdir), "--output", str(tmp_path / "first")]) == 0
    assert cli.main(["--source", str(tmp_path / "first"), "--output", str(tmp_path / "second")]) == 0
    for name in ("saved", "second"):
        model = ernie_m_jax.load(tmp_path / name)
        assert (model.languages, model.pair_positions) == (LANGUAGES, "restarted")
        assert_same(model.params, ernie_m_jax.load(workdir).params)
    arguments = ["--source", str(tmp_path / "first"), "--output", str(tmp_path / "without")]
    assert cli.main([*arguments, "--drop", "embeddings/language"]) == 0
    assert ernie_m_jax.load(tmp_path / "without").languages == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("languages", "en", r"config.languages must be a list, got 'en'"),
        ("languages", ["en", "de", "ru", "fr"], r"names 4 languages, but the language table has 3 rows"),
        ("data", {"pair_positions": "other"}, r"pair_positions is 'other'; allowed: continued, restarted"),
    ],
)
def test_facts_of_a_native_model_that_cannot_be_are_refused(key, value, message, model, tmp_path):
    ernie_m_jax.save(tmp_path / "native", model)
    path = tmp_path / "native" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ConversionError, match=message):
        ernie_m_jax.load(tmp_path / "native")


def test_a_whole_model_is_saved_and_the_parts_named_are_left_out(model, tmp_path):
    ernie_m_jax.save(tmp_path / "native", model)
    again = ernie_m_jax.load(tmp_path / "native")
    assert again.config == model.config
    assert again.languages == LANGUAGES
    assert_same(again.params, model.params)
    drop = ("embeddings/language", "mlm_head")
    with pytest.raises(
        ConversionError, match=r"(?s)has no place.*--drop embeddings/language mlm_head.*drop=\('embeddings/"
    ):
        ernie_m_jax.save(tmp_path / "x", model, to="huggingface")
    ernie_m_jax.save(tmp_path / "python", model, to="huggingface", drop=drop)
    arguments = ["--source", str(tmp_path / "native"), "--output", str(tmp_path / "cli"), "--to", "huggingface"]
    assert cli.main([*arguments, "--drop", *drop]) == 0
    python, command = (load_file(tmp_path / name / "model.safetensors") for name in ("python", "cli"))
    assert_same(python, command)
    for name in ("config.json", "vocab.txt", "tensors.sha256.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "drop", "error", "message"),
    [
        (
            (),
            ("pooler",),
            ConversionError,
            r"drop pooler: not a part that this model can do without; those are: mlm_head",
        ),
        ((), "mlm_head", ValueError, r"drop is the string 'mlm_head'; it must be a list"),
        (({"some": 1},), (), ValueError, r"a whole Model brings its own params and tokenizer"),
    ],
)
def test_save_says_what_it_cannot_do(arguments, drop, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        ernie_m_jax.save(tmp_path / "out", model, *arguments, drop=drop)
    with pytest.raises(ValueError, match="params"):
        ernie_m_jax.save(tmp_path / "out", model.config)
    assert not (tmp_path / "out").exists()


def test_encode_is_encode_texts_with_defaults(model, tokenizer):
    keys = {"layer": -1, "pooling": "mean", "max_length": 128, "batch_size": 32}
    expected = ernie_m_jax.encode_texts(model.encoder(), model.params, tokenizer, TEXTS, **keys)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    assert model.encode(TEXTS).dtype == np.float32
    keys |= {"layer": 1, "pooling": "max", "max_length": 5, "batch_size": 3}
    expected = ernie_m_jax.encode_texts(model.encoder(), model.params, tokenizer, TEXTS, **keys)
    np.testing.assert_allclose(model.encode(TEXTS, **keys), expected, atol=1e-5)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS, normalize=True, **keys), unit, atol=1e-5)
    assert model.encode([]).shape == model.encode([], normalize=True).shape == (0, 32)


def test_no_more_tokens_are_encoded_than_the_model_has_positions(tokenizer):
    short = random_model(tokenizer, max_positions=66)
    assert np.isfinite(short.encode([" ".join(TEXTS * 20)])).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"texts is one string; put it into a list: \['one text'\]"),
        (["a", None, 3], r"texts\[1\] is None; it must be a string"),
        ([b"a"], r"texts\[0\] is b'a'; it must be a string"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, message, model, tokenizer):
    keys = {"layer": -1, "pooling": "mean", "max_length": 16, "batch_size": 2}
    for run in (
        model.encode,
        lambda texts: ernie_m_jax.encode_texts(model.encoder(), model.params, tokenizer, texts, **keys),
        lambda texts: model.back_translate(texts, "en", "de"),
    ):
        with pytest.raises(ValueError, match=message):
            run(texts)
    with pytest.raises(ValueError, match=message.replace("texts", r"sentences\['de'\]", 1)):
        model.retrieve({"en": ["one"], "de": texts})


def test_retrieve_searches_and_writes_table_and_picture(model, tmp_path):
    sentences = {"en": ["the class name", "a file", "missing"], "de": ["der Klassenname", "eine Datei", "fehlt"]}
    result = model.retrieve(sentences, layer=1, pooling="cls")
    expected = retrieval.retrieval(lambda texts: model.encode(texts, layer=1, pooling="cls"), sentences)
    np.testing.assert_array_equal(result.matrix, expected.matrix)
    result.write(tmp_path / "out", "mine")
    rows = list(csv.reader((tmp_path / "out" / "mine.csv").read_text().splitlines()))
    assert rows[0] == ["query", "en", "de"]
    assert float(rows[1][2]) == pytest.approx(result.matrix[0, 1] / 100)
    assert (tmp_path / "out" / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.encode(["a"]),
        lambda model: model.fill_mask("a [MASK]", language="en"),
        lambda model: model.back_translate(["a"], "en", "de"),
        lambda model: model.retrieve({"en": ["a"], "de": ["b"]}),
    ],
    ids=["encode", "fill_mask", "back_translate", "retrieve"],
)
def test_a_model_without_a_tokenizer_says_so_and_what_to_do(use, model, tmp_path):
    ernie_m_jax.save(tmp_path / "bare", model.config, model.params)
    bare = dataclasses.replace(ernie_m_jax.load(tmp_path / "bare"), languages=LANGUAGES)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'bare'}: .*no tokenizer.*tokenizer=.*Tokenizer.load"):
        use(bare)


def test_the_version_is_pyprojects_in_a_checkout_and_else_the_installed_ones(tmp_path, monkeypatch):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ernie_m_jax.__version__ == stated
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 9.9")
    assert version.read(ROOT / "ernie_m_jax") == stated
    assert version.read(tmp_path / "site-packages") == "ernie_m_jax 9.9"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "1.0"\n')
    assert version.read(tmp_path / "ernie_m_jax") == "ernie_m_jax 9.9"


def test_the_public_names_are_there_and_the_version_imports_nothing_heavy():
    assert {"Model", "Tokenizer", "encode_texts", "load", "save", "train", "__version__"} <= set(dir(ernie_m_jax))
    code = (
        "import sys, ernie_m_jax; ernie_m_jax.__version__; dir(ernie_m_jax); print({'jax', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ernie_m_jax.lode  # noqa: B018


@pytest.mark.parametrize("config", [None, "configs/quickstart.py", 3])
def test_train_says_what_a_config_is(config, tmp_path):
    with pytest.raises(TypeError, match=r"it must be what a config file's get_config\(\) returns"):
        ernie_m_jax.train(config, tmp_path)


def test_a_url_that_nothing_opens_is_said_at_once(small_config):
    with pytest.raises(OSError, match=r"^nosuch://bucket/run: Protocol not known: nosuch"):
        ernie_m_jax.train(small_config(), "nosuch://bucket/run")
