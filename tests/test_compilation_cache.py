"""Compiled programs are kept where --compilation_cache says, and used by the next start."""

import os
import re

import pytest

from tests import s3
from tests.command import ONE_EACH, SMALL, call, refused

COMPILE = (*SMALL, *ONE_EACH, "--mode=compile")


def steps_found(place, environment):
    """How many training steps a start compiled, and how many it found; where the environment names another folder."""
    environment = {**environment, "JAX_DEBUG_LOG_MODULES": "jax._src.compiler"}
    said = call(*COMPILE, f"--compilation_cache={place}", env=environment).stderr
    misses = len(re.findall("compilation cache miss for 'jit_train_step'", said, re.IGNORECASE))
    return misses, len(re.findall("compilation cache hit for 'jit_train_step'", said, re.IGNORECASE))


def test_the_second_start_finds_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "other")}
    assert steps_found(tmp_path / "programs", environment) == (2, 0)
    assert steps_found(tmp_path / "programs", environment) == (0, 2)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_behind_a_url(tmp_path):
    with s3.server(tmp_path) as found:
        environment = {**os.environ, **found}
        place = f"s3://{s3.BUCKET}/programs"
        assert steps_found(place, environment) == (2, 0)
        assert len([name for name in s3.files(found).find(place) if "jit_train_step" in name]) == 2
        assert steps_found(place, environment) == (0, 2)


def test_a_url_that_jax_does_not_know(tmp_path):
    said = refused(*COMPILE, "--compilation_cache=memory://programs")
    assert said == "memory://programs: JAX keeps programs in folders, gs:// and s3://, not there"
    # As said in the environment.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": "nowhere://programs"}
    assert refused(*COMPILE, env=environment).startswith("nowhere://programs: JAX keeps programs")
