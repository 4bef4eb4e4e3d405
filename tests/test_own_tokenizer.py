"""The tokenizer of a run: the user's own, a copy of a given one, and what may not replace or stand for it."""

import pathlib
import shutil

import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.data import mixture
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import claim, own_tokenizer, run
from tests.conftest import small_tree


def tree(tokenizer_path, **keys):
    return small_tree(**{"tokenizer__path": str(tokenizer_path), **keys})


def test_a_tokenizer_that_the_user_put_there_is_used(tokenizer_path, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    for name in ("sentencepiece.bpe.model", "vocab.txt"):
        (tmp_path / "tokenizer" / name).write_bytes(pathlib.Path(tokenizer_path, name).read_bytes())
    config = configs.resolve(tree(tokenizer_path, tokenizer__path=""))
    claim.claim(config, tmp_path)
    loaded = own_tokenizer.open_tokenizer(config, tmp_path, mixture.Sources(config))
    assert loaded.fingerprint == Tokenizer.load(tokenizer_path).fingerprint
    assert not list(tmp_path.glob("tokenizer.*"))


def begun(workdir):
    """Makes it look as if a checkpoint were there."""
    step = workdir / "one" / "checkpoints" / "1"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    assert claim.is_begun(workdir)


def other_tokenizer(folder, tokenizer_path):
    """Another one with as many words."""
    shutil.copytree(tokenizer_path, folder, dirs_exist_ok=True)
    words = (folder / "vocab.txt").read_text().splitlines()
    words[10], words[11] = words[11], words[10]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


@pytest.mark.parametrize("style", ["ernie", "xlm-roberta"])
def test_a_work_directory_keeps_the_tokenizer_that_it_was_given(style, tokenizer_path, tmp_path, capsys):
    given, workdir = tmp_path / "given", tmp_path / "run"
    shutil.copytree(tokenizer_path, given)
    (workdir / "tokenizer").mkdir(parents=True)
    (workdir / "tokenizer" / "vocab.txt").write_text("another's, half written\n")
    (workdir / "tokenizer" / "sentencepiece.bpe.model").symlink_to("nowhere")
    size = Tokenizer.load(given, style).vocab_size
    config = configs.resolve(tree(given, tokenizer__style=style, model__vocab_size=size))
    claim.claim(config, workdir)
    for _ in range(2):
        loaded = own_tokenizer.open_tokenizer(config, workdir, mixture.Sources(config))
    assert [path.name for path in sorted(workdir.glob("tokenizer*"))] == ["tokenizer", "tokenizer.replaced"]
    assert capsys.readouterr().out.count("is kept as") == 1
    begun(workdir)
    shutil.rmtree(given)
    moved = workdir.rename(tmp_path / "moved")
    for sources in (None, mixture.Sources(config)):
        assert own_tokenizer.open_tokenizer(config, moved, sources).fingerprint == loaded.fingerprint
        assert f"no tokenizer in {given} any more" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(FileNotFoundError, match=f"{given}"):
        own_tokenizer.open_tokenizer(config, tmp_path / "elsewhere", None)
    without = configs.resolve(tree("", tokenizer__style=style, model__vocab_size=size))
    for sources in (None, mixture.Sources(without)):  # nor is it trained again
        assert own_tokenizer.open_tokenizer(without, moved, sources).fingerprint == loaded.fingerprint


def test_a_changed_tokenizer_does_not_replace_the_copy_of_a_begun_run(tokenizer_path, tmp_path):
    given, workdir = tmp_path / "given", tmp_path / "run"
    shutil.copytree(tokenizer_path, given)
    config = configs.resolve(tree(given))
    claim.claim(config, workdir)
    before = own_tokenizer.open_tokenizer(config, workdir, mixture.Sources(config)).fingerprint
    begun(workdir)
    other_tokenizer(given, tokenizer_path)
    assert own_tokenizer.open_tokenizer(config, workdir, mixture.Sources(config)).fingerprint != before
    assert Tokenizer.load(workdir / "tokenizer").fingerprint == before
    assert not list(workdir.glob("tokenizer.*"))


def test_a_tokenizer_that_is_not_there_is_named_whatever_an_earlier_start_left(tokenizer_path, tmp_path):
    shutil.copytree(tokenizer_path, tmp_path / "run" / "tokenizer")
    config = configs.resolve(tree(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match="typo"):
        own_tokenizer.open_tokenizer(config, tmp_path / "run", mixture.Sources(config))


@pytest.mark.slow
def test_a_work_directory_of_another_tokenizer_is_refused(tokenizer_path, tmp_path):
    config = configs.resolve(
        tree(tokenizer_path, stages__one__steps=1, stages__one__warmup_steps=0, stages__one__weights={"mmlm": 1.0})
    )
    run.train(config, tmp_path / "run")
    copy = tmp_path / "tokenizer"
    other_tokenizer(copy, tokenizer_path)
    other = configs.resolve(tree(copy, init__params=str(tmp_path / "run")))
    with pytest.raises(Exception, match=r"was written with tokenizer .* config\.tokenizer\.path must name"):
        run.train(other, tmp_path / "other")
