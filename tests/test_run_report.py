"""A run's report: the page that is made of what a run leaves, finished or not, and how it is asked for."""

import json
import os
import re
import statistics
import uuid

import fsspec
import numpy as np
import pytest

from ernie_m_jax import mirrors
from ernie_m_jax.config import ConfigError
from ernie_m_jax.evaluation import report
from ernie_m_jax.reporting import files, metrics
from ernie_m_jax.training import run
from tests import left_run
from tests.command import call, refused
from tests.report_page import Page, made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return left_run.pretraining(tmp_path_factory.mktemp("report") / "run")


def test_the_page_of_a_pretraining_run_has_every_part(finished):
    page = made(finished)
    assert "finished" in page.text
    assert "not finished" not in page.text
    assert "1:02:03" in page.text  # the wall time
    titles = [name.partition(" over the steps")[0] for name in page.charts() if not name.startswith("Goodput")]
    every = ["loss, nats per prediction", "accuracy, share of the predictions", "predictions per step"]
    every += ["gradient norm", "learning rate", "real tokens per second"]
    every.append("input wait, share of the time")
    assert titles == [*every, "retrieval, %", "held, nats and shares", *every, "held, nats and shares"]
    assert page.tables["Evaluations"] == [
        ["", "untrained", "stage1", "stage2"],
        ["held", "-", "-", "3.500"],
        ["retrieval", "8.500", "37.500", "47.500"],
    ]
    heat = page.tables["retrieval at the end of stage2: 47.5 %"]
    assert heat[0] == ["", *left_run.LANGUAGES, "mean"]
    assert heat[1] == ["en", "", "40.0", "43.0", "41.5"]
    assert heat[-1][0] == "mean"
    assert page.tables["retrieval at the start of stage1: 8.5 %"][3] == ["ru", "13.0", "16.0", "", "14.5"]
    assert page.tables["held at the end of stage2"][1] == ["en-de", "3.000", "0.250"]
    assert page.tables["held at the end of stage2"][-1] == ["all", "3.500", "0.200"]
    mixture = [["", "records", "tokens", "drawn", "epochs"], ["en", "1,200", "34,567", "75.0 %", "1.500"]]
    assert page.tables["camlm: mixture, stage1"][:2] == mixture
    assert page.tables["What the numbers depend on"][2] == ["jax", "0.10.2"]
    assert '"hidden_size": 32' in page.text
    assert [row[:3] for row in page.tables["Where the time went"]][1:] == [
        [cause.replace("_", " "), f"{seconds:.1f}", f"{seconds:.1f} %"] for cause, seconds in left_run.SECONDS.items()
    ]
    widths = [float(found["width"]) for tag, found in page.elements if tag == "rect"]
    assert widths == [10 * seconds for seconds in left_run.SECONDS.values()]


def test_the_objectives_are_those_of_the_summary(finished):
    """Against the numbers that a run itself puts into its summary, and against Python's own mean."""
    header, *rows = made(finished).tables["Objectives"]
    assert header == ["", "steps", "loss at first", "loss at last", "accuracy", "scored"]
    assert [row[0] for row in rows] == ["stage1 camlm", "stage1 mmlm", "stage2 camlm", "stage2 mmlm"]
    summary = json.loads((finished / "stage1" / "summary.json").read_text())["objectives"]["camlm"]
    lines = [line for line in left_run.read_lines(finished / "stage1") if line.get("objective") == "camlm"]
    assert float(rows[0][2]) == pytest.approx(summary["first_loss"], abs=1e-3)
    assert float(rows[0][3]) == pytest.approx(statistics.mean(line["loss"] for line in lines[-3:]), abs=1e-3)
    assert float(rows[0][4]) == pytest.approx(summary["accuracy"], abs=1e-3)


def test_a_finetuning_run_stands_beside_the_paper(tmp_path):
    directory, values = left_run.finetuning(tmp_path / "run")
    page = made(directory)
    header, *rows = page.tables["xnli, transfer: the paper's rows and ours"]
    assert [row[0] for row in rows][:1] == ["XLM"]
    assert rows[-1] == ["ours: xnli", *(f"{value:.1f}" for value in values.values()), "57.2"]
    assert header[1:] == [*values, "Avg"]
    assert "xnli, %" in [name.partition(" over")[0] for name in page.charts()]
    assert page.tables["xnli at the end of finetune"][1][0] == "en"
    evaluated = {"evals": {"xnli": {f"test/{code}/accuracy": 90.0 for code in values}}}
    files.write_json(directory / "evaluation" / "summary.json", evaluated)
    rows = made(directory).tables["xnli, transfer: the paper's rows and ours"]
    assert [row[0] for row in rows[-2:]] == ["ours: xnli", "ours, --mode=evaluate: xnli"]
    assert rows[-1][1] == "90.0"


