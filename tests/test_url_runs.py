"""Runs whose work directory, tokenizer and data are behind URLs: killed, resumed, and used."""

import json
import time
import uuid

import fsspec
import jax
import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax import mirrors, stores
from ernie_m_jax.checkpoint.checkpoints import CheckpointError
from ernie_m_jax.data import records
from ernie_m_jax.reporting import metrics
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import preemption, run, stages
from tests.test_train import tree


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def at_urls(config, url, tokenizer_path):
    """The config with its tokenizer and its text in the store too."""
    Tokenizer.load(tokenizer_path).save(f"{url}/tokenizer")
    config["tokenizer"]["path"] = f"{url}/tokenizer"
    for kind, name in (("monolingual", "mono"), ("parallel", "pairs")):
        stores.put(records._resolve(f"corpus:diagnostics/{name}"), f"{url}/{name}.tsv.gz")
        config["data"][kind]["diagnostics"]["path"] = f"{url}/{name}.tsv.gz"
    return config


def left(config, workdir):
    """What a run leaves: its metrics without their timing, and every array of its last checkpoint."""
    lines = [json.loads(line) for line in (workdir / "one" / metrics.FILE).read_text().splitlines()]
    made = run.make(config, workdir)
    stage = stages.make_stage(config, "one", workdir / "one")
    saved = stages.checkpoints(made, stage.directory)
    state, streams, _ = saved.restore(None, stages.abstract_state(made, stage))
    lines = [{key: value for key, value in line.items() if key != "timing"} for line in lines]
    return lines, jax.tree.map(np.asarray, state), streams, saved.steps()


def assert_same(one, other):
    assert one[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])
    assert one[2:] == other[2:]


def small(tokenizer_path):
    """One objective, so one program to compile."""
    found = tree(tokenizer_path, train__save_every=2)
    found["stages"]["one"] |= {"weights": {"camlm": 1.0}, "steps": 5}
    return found


def die_at(patch, at, after):
    """The process is gone before step `at` is dispatched, when an object is there: nothing is put any more."""

    def die(self, step):
        if step == at:
            for _ in range(600):
                if stores.exists(after):
                    break
                time.sleep(0.1)
            patch.setattr(mirrors.Mirror, "push", lambda self: None)
            raise KeyboardInterrupt

    patch.setattr(preemption.StopRequest, "due", die)


def lose_manifests(patch):
    """Every upload is killed before its manifest."""
    put = mirrors.Mirror._put

    def without(self, names):
        names = list(names)
        if any("/checkpoints/" in name and name.endswith("manifest.json") for name in names):
            raise OSError("killed")
        put(self, names)

    patch.setattr(mirrors.Mirror, "_put", without)


@pytest.mark.slow
def test_a_run_on_urls_killed_and_resumed_ends_like_a_local_one(tokenizer_path, tmp_path, capsys):
    config = configs.resolve(small(tokenizer_path))
    run.train(config, tmp_path / "local")
    expected = left(config, tmp_path / "local")
    url = f"memory://{uuid.uuid4().hex}"
    config = configs.resolve(at_urls(small(tokenizer_path), url, tokenizer_path))
    with pytest.MonkeyPatch.context() as patch:  # in the upload of the first save
        lose_manifests(patch)
        with pytest.raises(CheckpointError, match="step 2 is saved, but bringing the store up to date"):
            ernie_m_jax.train(config, f"{url}/run")
    names = {name.partition("/run/")[2] for name in fsspec.core.url_to_fs(url)[0].find(f"{url}/run")}
    assert {"config.json", "one/metrics.jsonl", "one/checkpoints/2/meta.json"} <= names
    assert not [name for name in names if name.endswith("manifest.json")]
    with pytest.MonkeyPatch.context() as patch:  # in a step after a save that was put there whole
        die_at(patch, 4, f"{url}/run/one/checkpoints/2/manifest.json")
        with pytest.raises(KeyboardInterrupt):
            ernie_m_jax.train(config, f"{url}/run")
    assert "one: starting from scratch" in capsys.readouterr().out
    summary = ernie_m_jax.train(config, f"{url}/run")
    shown = capsys.readouterr().out
    assert f"one: going on from step 2 of {url}/run/one" in shown
    with mirrors.mirrored(f"{url}/run") as place:
        assert_same(left(config, place), expected)
    assert json.loads(stores.read(f"{url}/run/summary.json"))["stages"]["one"]["steps"] == 5
    assert ernie_m_jax.train(config, f"{url}/run")["objectives"] == summary["objectives"]
    assert f"{url}/run is complete" in capsys.readouterr().out
    model, local = ernie_m_jax.load(f"{url}/run"), ernie_m_jax.load(tmp_path / "local")
    np.testing.assert_array_equal(model.encode(["unexpected end"]), local.encode(["unexpected end"]))
    assert ernie_m_jax.load(f"{url}/run/one").languages == local.languages
    # Other runs start from it.
    others = {"resume": "one: going on from step 5 of init.resume", "params": "one: starting from the parameters of"}
    for key, says in others.items():
        capsys.readouterr()
        other = small(tokenizer_path)
        other["init"][key] = f"{url}/run"
        other["stages"]["one"]["steps"] = 6
        run.train(configs.resolve(other), tmp_path / key)
        assert f"{says} {url}/run" in capsys.readouterr().out
