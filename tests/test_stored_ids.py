"""Token ids stored once: the same batches as from text, and what is refused."""

import contextlib
import json

import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.config import ConfigError
from ernie_m_jax.data import loader, mixture, preparation_corpus, prepare, prepared
from ernie_m_jax.data.records import DataError
from ernie_m_jax.tokenizer import train
from tests.conftest import small_tree

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")
ALL = dict.fromkeys(OBJECTIVES, 1.0)


def config_with(folder=None, join=0, **keys):
    """The small config with all objectives, from the bundled text or from ids in a folder."""
    tree = small_tree(stages__one__weights=ALL, objectives__mmlm__join_to_characters=join, **keys)
    if folder is not None:
        tree["data"]["monolingual"] = tree["data"]["parallel"] = {"ids": base.source(str(folder)).to_dict()}
    return configs.resolve(tree)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tokenizer):
    """A folder of the small config's ids, with lines as they are and joined."""
    path = tmp_path_factory.mktemp("stored")
    tokenizer.save(path / "tokenizer")
    config = config_with(join=400, tokenizer__path=str(path / "tokenizer"))
    preparation_corpus.corpus(config, "small", str(path / "ids"))
    return path / "ids"


def opened(config, name, tokenizer):
    task = tasks.bind(config, name)
    return contextlib.closing(loader.Loader(task, tokenizer, task.records(mixture.Sources(config))))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


CASES = [("mmlm", 0), ("mmlm", 400), ("tlm", 0), ("camlm", 0), ("btmlm", 0)]


@pytest.mark.parametrize(("name", "join"), CASES)
def test_batches_from_ids_are_those_from_text_and_go_on_alike(name, join, stored, tokenizer):
    text, ids = config_with(join=join), config_with(stored, join=join)
    with opened(text, name, tokenizer) as one, opened(ids, name, tokenizer) as other:
        assert one.shares() == other.shares()
        for _ in range(12):
            assert_same(next(one), next(other))
        state = json.loads(json.dumps(other.state()))
        assert state == one.state()
        expected = [next(one) for _ in range(12)]
    with opened(ids, name, tokenizer) as other:
        other.restore(state)
        for batch in expected:
            assert_same(batch, next(other))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_records_behind_a_batch_are_shown_as_text(name, stored, tokenizer):
    with opened(config_with(stored), name, tokenizer) as source:
        (origin, *_), *_ = source.trace(source.state())
        with opened(config_with(), name, tokenizer) as other:
            (expected, *_), *_ = other.trace(other.state())
    assert (origin.entry, origin.index) == (expected.entry, expected.index)
    assert origin.record.texts == tuple(tokenizer.decode(tokenizer.encode_ids(text)) for text in expected.record.texts)


def test_the_same_text_makes_the_same_bytes_once(tmp_path, stored, capsys):
    config = config_with(join=400, tokenizer__path=str(stored.parent / "tokenizer"))
    preparation_corpus.corpus(config, "small", str(tmp_path / "ids"))
    for file in stored.iterdir():
        assert (tmp_path / "ids" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(DataError, match="prepared already"):
        preparation_corpus.corpus(config, "small", str(tmp_path / "ids"))
    manifest = prepared.verify(str(stored))
    assert sorted(manifest.files) == sorted(path.name for path in stored.glob("*.array_record"))
    assert {name.split("-")[1] for name in manifest.files if name.startswith("monolingual")} == {"0", "400"}
    assert all(file.tokens > file.records for file in manifest.files.values())


def test_what_a_killed_preparation_left_is_made_again(tmp_path, stored):
    folder = tmp_path / "ids"
    folder.mkdir()
    (folder / prepared.LOCK).touch()
    (folder / "parallel-en-de.array_record").write_bytes(b"half")
    with pytest.raises(DataError, match="did not finish; run it again"):
        mixture.Sources(config_with(folder)).parallel()
    config = config_with(join=400, tokenizer__path=str(stored.parent / "tokenizer"))
    preparation_corpus.corpus(config, "small", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in stored.iterdir())


def test_another_tokenizer_is_refused(tmp_path, stored, tokenizer):
    sources = mixture.Sources(config_with(stored))
    sources.parallel()
    sources.check_tokenizer(tokenizer.fingerprint)
    other = train(mixture.Sources(config_with()).texts(), 900, tmp_path)
    with pytest.raises(ConfigError, match=rf"the ids in {stored} are of the tokenizer {tokenizer.fingerprint[:12]}"):
        sources.check_tokenizer(other.fingerprint)


def test_ids_train_no_tokenizer(stored):
    with pytest.raises(ConfigError, match=r"config\.tokenizer\.path is empty, but .* holds ids and no text"):
        list(mixture.Sources(config_with(stored)).texts())


def test_another_join_is_refused(stored):
    with pytest.raises(DataError, match="prepared with join_to_characters 0, 400 in 'en', but an objective has 200"):
        mixture.Sources(config_with(stored)).monolingual(200)


def test_a_language_or_pair_that_was_not_prepared_is_refused(stored):
    tree = config_with(stored, languages=("en", "de", "fr"))
    with pytest.raises(DataError, match=r"no data in 'fr'; prepared are: monolingual-0-de, .*in `languages`"):
        mixture.Sources(tree).monolingual()
    with pytest.raises(DataError, match=r"no data in 'en-fr'; .*in `pairs`"):
        mixture.Sources(tree).parallel()


def test_ids_are_not_prepared_again_and_not_evaluated_on(tmp_path, stored):
    config = config_with(stored, tokenizer__path=str(stored.parent / "tokenizer"))
    with pytest.raises(ConfigError, match="ids that are stored already"):
        preparation_corpus.corpus(config, "small", str(tmp_path / "again"))
    heldout = mixture.Sources(config, where="evals.heldout")
    with pytest.raises(DataError, match="holds ids, and text is needed here"):
        heldout.parallel()


def test_the_command_says_what_the_config_needs(tmp_path, capsys):
    folder = str(tmp_path / "ids")
    prepare.main(["corpus", "--config=configs/quickstart.py:objectives=tlm", f"--output={folder}"])
    out = capsys.readouterr().out
    assert f"--config.data.parallel.diagnostics.path= --config.data.parallel.ids.path={folder}" in out
    assert f"--config.tokenizer.path={folder}/tokenizer" in out
    assert not list((tmp_path / "ids").glob("monolingual*"))
    with pytest.raises(SystemExit):
        prepare.main(["corpus", "--config=configs/quickstart.py", "--output", folder])
    assert "prepared already" in capsys.readouterr().err
