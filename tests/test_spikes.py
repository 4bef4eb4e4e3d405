"""Spikes of the loss: the limit out of the last losses, and a run with skipped ones that is stopped and goes on."""

import json
import math

import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.training import preemption, run, spikes
from tests.test_train import STEPS, assert_same, final_arrays, lines, tree


def noted(sigmas, losses, objective="mmlm"):
    made = spikes.Losses(sigmas)
    for step, loss in enumerate(losses):
        made.note(objective, step, loss)
    return made


def test_the_limit_is_the_mean_and_so_many_deviations_of_the_last_losses_two_steps_before():
    losses = np.random.default_rng(0).normal(5.0, 0.3, size=200)
    made = noted(6.0, losses)
    for step in (130, 170, 201):
        made = noted(6.0, losses[:step])
        window = losses[step - 1 - 128 : step - 1]
        assert made.limit("mmlm", step) == pytest.approx(window.mean() + 6 * window.std(), rel=1e-12)
    assert made.limit("mmlm", 201) > losses.max()


def test_there_is_no_limit_without_enough_losses_of_the_objective_or_without_the_option():
    losses = [5.0] * 129
    assert noted(6.0, losses).limit("mmlm", 129) == 5.0
    assert noted(6.0, losses[:128]).limit("mmlm", 128) == math.inf
    assert noted(6.0, losses).limit("tlm", 129) == math.inf
    assert noted(0.0, losses).limit("mmlm", 129) == math.inf


def test_what_is_not_finite_does_not_count_and_what_was_skipped_does():
    made = noted(6.0, [5.0] * 64 + [math.nan, math.inf, None] + [5.0] * 64)
    assert made.limit("mmlm", 132) == 5.0
    made.note("mmlm", 132, 50.0)
    made.note("mmlm", 133, 5.0)
    values = np.array([5.0] * 127 + [50.0])
    assert made.limit("mmlm", 134) == pytest.approx(values.mean() + 6 * values.std())
    assert made.limit("mmlm", 134) < 50.0  # the same again is still a spike
    for step in range(134, 140):
        made.note("mmlm", step, 50.0)
    assert made.limit("mmlm", 141) > 50.0  # but a level that stays is taken


def test_its_state_is_json_and_goes_on_to_the_bit():
    losses = np.random.default_rng(1).normal(5.0, 0.3, size=300)
    whole = noted(6.0, losses)
    first = noted(6.0, losses[:180])
    again = spikes.Losses(6.0, json.loads(json.dumps(first.state())))
    assert again.limit("mmlm", 180) == first.limit("mmlm", 180)
    for step in range(180, 300):
        again.note("mmlm", step, losses[step])
        assert again.state()["mmlm"][-1] == [step, losses[step]]
    assert again.limit("mmlm", 300) == whole.limit("mmlm", 300)


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 5, 6])
def test_a_run_that_skips_spikes_goes_on_to_the_bit(at, tokenizer_path, tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "WINDOW", 2)  # and a limit that ordinary losses exceed
    keys = {"stages__one__weights": {"camlm": 1.0}, "stages__one__learning_rate": 1e-4, "train__spike_sigmas": 0.5}
    config = configs.resolve(tree(tokenizer_path, **keys))
    run.train(config, tmp_path / "whole")
    steps = [line for line in lines(tmp_path / "whole") if "objective" in line]
    assert len(steps) == STEPS
    assert 0 < sum(line["skipped"] for line in steps) < STEPS - 3
    assert all((line["loss"] > line.get("loss_limit", math.inf)) == line["skipped"] for line in steps)
    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "due", lambda self, step: step == at)
        with pytest.raises(preemption.Interrupted):
            run.train(config, tmp_path / "stopped")
    run.train(config, tmp_path / "stopped")
    assert_same(config, tmp_path / "stopped", (lines(tmp_path / "whole"), final_arrays(config, tmp_path / "whole")))