def test_an_unfinished_run_says_where_it_stands(tmp_path):
    directory = left_run.pretraining(tmp_path / "run", finished=False)
    path = directory / "stage2" / metrics.FILE
    path.write_text(path.read_text() + '{"step": 30, "objec')  # it is being written
    before = path.read_bytes()
    page = made(directory)
    assert "not finished: stage2, 30 of 60 steps" in page.text
    assert page.tables["held at step 20 of stage2"][1][:2] == ["en-de", "5.000"]
    assert "retrieval at the end of stage1: 37.5 %" in page.tables
    assert path.read_bytes() == before
    assert "damaged" not in page.text


def test_a_run_that_hung_or_was_killed_says_so(tmp_path):
    directory = left_run.pretraining(tmp_path / "run", finished=False)
    beat = {"time": 1790000000.0, "process": 0, "phase": "checkpoint", "phase_seconds": 0.1, "stage": "x", "step": 3}
    (directory / "heartbeat.json").write_text(json.dumps(beat))
    hung = "2026-11-26 12:00:00 +0000, process 0 of 1: no step for 99 s <b>"
    (directory / "hang.txt").write_text(f"{hung}\nThread 0x1:\n  File x, line 3\n\n")
    page = made(directory)
    assert "Last sign of life: 2026-09-21 14:13:20 UTC, in the phase checkpoint." in page.text
    assert f"It hung and was ended: {hung} (hang.txt has the stacks)" in page.text
    for damaged in ("{}", '{"time": "x"}', '{"time": 1e300}', "3"):
        (directory / "heartbeat.json").write_text(damaged)
        assert "heartbeat.json is damaged and left out" in made(directory).text


def test_a_run_that_has_no_step_yet_has_a_page(tmp_path):
    left_run.pretraining(tmp_path / "whole")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    assert "not finished: no step yet" in made(tmp_path / "run").text


def test_the_page_asks_for_nothing_from_elsewhere(finished):
    text = report.write(finished).read_text("utf-8")
    assert not re.findall(r"https?:|url\(|@import|@font-face|<script|<iframe", text)
    page = Page(text)
    (policy,) = [found["content"] for tag, found in page.elements if found.get("http-equiv")]
    assert "default-src 'none'" in policy
    tables = [found for tag, found in page.elements if tag == "table"]
    assert len([found for tag, found in page.elements if tag == "caption"]) == len(tables) > 5
    assert all(found.get("scope") in ("col", "row") for tag, found in page.elements if tag == "th")
    assert all(found.get("role") == "img" and found["aria-label"] for tag, found in page.elements if tag == "svg")


def test_the_page_stays_small_however_long_the_run(tmp_path):
    sizes = []
    for name, steps in (("short", 2_000), ("long", 20_000)):
        directory = left_run.pretraining(tmp_path / name)
        lines = []
        for step in range(steps):
            line = {"step": step, "objective": ("camlm", "mmlm")[step % 2], "loss": 5 + np.sin(step), "accuracy": 0.5}
            lines.append(json.dumps(line | {"gradient_norm": 1 + step % 7, "learning_rate": 1e-3, "scored": 100}))
        (directory / "stage1" / metrics.FILE).write_text("\n".join(lines) + "\n")
        sizes.append(report.write(directory).stat().st_size)
    assert sizes[1] < 1.1 * sizes[0] < 400_000


def test_what_is_no_run_is_refused(finished, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        report.write(tmp_path)
    stage = tmp_path / "run" / "stage1"
    (stage / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a stage of a run; give the run"):
        report.write(stage)
    files.write_json(tmp_path / "config.json", {"model": {}, "tokenizer": {}})
    with pytest.raises(ConfigError, match="is a model, not a run: there is nothing to report on"):
        report.write(tmp_path)


def test_the_command_makes_it_and_touches_no_device(finished):
    environment = os.environ | {"JAX_PLATFORMS": "none_such"}  # a run that goes on has the devices
    shown = call(f"--workdir={finished}", "--mode=report", env=environment).stdout
    assert shown == f"{finished / 'report.html'}\n"
    assert "--workdir=DIR is missing" in refused("--mode=report")


def test_a_report_behind_a_url(finished):
    url = f"memory://{uuid.uuid4().hex}/run"
    store = fsspec.filesystem("memory")
    store.put(str(finished), url.removeprefix("memory:/"), recursive=True)
    before = set(store.find(url.removeprefix("memory:/")))
    with mirrors.mirrored(url, writing=True) as directory:
        report.write(directory)
    (new,) = set(store.find(url.removeprefix("memory:/"))) - before or {f"{url}/report.html".removeprefix("memory:/")}
    page = Page(store.cat(f"{url}/report.html".removeprefix("memory:/")).decode())
    assert new.endswith("/report.html")
    assert "finished" in page.text


def test_a_report_that_fails_does_not_fail_the_run(finished, tmp_path, monkeypatch, capsys, small_config):
    (tmp_path / "config.json").write_text("{}")
    run.make_report(tmp_path, small_config())
    assert "no report.html (ConfigError" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()
