"""A profile of some steps: the trace that a run leaves."""

import jax

from ernie_m_jax import config as configs
from ernie_m_jax.training import run
from tests.conftest import small_tree


def test_a_run_traces_the_steps_it_is_told_to(tokenizer_path, tmp_path):
    stage = small_tree()["stages"]["one"] | {"weights": {"camlm": 1.0}, "warmup_steps": 1, "steps": 6}
    keys = {"tokenizer__path": str(tokenizer_path), "model__num_layers": 1, "stages": {"one": stage}}
    tree = small_tree(**keys, train__profile_from=2, train__profile_steps=3)
    run.train(configs.resolve(tree), tmp_path)
    (trace,) = (tmp_path / "one" / "tensorboard").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    calls = [event.name for plane in planes for line in plane.lines for event in line.events]
    assert "PjitFunction(train_step)" in calls
    assert sum(name.endswith("Executable::ExecutePrepare") for name in calls) == 3


def test_a_run_that_ends_within_the_profile_leaves_what_there_is(tokenizer_path, tmp_path):
    stage = small_tree()["stages"]["one"] | {"weights": {"camlm": 1.0}, "warmup_steps": 1, "steps": 3}
    keys = {"tokenizer__path": str(tokenizer_path), "model__num_layers": 1, "stages": {"one": stage}}
    run.train(configs.resolve(small_tree(**keys, train__profile_from=1, train__profile_steps=100)), tmp_path)
    assert list((tmp_path / "one" / "tensorboard").rglob("*.xplane.pb"))
