"""A run in its steady state: nothing is compiled again, and memory does not grow with the steps."""

import gc
import os
import pathlib

import jax
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import run
from tests.conftest import small_tree

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """Every compilation from here on."""
    seen = []

    def note(event, seconds, **about):
        if event == COMPILED:
            seen.append(about)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def config_of(tokenizer_path, **keys):
    """A run of all four objectives, with evaluations and saves between the steps."""
    return configs.resolve(small_tree(**{"tokenizer__path": str(tokenizer_path), "train__save_every": 8} | keys))


@pytest.mark.slow
def test_what_is_compiled_does_not_depend_on_the_number_of_steps(compilations, tokenizer_path, tmp_path):
    counts = []
    for steps in (8, 8, 40):  # the first may compile what all of the process's runs share
        del compilations[:]
        config = config_of(tokenizer_path, stages__one__steps=steps, train__log_every=1)
        run.train(config, tmp_path / str(len(counts)))
        counts.append(len(compilations))
    assert counts[1] == counts[2] > 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(tokenizer_path, tmp_path, monkeypatch):
    """Resident memory over 10,000 steps, and its slope with the error of a straight line through the second half."""
    resident, descriptors = [], []
    read = metrics.Meter.read

    def counted(self, step):
        if len(resident) % 50 == 0:
            gc.collect()
        resident.append(int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        descriptors.append(len(os.listdir("/proc/self/fd")))
        return read(self, step)

    monkeypatch.setattr(metrics.Meter, "read", counted)
    config = config_of(
        tokenizer_path, stages__one__steps=10_000, train__save_every=1000, train__log_every=100, evals={}
    )
    run.train(config, tmp_path)
    assert len(resident) == 10_000
    half = np.array(resident[5_000:]) / 2**20
    (slope, _), covariance = np.polyfit(np.arange(len(half)), half, 1, cov=True)
    print(
        f"{resident[100] >> 20} MiB after 100 steps, {resident[-1] >> 20} at the end; {1e3 * slope:.3f} MiB per 1,000"
    )
    assert 1e3 * slope < 1.0 + 3e3 * covariance[0, 0] ** 0.5
    assert max(descriptors[5_000:]) <= max(descriptors[100:5_000]) + 2
