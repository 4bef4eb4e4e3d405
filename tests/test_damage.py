"""A work directory that was damaged, or left by a run that failed: what goes on, what is made again."""

import json
import os
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.checkpoint.checkpoints import CheckpointError
from ernie_m_jax.convert import native
from ernie_m_jax.evaluation import report
from ernie_m_jax.reporting import goodput
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import claim, loop, preemption, restore, run, stages
from tests.conftest import small_tree
from tests.test_saved_steps import flip, listing
from tests.test_train import lines

pytestmark = pytest.mark.slow  # a compilation of training steps per test

STAGES = {"stage2": (6, {"camlm": 1.0, "btmlm": 1.0}), "stage10": (2, {"btmlm": 1.0})}
RETRIEVAL = {
    "path": "corpus:diagnostics/dev",
    "format": "auto",
    "languages": (),
    "pairs": (),
    "columns": (),
    "split": "",
}


def tree(tokenizer_path, **keys):
    """Two stages whose names would stand the other way round if they were sorted as strings."""
    common = {"learning_rate": 1e-2, "warmup_steps": 1, "schedule": "linear", "final_fraction": 0.0}
    stages = {name: common | {"steps": steps, "weights": weights} for name, (steps, weights) in STAGES.items()}
    own = {"tokenizer__path": str(tokenizer_path), "stages": stages, "train__save_every": 2, "train__max_to_keep": 0}
    return small_tree(**(own | {"evals__retrieval__source": RETRIEVAL} | keys))


