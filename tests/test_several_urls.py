"""Several processes whose work directory is behind a URL: what each writes to is its own, what counts is the store."""

import time

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


def test_a_tokenizer_that_the_first_process_puts_aside_is_no_ones(tmp_path):
    store = tmp_path / "bucket" / "run"
    url = f"file://{store}"
    started = several.start(arguments(url), 2)
    end = time.monotonic() + 300
    while not (store / "tokenizer" / "vocab.txt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    for process in started:  # before there is a checkpoint
        process.kill()
    several.outputs(started)
    one_step = ("--config.tokenizer.character_coverage=0.99", "--config.stages.one.steps=1", "--config.evals={}")
    several.train(arguments(url, *one_step, "--config.stages.one.warmup_steps=1"), 2)
    assert saved_steps.complete(store / "one" / "checkpoints") == [1]


def test_another_mesh_goes_on_and_a_run_starts_from_its_parameters(tmp_path):
    url = f"file://{tmp_path / 'bucket'}"
    few = ("--config.stages.one.warmup_steps=1", "--config.evals={}", "--config.stages.one.schedule=constant")
    tensor = ("--config.mesh.fsdp=1", "--config.mesh.tensor=2", "--config.optimizer.moments_dtype=bfloat16")
    several.train(arguments(f"{url}/run", *few, *tensor, "--config.stages.one.steps=1"), 2)
    other = ("--config.optimizer.moments_dtype=bfloat16", "--config.stages.one.steps=3")
    several.train(arguments(f"{url}/run", *few, *other), 2)
    assert saved_steps.complete(tmp_path / "bucket" / "run" / "one" / "checkpoints") == [1, 3]
    start = (f"--config.init.params={url}/run", f"--config.tokenizer.path={url}/run/tokenizer")
    several.train(arguments(f"{url}/next", *few, *start, "--config.stages.one.steps=1"), 2)
