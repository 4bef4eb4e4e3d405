"""A run's report: the page that is made of what a run leaves, finished or not."""

import html.parser
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
from ernie_m_jax.reporting import chart, files, history, metrics
from ernie_m_jax.training import run
from tests import left_run
from tests.command import call, refused

VOID = {"meta", "link", "img", "br", "path", "rect", "input"}


class Page(html.parser.HTMLParser):
    """A page as Python's own parser reads it: elements, text, and each table's cells by its caption."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.tables, self.open = [], "", {}, []
        self.rows, self.caption = None, ""
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            assert self.caption not in self.tables, self.caption
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def charts(self):
        return [attributes["aria-label"] for tag, attributes in self.elements if tag == "svg"]


def made(directory, *settings):
    return Page(report.write(directory, settings).read_text("utf-8"))


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


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&lt;"


def test_nothing_from_the_run_becomes_an_element(tmp_path):
    directory = left_run.pretraining(tmp_path / "run", finished=False)
    stored = json.loads((directory / "config.json").read_text())
    stored["config"]["tokenizer"]["path"] = HOSTILE
    stored["config"]["languages"] = ["en", "de", HOSTILE]
    stored["config"]["evals"][HOSTILE] = {**stored["config"]["evals"]["retrieval"]}
    stored["versions"][HOSTILE] = HOSTILE
    files.write_json(directory / "config.json", stored)
    for evaluation in (HOSTILE, "held"):
        values = {f"en>{HOSTILE}": 5.0, f"{HOSTILE}>en": 6.0, "average": 5.5, f"{HOSTILE}/loss": 2.0}
        with metrics.MetricsWriter(directory / "stage2", None) as writer:
            writer.evaluation(30, evaluation, values)
            writer.write(30, {HOSTILE: 1.0, "loss": 2.0}, HOSTILE)
    mixture = {HOSTILE: [{"name": HOSTILE, "records": 1, "tokens": HOSTILE, "probability": 1.0, "epochs": None}]}
    files.write_json(directory / "stage1" / "mixture.json", mixture)
    files.write_json(directory / "stage2" / "mixture.json", {"camlm": [{HOSTILE: 1}]})
    page = made(directory)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 10
    assert "49" not in page.text.split("Config")[0].replace(HOSTILE, "")
    places = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert all(place.startswith("#") or place == "data:," for place in places)


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


def test_a_thinned_curve_keeps_its_ends_means_and_spikes():
    values = np.linspace(0, 9999, 10_000) ** 0.5
    values[7_777], values[123] = 500.0, np.nan
    curve = history.thinned(np.arange(10_000), values, 100)
    assert len(curve.steps) <= 100
    assert curve.left_out == 1
    assert curve.most.max() == 500.0
    finite = np.isfinite(values[:100])
    assert curve.means[0] == pytest.approx(values[:100][finite].mean())
    assert curve.last == pytest.approx(values[-100:].mean())
    few = history.thinned(np.array([5, 3, 9]), np.array([1.0, 2.0, np.inf]), 100)
    assert (list(few.steps), list(few.means), few.left_out) == ([3, 5], [2.0, 1.0], 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1700, [0, 500, 1000, 1500]), (0, 0.0031, [0, 0.001, 0.002, 0.003]), (3.4, 8.1, [4, 5, 6, 7, 8])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert chart.ticks(low, high, 5) == pytest.approx(expected)


def points(path):
    """The absolute points of a path of a chart."""
    begin, _, rest = path.removeprefix("M").removesuffix("Z").partition("l")
    numbers = [float(number) for number in rest.split()]
    moves = [tuple(map(float, begin.split())), *zip(numbers[::2], numbers[1::2], strict=True)]
    return np.cumsum(np.array(moves), axis=0)


def test_a_curve_is_drawn_where_its_numbers_are():
    curve = history.thinned(np.arange(5), np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 100)
    drawn = chart.chart("t", {"a": curve}, {"a": 3}, 4)
    found = points(drawn.lines[0].path)
    at = {tick.label: tick.at for tick in drawn.up}
    np.testing.assert_allclose(found[:, 0], np.linspace(drawn.left, drawn.right, 5), atol=0.06)
    np.testing.assert_allclose(found[[0, 1, 4], 1], [at["0"], at["1"], at["4"]], atol=0.06)
    assert at["0"] == drawn.bottom
    assert drawn.top < at["4"] < drawn.top + 0.1 * (drawn.bottom - drawn.top)
    assert drawn.lines[0].colour == 3
    wide = chart.chart("t", {"a": history.thinned(np.arange(3), np.array([1.0, 10.0, 1000.0]), 9)}, {"a": 0}, 2, True)
    heights = points(wide.lines[0].path)[:, 1]
    assert heights[0] - heights[2] == pytest.approx(3 * (heights[0] - heights[1]), abs=0.2)


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308],
        [5e-324, 5e-324],
        [0.0],
        [np.nan],
        [7.0, 7.0],
        [1e150, -1e150],
        [1e19, 1e20, 1e25],
        [1.0, 1e180],
        [0.0, 1e30],
    ],
)
def test_any_numbers_can_be_drawn(values):
    curve = history.thinned(np.arange(len(values)), np.array(values), 10)
    made = chart.chart("t", {"a": curve}, {"a": 0}, 5, wide=True)
    if made is None:
        assert not len(curve.steps)
    else:
        found = [*points(made.lines[0].path.removesuffix("h.01")).flat, *(tick.at for tick in (*made.up, *made.across))]
        assert np.isfinite(found).all()
        assert 0 <= min(found) <= max(found) <= chart.WIDTH


@pytest.mark.parametrize("content", [b"", b"[]", b'{"evals": 3}', b"\xff", b"[" * 9999])
def test_what_is_damaged_is_said_and_the_rest_shown(content, tmp_path):
    directory = left_run.pretraining(tmp_path / "run")
    for name in (
        "summary.json",
        "goodput.json",
        "stage1/summary.json",
        "stage1/mixture.json",
        "evaluation/summary.json",
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    path = directory / "stage1" / metrics.FILE
    path.write_bytes(b"\xff\n[]\n" + path.read_bytes())
    page = made(directory)
    assert "summary.json is damaged and left out" in page.text
    assert "stage1/summary.json is damaged and left out" in page.text
    assert "stage1/mixture.json" in page.text
    assert page.charts().count(page.charts()[0]) == 2  # both stages
    assert "goodput.json is damaged and left out" in page.text
    assert "camlm: mixture, stage2" in page.tables


def damaged_wall(directory):
    change(directory / "summary.json", wall_seconds=float("nan"))


def damaged_tokens(directory):
    with (directory / "stage1" / metrics.FILE).open("a") as file:
        file.write('{"step": 60, "objective": "camlm", "loss": 1.0, "tokens": "inf"}\n')


def damaged_steps(directory):
    change(directory / "stage1" / "summary.json", steps=None)
    (directory / "summary.json").unlink()


def damaged_speed(directory):
    change(directory / "stage1" / "summary.json", steps=float("nan"), tokens_per_second=float("inf"))
    (directory / "summary.json").unlink()


def damaged_hang(directory):
    (directory / "hang.txt").mkdir()


def damaged_files(directory):
    for name in ("heartbeat.json", "goodput.json", "stage1/not_finite.json", "stage1/metrics.jsonl"):
        (directory / name).unlink(missing_ok=True)
        (directory / name).mkdir()


def damaged_figures(directory):
    files.write_json(directory / "evaluation" / "summary.json", {"evals": {"retrieval": 3, "held": [None]}})


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "damage",
    [damaged_wall, damaged_tokens, damaged_steps, damaged_speed, damaged_hang, damaged_files, damaged_figures],
)
def test_any_damage_leaves_a_page(damage, tmp_path):
    directory = left_run.pretraining(tmp_path / "run")
    damage(directory)
    page = made(directory)
    assert "camlm: mixture, stage2" in page.tables
    assert "Last sign of life" not in page.text


def test_wrong_numbers_of_an_evaluation_are_said(tmp_path):
    directory = left_run.pretraining(tmp_path / "run")
    path = directory / "stage2" / "summary.json"
    numbers = json.loads(path.read_text())
    numbers["evals"]["retrieval"]["en>de"] = 5000.0
    path.write_text(json.dumps(numbers))
    page = made(directory)
    assert "retrieval at the end of stage2: the numbers are damaged and left out" in page.text
    assert "held at the end of stage2" in page.tables


def test_code_outside_the_package_is_not_executed(tmp_path):
    directory, _ = left_run.finetuning(tmp_path / "run")
    stored = json.loads((directory / "config.json").read_text())
    stored["config"]["objectives"]["xnli"]["task"] = "evil.task"
    files.write_json(directory / "config.json", stored)
    page = made(directory)
    assert "names the task evil.task, which is code outside the package" in page.text
    assert "xnli at the end of finetune" in page.tables


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
