"""Numbers by language: on the screen, as CSV, as bars, and beside the paper's."""

import csv
import math
import struct

import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.config_evals import TaskEval
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.reporting import files, screen
from tests.conftest import small_tree
from tests.test_report import text_of

FIFTEEN = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur")
CHINESE = ("en", "zh-cn", "zh-tw", "zh-hk")


def cells(table):
    """The words of each line."""
    return [line.split() for line in text_of(table).splitlines()]


def test_a_row_per_metric_a_column_per_language_and_their_mean():
    rows = {"dev accuracy": {"en": 80.0, "de": 70.06}, "test accuracy": {"de": 60.0, "fr": math.nan}}
    shown = cells(screen.language_table(rows, title="one: xnli-200"))
    assert shown[0] == ["one:", "xnli-200"]
    assert ["en", "de", "fr", "mean"] in shown
    assert ["dev", "accuracy", "80.0", "70.1", "-", "75.0"] in shown
    assert ["test", "accuracy", "-", "60.0", "-", "60.0"] in shown


def test_one_language_has_no_mean():
    shown = cells(screen.language_table({"dev accuracy": {"en": 80.0}}, title="x"))
    assert ["en"] in shown
    assert ["dev", "accuracy", "80.0"] in shown


def test_all_stands_last_and_for_the_mean():
    rows = {"loss": {"all": 2.5, "en": 1.23456, "de": 9.0}, "accuracy": {"en": 0.5}}
    shown = cells(screen.language_table(rows, title="x", digits=3))
    assert ["en", "de", "all"] in shown
    assert ["loss", "1.235", "9.000", "2.500"] in shown
    assert ["accuracy", "0.500", "-", "-"] in shown


def test_fifteen_languages_fit_a_wide_terminal():
    table = screen.language_table({"test accuracy": dict.fromkeys(FIFTEEN, 100.0)}, title="x")
    assert max(map(len, text_of(table).splitlines())) <= 110


def test_rows_of_csv_round_trip(tmp_path):
    rows = {"dev accuracy": {"en": 200 / 3, "de": math.nan}, "test accuracy": {"de": 1e-17}}
    files.write_rows(tmp_path / "new" / "x.csv", rows)
    read = list(csv.reader((tmp_path / "new" / "x.csv").read_text("utf-8").splitlines()))
    assert read == [
        ["metric", "en", "de"],
        ["dev accuracy", repr(200 / 3), "nan"],
        ["test accuracy", "", "1e-17"],
    ]
    assert float(read[1][1]) == 200 / 3
    files.write_rows(tmp_path / "none.csv", {})
    assert (tmp_path / "none.csv").read_text() == "metric\n"


def size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">II", data[16:24])


def bars(path, count, metrics=1, unit="%", value=50.0):
    languages = [f"l{number}" for number in range(count)]
    rows = {f"metric {number}": dict.fromkeys(languages, value) for number in range(metrics)}
    files.bar_chart(path, rows, "title", unit)
    return size(path)


def test_bars_grow_with_languages_and_metrics(tmp_path):
    path = tmp_path / "x.png"
    few, many, twice = bars(path, 1), bars(path, 15), bars(path, 15, metrics=2)
    assert few[0] < many[0] < twice[0] < 3000
    assert few[1] == many[1] == twice[1] == 510


def test_thousands_of_bars_are_a_picture_too(tmp_path):
    assert bars(tmp_path / "x.png", 2000, unit="nats", value=3.0) == (9000, 510)


@pytest.mark.parametrize("unit", ["%", "nats"])
def test_bars_without_a_number(unit, tmp_path):
    files.bar_chart(tmp_path / "x.png", {"a": {"en": math.nan, "de": 3.0}, "b": {"fr": math.inf}}, "title", unit)
    files.bar_chart(tmp_path / "x.png", {"a": {"en": math.nan}}, "title", unit)
    assert size(tmp_path / "x.png")[0] >= 600


