"""A run's report of damaged or hostile files: what is wrong is said, and the rest is shown."""

import json

import pytest

from ernie_m_jax.reporting import files, metrics
from tests import left_run
from tests.report_page import HOSTILE, made


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
