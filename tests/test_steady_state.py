"""A run in its steady state: nothing is compiled again, and memory does not grow with the steps."""

import jax
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.training import run
from tests import chaos_soak
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
def test_memory_does_not_grow_with_the_steps(tokenizer_path, tmp_path):
    """Resident memory and open files over 10,000 steps; `python -m tests.chaos soak` takes more."""
    found = chaos_soak.watched(chaos_soak.config_of(tokenizer_path, 10_000), tmp_path)
    print(chaos_soak.text(found))
    assert found["steps"] == 10_000
    assert chaos_soak.growing(found) == []
