"""Several processes whose work directory is behind a URL: what each writes to is its own, what counts is the store."""

import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax.checkpoint import saved_steps, tree
from tests import several

pytestmark = pytest.mark.slow
STEPS = 12


def arguments(workdir, *more):
    """All four objectives, parameters divided over the processes, a tokenizer that the run makes."""
    return (
        "--config=tests/several.py",
        f"--workdir={workdir}",
        f"--config.stages.one.steps={STEPS}",
        "--config.train.save_every=4",
        "--config.evals.retrieval.every=8",
        "--config.mesh.data=1",
        "--config.mesh.fsdp=2",
        *more,
    )


def parameters(place):
    """The bits of a stage's parameters, by name."""
    model = ernie_m_jax.load(place)
    return {name: np.asarray(array).tobytes() for name, array in tree.named(model.params).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run in a directory that both processes share."""
    workdir = tmp_path_factory.mktemp("shared") / "run"
    several.train(arguments(workdir), 2)
    return workdir


def numbers(workdir):
    """The metrics of the steps without their timing."""
    return [{key: value for key, value in line.items() if key != "timing"} for line in several.lines(workdir / "one")]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_behind_a_url_is_the_run_in_a_directory(victim, undisturbed, tmp_path):
    store = tmp_path / "bucket" / "run"
    url = f"file://{store}"
    started = several.start(arguments(url), 2)
    several.wait_for(store / "one", 5, started)
    started[victim].kill()
    several.outputs(started)
    assert not (store / "summary.json").exists()
    several.train(arguments(url), 2)
    assert numbers(store) == numbers(undisturbed)
    assert parameters(f"{url}/one") == parameters(undisturbed / "one")
    assert (store / "one" / "retrieval.csv").read_bytes() == (undisturbed / "one" / "retrieval.csv").read_bytes()
    assert saved_steps.complete(store / "one" / "checkpoints") == [8, 12]


def test_one_process_goes_on_with_the_checkpoint_of_two(undisturbed, tmp_path):
    store = tmp_path / "bucket" / "run"
    url = f"file://{store}"
    started = several.start(arguments(url), 2)
    several.wait_for(store / "one", 5, started)
    started[1].kill()
    several.outputs(started)
    several.train(arguments(url, "--config.mesh.fsdp=1"), 1)
    for one, other in zip(numbers(store), numbers(undisturbed), strict=True):
        assert (one["step"], one["tokens"]) == (other["step"], other["tokens"])
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6)