@pytest.fixture(scope="module")
def config(tokenizer_path):
    return configs.resolve(tree(tokenizer_path))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run that was never disturbed: steps 2, 4, 6 of stage2 and 2 of stage10."""
    workdir = tmp_path_factory.mktemp("finished")
    run.train(config, workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def undo_second_stage(workdir):
    """Leaves what a run has that was killed at the end of its first stage."""
    shutil.rmtree(workdir / "stage10")
    (workdir / "summary.json").unlink()


def undo_last_steps(workdir):
    """Leaves what a run has that was killed after step 4 of its first stage."""
    undo_second_stage(workdir)
    shutil.rmtree(workdir / "stage2" / "checkpoints" / "6")
    (workdir / "stage2" / "summary.json").unlink()


def arrays(config, workdir, name):
    made = run.make(config, workdir)
    stage = stages.make_stage(config, name, workdir / name)
    restored, streams, _ = stages.checkpoints(made, stage.directory).restore(None, stages.abstract_state(made, stage))
    return jax.tree.map(np.asarray, restored), streams


def summary_of(workdir):
    """The summary without what differs between two runs of one config."""
    numbers = json.loads((workdir / "summary.json").read_text())
    for values in (numbers, *numbers["stages"].values()):
        values.pop("tokens_per_second")
        values.pop("data_wait")
    del numbers["wall_seconds"], numbers["goodput"]
    return numbers


def assert_same(config, workdir, finished):
    for name in STAGES:
        assert lines(workdir, name) == lines(finished, name)
        (state, streams), (expected, expected_streams) = (arrays(config, path, name) for path in (workdir, finished))
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert streams == expected_streams
    assert summary_of(workdir) == summary_of(finished)


# Checkpoints.


def test_stages_run_in_the_order_of_their_numbers(config, finished):
    assert list(claim.stored_config_tree(finished)["stages"]) == ["stage2", "stage10"]
    assert list(summary_of(finished)["stages"]) == ["stage2", "stage10"]
    assert restore.find_stage(finished) == finished / "stage10"
    assert native.find(finished) == finished / "stage10"
    first = stages.make_stage(config, "stage2", finished / "stage2")
    made = run.make(config, finished)
    abstract = stages.abstract_state(made, first).params
    started = stages.initial_state(made, first, None).params
    ended = stages.checkpoints(made, finished / "stage2").restore_params(2, abstract)
    assert any(
        (one != other).any() for one, other in zip(jax.tree.leaves(started), jax.tree.leaves(ended), strict=True)
    )


def test_a_damaged_newest_checkpoint_does_not_block_the_run(config, workdir, finished, capsys):
    undo_last_steps(workdir)
    checkpoints = workdir / "stage2" / "checkpoints"
    flip(checkpoints / "4" / "meta.json")
    run.train(config, workdir)
    shown = capsys.readouterr().out
    assert "step 4 is damaged" in shown
    assert f"{checkpoints}/4/meta.json is damaged" in shown
    assert "going on from step 2" in shown
    assert listing(checkpoints) == ["2", "4", "4.damaged", "6"]
    assert_same(config, workdir, finished)


def test_the_stage_before_is_mended_before_the_next_one_starts(config, workdir, finished, capsys):
    undo_second_stage(workdir)
    checkpoints = workdir / "stage2" / "checkpoints"
    flip(checkpoints / "6" / "streams" / "btmlm-0.json")
    run.train(config, workdir)
    assert "step 6 is damaged" in capsys.readouterr().out
    assert listing(checkpoints) == ["2", "4", "6", "6.damaged"]
    assert_same(config, workdir, finished)


def test_without_a_good_checkpoint_nothing_starts_from_scratch(config, workdir):
    undo_last_steps(workdir)
    checkpoints = workdir / "stage2" / "checkpoints"
    for step in ("2", "4"):
        flip(checkpoints / step / "meta.json")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no good checkpoint.*step 4: .*step 2: "):
            run.train(config, workdir)
        assert listing(checkpoints) == ["2", "4"]


def test_a_reader_of_a_run_falls_back_too_and_renames_nothing(tokenizer_path, config, workdir, tmp_path, capsys):
    checkpoints = workdir / "stage2" / "checkpoints"
    (checkpoints / "6" / "state" / "stray").write_bytes(b"\xff")
    expected = native.read(workdir / "stage2", 4)
    undo_second_stage(workdir)
    made = run.make(config, workdir)
    params = restore.load_params(made, workdir)
    np.testing.assert_array_equal(params["embeddings"]["word"], expected["embeddings/word"])
    shown = capsys.readouterr().out
    assert "step 6 is damaged" in shown
    assert f"parameters of step 4 in {workdir / 'stage2'}" in shown
    read = native.read(native.find(workdir))
    np.testing.assert_array_equal(read["embeddings/word"], expected["embeddings/word"])
    assert "step 6 is damaged" in capsys.readouterr().out
    keys = {"init__resume": str(workdir), "stages__stage2__steps": 5, "evals__retrieval__source__path": ""}
    stages = {"stage2": tree(tokenizer_path)["stages"]["stage2"]}
    run.train(configs.resolve(tree(tokenizer_path, stages=stages, **keys)), tmp_path / "other")
    assert f"going on from step 4 of init.resume {workdir}" in capsys.readouterr().out
    assert listing(checkpoints) == ["2", "4", "6"]


# The other files.


def test_a_damaged_line_of_the_metrics_does_not_block_the_run(config, workdir, capsys):
    undo_last_steps(workdir)
    path = workdir / "stage2" / "metrics.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([content[0], b'{"step": 1, \xff}\n', *content[2:]]))
    damaged = path.read_bytes()
    run.train(config, workdir)
    assert f"{path}, line 2" in capsys.readouterr().out
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == damaged
    assert path.read_bytes().splitlines()[0] == content[0].rstrip()


def test_damaged_metrics_of_a_finished_stage_do_not_block_its_summary(config, workdir, capsys):
    path = workdir / "stage2" / "metrics.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    torn = b'{"step": 5, "obj'
    path.write_bytes(b"".join([b"{}\n", *content[1:-1], torn]))
    for summary in (workdir / "summary.json", workdir / "stage2" / "summary.json"):
        summary.unlink()
    run.train(config, workdir)
    assert f"{path}, line 1" in capsys.readouterr().out
    assert path.read_bytes() == b"".join(content[1:])  # the last was the evaluation's, which was made again
    path.unlink()
    for summary in (workdir / "summary.json", workdir / "stage2" / "summary.json"):
        summary.unlink()
    assert run.train(config, workdir)["objectives"]["stage2"] == {}


@pytest.mark.parametrize("content", [b'{"evals": {', b"\xff", b"[1]", b""])
def test_a_damaged_summary_of_the_run_is_made_again(content, config, workdir, finished, capsys):
    (workdir / "summary.json").write_bytes(content)
    run.train(config, workdir)
    assert f"{workdir / 'summary.json'} is damaged" in capsys.readouterr().out
    assert summary_of(workdir) == summary_of(finished)


def test_damaged_numbers_of_a_stage_are_made_again(config, workdir, finished, capsys):
    (workdir / "summary.json").unlink()
    (workdir / "stage2" / "summary.json").write_text('{"steps": 6}')
    (workdir / "stage2" / "start.json").write_text("{")
    run.train(config, workdir)
    shown = capsys.readouterr().out
    assert f"{workdir / 'stage2' / 'summary.json'} is damaged" in shown
    assert f"{workdir / 'stage2' / 'start.json'} is damaged" in shown
    assert summary_of(workdir) == summary_of(finished)


@pytest.mark.parametrize(
    "content",
    ['{"config": 3}', "[]", "3", "null", "{}", "{", '{"config": []}', '{"config": {}}', '{"config": {"model": 3}}'],
)
def test_a_damaged_config_is_one_line(content, config, workdir):
    (workdir / "config.json").write_text(content)
    for check in (
        lambda: config_files.stored_config_tree(workdir),
        lambda: config_files.from_workdir(workdir, training=False),
        lambda: run.train(config, workdir),
    ):
        with pytest.raises(configs.ConfigError, match=r"config\.json is damaged") as caught:
            check()
        assert "\n" not in str(caught.value)


# Time.


def test_the_time_of_a_run_is_that_of_all_its_parts(tokenizer_path, tmp_path, monkeypatch, capsys):
    config = configs.resolve(tree(tokenizer_path, evals__retrieval__source__path=""))

    def slow_then_dead(self, step):
        if step == 3:
            time.sleep(3)  # before the save at step 4
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "due", slow_then_dead)
        with pytest.raises(KeyboardInterrupt):
            run.train(config, tmp_path)
    began = time.perf_counter()
    first = run.train(config, tmp_path)["wall_seconds"]
    assert first > time.perf_counter() - began + 2.5
    assert run.train(config, tmp_path)["wall_seconds"] == first
    assert "is complete" in capsys.readouterr().out.splitlines()[-1]


# What a report and a summary are of.


def test_a_report_of_the_middle_is_made_again_when_the_run_is_complete(config, workdir):
    page, done = workdir / "report.html", workdir / "summary.json"
    whole = page.read_text()
    page.write_text("of the middle")
    os.utime(page, (done.stat().st_mtime - 1,) * 2)
    run.train(config, workdir)
    assert page.read_text().count("<svg") == whole.count("<svg") > 0
    before = page.stat().st_mtime_ns
    run.train(config, workdir)
    assert page.stat().st_mtime_ns == before


def test_a_run_that_goes_on_is_not_finished(config, workdir, monkeypatch):
    shutil.rmtree(workdir / "stage10" / "checkpoints" / "2")
    fail_in(monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        run.train(config, workdir)
    assert not (workdir / "summary.json").exists()
    assert not (workdir / "stage10" / "summary.json").exists()
    assert "stage done, run not finished: stage2, 6 of 6 steps" in report.write(workdir).read_text()


# What a failed start leaves.


def fail_in(monkeypatch, message="no space left"):
    def fail(*_):
        raise OSError(message)

    monkeypatch.setattr(loop, "train_stage", fail)


def test_a_start_that_failed_refuses_no_mended_config(tmp_path, monkeypatch, capsys):
    fail_in(monkeypatch)
    keys = {"evals__retrieval__source__path": "", "model__vocab_size": 900}

    def begin(**changed):
        with pytest.raises(OSError, match="no space left"):
            run.train(configs.resolve(tree("", **(keys | changed))), tmp_path)
        return capsys.readouterr().out

    assert "training a tokenizer of 900 entries" in begin()
    first = Tokenizer.load(tmp_path / "tokenizer").fingerprint
    (tmp_path / "stage2" / "checkpoints" / "3").mkdir(parents=True)  # a save that was cut short
    assert "training a tokenizer" not in begin(optimizer__b1=0.8, model__num_layers=1)
    assert Tokenizer.load(tmp_path / "tokenizer").fingerprint == first
    shown = begin(languages=("en", "de"))
    assert "trained with other settings" in shown
    assert "training a tokenizer of 900 entries" in shown
    assert Tokenizer.load(tmp_path / "tokenizer").fingerprint != first
    assert "training a tokenizer of 800 entries" in begin(languages=("en", "de"), model__vocab_size=800)
    assert Tokenizer.load(tmp_path / "tokenizer").vocab_size == 800


def test_the_numbers_of_a_failed_start_are_not_those_of_the_next(tokenizer_path, tmp_path):
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "start.json").write_text("99.0")
    (tmp_path / "summary.json").write_text('{"wall_seconds": 9, "stages": {}, "objectives": {}}')
    seconds = dict.fromkeys(goodput.CAUSES, 1e6)
    account = {"starts": 3, "earlier": seconds, "before": None, "part": {"seconds": seconds, "marks": []}}
    (tmp_path / "goodput.json").write_text(json.dumps(account))
    keys = {"evals__retrieval__source__path": "", "stages__stage2__steps": 1, "stages__stage10__steps": 1}
    numbers = run.train(configs.resolve(tree(tokenizer_path, **keys)), tmp_path)
    assert numbers["evals"] == {}
    assert numbers["wall_seconds"] < 1000
    assert json.loads((tmp_path / "summary.json").read_text())["stages"].keys() == STAGES.keys()