def drawn(monkeypatch, rows, unit="%"):
    """Every text of a bar chart with the place it takes in pixels, and the picture's width and height."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

    texts, sizes, draw = {}, [], RendererAgg.draw_text

    def note(renderer, *arguments, mtext=None, **keys):
        texts[id(mtext)] = (mtext.get_text(), mtext.get_window_extent(renderer))
        draw(renderer, *arguments, mtext=mtext, **keys)

    def keep(canvas, *_, **__):
        canvas.draw()
        texts.clear()  # of the layout
        canvas.draw()
        sizes.append(canvas.get_width_height())

    monkeypatch.setattr(RendererAgg, "draw_text", note)
    monkeypatch.setattr(FigureCanvasAgg, "print_png", keep)
    monkeypatch.setattr(files.atomic, "write", lambda *_: None)
    files.bar_chart("nowhere.png", rows, "xnli, xnli-2000", unit)
    return list(texts.values()), sizes[0]


@pytest.mark.parametrize(
    ("languages", "metrics", "unit"),
    [
        (FIFTEEN, ("dev accuracy", "test accuracy"), "%"),
        (("en", "de"), [f"{split} exact match of spans" for split in ("dev", "test", "old", "new")], "%"),
        ([f"{one}>{other}" for one in CHINESE for other in CHINESE if one != other], ("loss",), "nats"),
        (("en", "all"), ("loss",), "nats"),
    ],
)
def test_no_number_or_name_covers_another(languages, metrics, unit, monkeypatch):
    rng = np.random.default_rng(0)
    rows = {metric: {language: float(rng.uniform(90, 100)) for language in languages} for metric in metrics}
    found, (width, height) = drawn(monkeypatch, rows, unit)
    assert {text for text, _ in found} >= {*languages, "xnli, xnli-2000"}
    assert sum("." in text for text, _ in found) >= len(languages) * len(metrics)
    for place, (text, box) in enumerate(found):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
        for other, another in found[place + 1 :]:
            assert not (box.x0 < another.x1 and another.x0 < box.x1 and box.y0 < another.y1 and another.y0 < box.y1), (
                text,
                other,
            )


# Beside the paper's rows.


@pytest.fixture
def evaluator():
    tree = small_tree()
    tree["objectives"]["xnli"] = base.sentence_pairs(train="t", dev="d", test="e", max_length=64).to_dict()
    labels = ("contradiction", "entailment", "neutral")
    tree["model"].update(pooler=True, head="sequence_classification", num_labels=3, labels=labels)
    tree["evals"] = {"score": base.evaluation("task", objective="xnli").to_dict()}
    config = configs.resolve(tree)
    keys = config.evals["score"]
    assert isinstance(keys, TaskEval)
    return TaskEvaluator("score", keys, tasks.bind(config, "xnli"), {"dev": {}, "test": {}})


def metrics(split="test", **values):
    return {f"{split}/{language}/accuracy": value for language, value in values.items()}


def test_a_task_is_shown_beside_the_papers_rows(evaluator):
    own, paper = evaluator.show(metrics(en=85.0, de=75.04) | metrics("dev", en=80.0), "one: score")
    assert ["test", "accuracy", "85.0", "75.0", "80.0"] in cells(own)
    shown = text_of(paper)
    assert "xnli transfer: the paper's rows and ours" in shown
    assert "ours (2 of 15" in shown
    assert "85.0" in shown
    assert "XLM-R" in shown


def test_a_language_that_the_paper_does_not_have_is_shown_in_our_table_only(evaluator):
    own, paper = evaluator.show(metrics(en=85.0, fi=12.3), "one: score")
    assert ["test", "accuracy", "85.0", "12.3", "48.6"] in cells(own)
    assert "ours (1 of 15" in text_of(paper)
    assert "12.3" not in text_of(paper)
    _, paper = evaluator.show(metrics(fi=12.3), "one: score")
    assert "ours" not in text_of(paper).replace("and ours", "")


def test_without_test_scores_there_is_nothing_to_compare(evaluator, tmp_path):
    assert len(evaluator.show(metrics("dev", en=80.0), "one: score")) == 1
    (line,) = evaluator.show({}, "one: score")  # no record has a label
    assert "no labels" in line
    evaluator.write(tmp_path, "score", {})
    assert not list(tmp_path.iterdir())
    evaluator.write(tmp_path, "score", metrics(en=85.0, fi=12.3) | {"test/accuracy": 48.65})
    assert (tmp_path / "score.csv").read_text() == "metric,en,fi\ntest accuracy,85.0,12.3\n"
    assert size(tmp_path / "score.png")[1] == 510


def test_the_headline_is_the_mean_of_the_last_split(evaluator):
    found = metrics("dev", en=80.0) | metrics(en=70.0, de=60.0) | {"dev/accuracy": 80.0, "test/accuracy": 65.0}
    assert evaluator.headline(found) == 65.0
    assert evaluator.headline({}) is None
