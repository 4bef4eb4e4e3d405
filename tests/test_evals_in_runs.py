"""When a run evaluates, what is left of it, and how the command line adds an evaluation."""

import csv
import json
import math
import os
import shutil

import jax
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.reporting import metrics, screen, summary
from ernie_m_jax.training import claim, evaluating, loop, run
from tests import selecting
from tests.command import call
from tests.conftest import small_tree
from tests.test_evals import HELDOUT, config_of, heldout, model_of, retrieval
from tests.test_report import scalars

SET = {"held": heldout(every=4), "late": heldout("mmlm", every=6, start=True)}


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with pytest.MonkeyPatch.context() as patch:
        selecting.share_programs(patch)
        yield


def run_tree(tokenizer_path, folder, **keys):
    lines = "".join(f"sentence number {number}\tSatz Nummer {number}\n" for number in range(9))
    (folder / "wide.tsv").write_text(f"en\tde\n{lines}")
    evals = SET | {"retrieval": retrieval(path=str(folder / "wide.tsv")) | {"max_length": 16}}
    return selecting.tree(tokenizer_path, folder, **({"evals": evals, "train__select": ""} | keys))


@pytest.fixture(scope="module")
def workdir(tokenizer_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals")
    selecting.train(run_tree(tokenizer_path, folder), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_what_a_run_leaves_of_its_evaluations(workdir):
    place, summary = workdir / "one", json.loads((workdir / "one" / "summary.json").read_text())
    found = [line for line in selecting.lines(place) if "eval" in line]
    order = [(line["step"], line["eval"]) for line in found]
    starts, ends = [(0, "late"), (0, "retrieval")], [(8, "held"), (8, "late"), (8, "retrieval")]
    assert order == [*starts, (4, "held"), (6, "late"), *ends]
    by_name = {name: [line for line in found if line["eval"] == name] for name in (*SET, "retrieval")}
    assert by_name["held"][0]["loss"] > by_name["held"][1]["loss"] > 1
    assert {"en/loss", "de/accuracy", "loss", "accuracy"} <= set(by_name["late"][0])
    assert {"en>de", "de>en", "average"} <= set(by_name["retrieval"][0])
    for name, lines in by_name.items():
        assert summary["evals"][name] == {key: value for key, value in lines[-1].items() if key not in ("step", "eval")}
    start = json.loads((place / "start.json").read_text())
    assert {name: values["loss"] for name, values in start.items() if "loss" in values} == {
        "late": by_name["late"][0]["loss"]
    }
    # A line stands before that of the step it came before.
    everything = [(line["step"], line.get("eval", "")) for line in selecting.lines(place)]
    assert everything.index((4, "held")) == everything.index((4, "")) - 1
    for stem in ("held", "held-4", "late", "late-6", "late-start", "retrieval", "retrieval-start"):
        assert (place / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (place / f"{stem}.csv").stat().st_size > 10
    rows = list(csv.reader((place / "held.csv").read_text().splitlines()))
    assert rows[0] == ["metric", "en", "de", "all"]
    assert {row[0]: float(row[3]) for row in rows[1:]} == {
        key: summary["evals"]["held"][key] for key in ("accuracy", "loss")
    }
    totals = json.loads((workdir / "summary.json").read_text())["evals"]
    assert totals["held"] == {"one": summary["evals"]["held"]["loss"]}
    assert totals["retrieval"].keys() == totals["late"].keys() == {"untrained", "one"}


@pytest.mark.slow
def test_tensorboard_has_every_evaluation(workdir):
    # What TensorBoard cannot name, ">", becomes "_" there.
    drawn = scalars(workdir / "one" / "tensorboard")
    assert {
        ("eval/held/loss", 4),
        ("eval/held/loss", 8),
        ("eval/late/en/loss", 0),
        ("eval/late/en/loss", 6),
        ("eval/retrieval/en_de", 0),
    } <= set(drawn)


@pytest.mark.slow
def test_a_run_may_go_on_with_other_evaluations_unless_one_selects(workdir, tokenizer_path):
    tree = run_tree(tokenizer_path, workdir.parent)
    claim.check(configs.resolve(tree | {"evals": {"new": heldout("mmlm")}}), workdir)
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["train"]["select"] = "held/loss"
    before = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(json.dumps(stored))
    try:
        tree["train"]["select"] = "held/loss"
        claim.check(configs.resolve(tree), workdir)
        changed = tree | {"evals": tree["evals"] | {"held": heldout(every=1)}}
        with pytest.raises(configs.ConfigError, match=r"config\.evals\.held\.every: 4 there, 1 here"):
            claim.check(configs.resolve(changed), workdir)
    finally:
        (workdir / "config.json").write_text(before)
    with pytest.raises(configs.ConfigError, match=r"config\.train\.select: '' there, 'held/loss' here"):
        claim.check(configs.resolve(tree), workdir)


@pytest.mark.slow
def test_evaluations_that_a_finished_stage_had_are_left_out_of_the_summary(workdir, tokenizer_path, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    tree = run_tree(tokenizer_path, workdir.parent, evals={"held": SET["held"]})
    numbers = run.train(configs.resolve(tree), tmp_path / "run")
    assert numbers["evals"].keys() == {"held"}


def test_a_start_that_failed_leaves_no_numbers_to_the_next_one(tokenizer_path, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(loop, "train_stage", fail)
    evals = {"held": heldout(start=True)}
    for score in (1.0, 2.0):
        told = selecting.Scores(monkeypatch)
        told.otherwise = score
        with pytest.raises(OSError, match="no space left"):
            selecting.train(run_tree(tokenizer_path, tmp_path, evals=evals), tmp_path / "run")
        (line,) = selecting.lines(tmp_path / "run" / "one")
        assert (line["step"], line["eval"], line["accuracy"]) == (0, "held", score)


def test_only_the_first_process_writes(tokenizer, tmp_path, monkeypatch, capsys):
    config = config_of({"held": heldout()})
    evaluations, (model, params) = Evaluations(config), model_of(config)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    found = evaluations.run("held", model, params, tokenizer, tmp_path / "one", "held-2")
    evaluating.record(tmp_path / "one", 2, {"held": found.metrics})
    saved_steps.select(tmp_path / "one", 2)
    screen.show("nothing")
    assert found.metrics["loss"] > 0
    assert not os.listdir(tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.undo()
    evaluations.run("held", model, params, tokenizer, tmp_path / "one", "held-2")
    assert sorted(os.listdir(tmp_path / "one")) == ["held-2.csv", "held-2.png"]


@pytest.mark.slow
def test_the_command_line_adds_an_evaluation_of_a_work_directory(workdir):
    added = [f"--config.evals.more.{key}" for key in ("kind=heldout", "objective=mmlm", "max_records=3")]
    source = f"--config.evals.more.monolingual.path={HELDOUT}"
    shown = call("--mode=evaluate", f"--workdir={workdir}", source, *added).stdout
    assert f"parameters of step 8 in {workdir / 'one'}" in shown
    assert "evaluation: more" in shown
    for name in (*SET, "retrieval", "more"):
        assert (workdir / "evaluation" / f"{name}.csv").exists()
        assert (workdir / "evaluation" / f"{name}.png").exists()
    assert (workdir / "evaluation" / "held.csv").read_text() == (workdir / "one" / "held.csv").read_text()
    assert (workdir / "evaluation" / "more.csv").read_text().startswith("metric,en,de,all\n")


def test_a_new_evaluation_must_say_what_it_is():
    tree = small_tree()
    problems = config_files.override(tree, ["--config.evals.more.objective=mmlm"])
    assert any("config.evals.more is unknown" in line for line in problems)
    tree = small_tree()
    given = ["objective=camlm", "kind=heldout", f"parallel.path={HELDOUT}", "every=7"]  # in any order
    assert config_files.override(tree, [f"--config.evals.more.{item}" for item in given]) == []
    keys = configs.resolve(tree).evals["more"]
    assert (keys.objective, keys.every, keys.parallel.path) == ("camlm", 7, HELDOUT)


# Files.


def test_evaluations_stay_where_training_goes_on(tmp_path):
    with metrics.MetricsWriter(tmp_path, 0) as writer:
        for step in range(5):
            if step in (0, 2, 4):
                writer.evaluation(step, "dev", {"en/loss": 1.0 + step, "loss": math.nan if step == 2 else 2.0})
            writer.write(step, {"loss": 0.5}, "mmlm")
        writer.evaluation(1, "end", {"loss": 3.0})  # of the model that was selected
    whole = (tmp_path / "metrics.jsonl").read_text()
    assert '{"step": 2, "eval": "dev", "en/loss": 3.0, "loss": "nan"}\n' in whole
    assert [line["step"] for line in metrics.evaluations(tmp_path / "metrics.jsonl")] == [0, 2, 4, 1]
    metrics.MetricsWriter(tmp_path, None).close()  # only adds
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    metrics.MetricsWriter(tmp_path, 2).close()
    kept = [
        (line["step"], line.get("eval"))
        for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    ]
    assert kept == [(0, "dev"), (0, None), (1, None), (2, "dev")]
    # TensorBoard hides what was drawn at step 2 before, so it is drawn again.
    last = max((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (tmp_path / "last").mkdir()
    last.rename(tmp_path / "last" / last.name)
    assert ("eval/dev/en/loss", 2) in scalars(tmp_path / "last")


def test_numbers_that_are_not_finite_are_sound():
    assert summary.is_of_start({"dev": {"loss": "nan", "accuracy": 0.5}, "test": {"loss": "-inf"}})
    for wrong in ({"dev": {"loss": "x"}}, {"dev": {"loss": None}}, {"dev": {"loss": [1.0]}}, {"dev": [1.0]}, [1.0]):
        assert not summary.is_of_start(wrong)
