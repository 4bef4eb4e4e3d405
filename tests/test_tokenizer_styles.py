"""Choosing a tokenizer's style and language: in Python, in the config, on the command line."""

import subprocess
import sys

import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.tokenizer import STYLES, Tokenizer
from tests.conftest import small_tree
from tests.golden_tokenizers import FIXTURE, copy, load


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="must be one of ernie, huggingface, xlm-roberta, bert, xlm"):
        Tokenizer.load(FIXTURE / "bert", "mbert")


def test_xlm_has_no_offsets_and_takes_a_language():
    tokenizer = load("xlm")
    with pytest.raises(ValueError, match="style 'xlm' has no offsets"):
        tokenizer.encode("some text")
    german = Tokenizer.load(FIXTURE / "xlm", "xlm", language="de")
    assert (tokenizer.language, german.language) == ("en", "de")
    assert german.fingerprint != tokenizer.fingerprint
    for language in ("zh", "ja", "th"):
        with pytest.raises(ValueError, match=f"language '{language}': XLM cuts it with "):
            Tokenizer.load(FIXTURE / "xlm", "xlm", language)
    with pytest.raises(ValueError, match="language 'en': style 'bert' is the same in all"):
        Tokenizer.load(FIXTURE / "bert", "bert", "en")


def test_xlm_keeps_to_the_languages_of_its_files(tmp_path):
    copy("xlm", tmp_path, tokenizer_config__json='{"lang2id": {"en": 0, "fr": 1}}')
    assert Tokenizer.load(tmp_path, "xlm", "fr").language == "fr"
    with pytest.raises(ValueError, match=r"language 'sw': tokenizer_config\.json has only en, fr"):
        Tokenizer.load(tmp_path, "xlm", "sw")


def test_xlm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ValueError, match=r"pip install 'ernie_m_jax\[baselines\]'"):
        Tokenizer.load(FIXTURE / "xlm", "xlm")


def test_importing_the_tokenizer_loads_no_library_of_a_style():
    code = (
        "import sys, ernie_m_jax.tokenizer; "
        "print(sorted({'sentencepiece', 'tokenizers', 'sacremoses', 'jax', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("style", STYLES)
def test_the_config_knows_every_style(style):
    tree = small_tree(tokenizer__style=style, tokenizer__path="somewhere")
    assert configs.resolve(tree, training=False).tokenizer.style == style
    if style in ("bert", "xlm"):
        with pytest.raises(configs.ConfigError, match=rf"tokenizer\.style '{style}' is for fine-tuning and using"):
            configs.resolve(tree)


@pytest.mark.parametrize("style", ["bert", "xlm"])
def test_a_run_trains_no_tokenizer_of_the_other_kinds(style):
    with pytest.raises(
        configs.ConfigError, match=rf"style is '{style}', which no run trains: set config\.tokenizer\.path"
    ):
        configs.resolve(small_tree(tokenizer__style=style, tokenizer__path=""))


def test_command_line_takes_every_style():
    command = [
        sys.executable,
        "-m",
        "ernie_m_jax.tokenizer",
        "encode",
        "--tokenizer",
        FIXTURE / "xlm",
        "--style",
        "xlm",
    ]
    done = subprocess.run(
        [*command, "--language", "fr", "l'homme"], capture_output=True, text=True, check=True, timeout=60
    )
    ids = [int(field) for field in done.stdout.split()]
    assert ids == Tokenizer.load(FIXTURE / "xlm", "xlm", "fr").encode_single("l'homme")
    assert ids != load("xlm").encode_single("l'homme")
