"""Steps that are not finite: counted, shown, and the end of a run after too many, or at the stage's end."""

import json

import numpy as np
import pytest

from ernie_m_jax.data.loader import Origin
from ernie_m_jax.reporting.metrics import Step
from ernie_m_jax.task import Record
from ernie_m_jax.training import guard

GOOD = {"skipped": 0.0, "loss": 1.0, "gradient_norm": 2.0}
BAD = {"skipped": 1.0, "loss": float("nan"), "gradient_norm": float("inf")}


def make(tmp_path, limit, shown):
    def trace(objective, streams):
        return [[Origin("en", streams["place"], Record((f"{objective} text",), ("en",)))]]

    return guard.Guard(limit, tmp_path, trace, shown.append)


def step(index):
    return Step(index, "mmlm", {}, {"place": 10 * index})


def test_too_many_in_a_row_end_the_run_and_name_the_records(tmp_path):
    shown = []
    watch = make(tmp_path, 3, shown)
    for index, values in enumerate([BAD, BAD, GOOD, BAD, BAD]):
        watch.note(step(index), values)
    assert [line.partition(": update")[2] for line in shown] == [
        " skipped, 1 of at most 3 in a row",
        " skipped, 2 of at most 3 in a row",
    ] * 2
    with pytest.raises(guard.TrainingError, match=r"step 5 \(mmlm\): loss nan, .*3 steps in a row.*row 0: en 50; all"):
        watch.note(step(5), BAD)
    written = json.loads((tmp_path / guard.FILE).read_text())
    assert [entry["step"] for entry in written] == [3, 4, 5]
    assert written[0]["rows"] == [[{"entry": "en", "index": 30, "texts": ["mmlm text"]}]]


def test_a_stage_does_not_end_with_a_step_that_was_skipped(tmp_path):
    watch = make(tmp_path, 10, [])
    watch.note(step(6), GOOD)
    watch.end()
    watch.note(step(7), BAD)
    with pytest.raises(guard.TrainingError, match=r"the stage's last step, 7: not finite in 1 steps in a row"):
        watch.end()


def test_a_spike_is_named_with_its_limit(tmp_path):
    shown = []
    watch = make(tmp_path, 2, shown)
    spike = {"skipped": 1.0, "loss": 9.0, "gradient_norm": 2.0, "loss_limit": 4.5}
    watch.note(step(3), spike)
    assert shown == ["step 3 (mmlm): loss 9.0000 is a spike, above 4.5000: update skipped, 1 of at most 2 in a row"]
    watch.end()
    said = r"step 4 \(mmlm\): loss 9\.0000 is a spike, above 4\.5000, and 2 steps in a row .* row 0: en 40"
    with pytest.raises(guard.TrainingError, match=said):
        watch.note(step(4), spike)
    assert [entry["step"] for entry in json.loads((tmp_path / guard.FILE).read_text())] == [3, 4]


def test_steps_with_nothing_to_predict_are_named_and_do_not_hold_up_a_save(tmp_path):
    shown = []
    watch = make(tmp_path, 2, shown)
    empty = {"skipped": 1.0, "gradient_norm": 0.0, "scored": 0.0}
    watch.note(step(3), empty)
    assert shown == ["step 3 (mmlm): nothing to predict: update skipped, 1 of at most 2 in a row"]
    assert watch.in_row == []
    watch.end()
    watch.note(step(4), GOOD)
    watch.note(step(5), empty)
    with pytest.raises(guard.TrainingError, match=r"step 6 \(mmlm\): nothing to predict, and 2 .* row 0: en 60"):
        watch.note(step(6), empty)


def test_a_row_without_a_token_is_an_error_that_names_the_objective():
    segments = np.array([[1, 1, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    guard.check_rows(3, "mmlm", {"segments": segments[[0, 2]]})
    with pytest.raises(
        guard.TrainingError, match=r"step 3 \(mmlm\): 1 of 3 rows have no token: config\.objectives\.mmlm"
    ):
        guard.check_rows(3, "mmlm", {"segments": segments})
