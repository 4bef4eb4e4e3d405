"""Compiled programs are kept where --compilation_cache says, and used by the next start."""

import os
import re

import pytest

from tests import s3, several
from tests.command import ONE_EACH, SMALL, call, refused

COMPILE = (*SMALL, *ONE_EACH, "--mode=compile")


def without(environment, **more):
    """An environment in which JAX is told of no folder."""
    return {name: value for name, value in environment.items() if name != "JAX_COMPILATION_CACHE_DIR"} | more


def steps_found(place, environment):
    """How many training steps a start compiled, and how many it found."""
    environment = {**environment, "JAX_DEBUG_LOG_MODULES": "jax._src.compiler"}
    said = call(*COMPILE, f"--compilation_cache={place}", env=environment).stderr
    misses = len(re.findall("compilation cache miss for 'jit_train_step'", said, re.IGNORECASE))
    return misses, len(re.findall("compilation cache hit for 'jit_train_step'", said, re.IGNORECASE))


def test_the_second_start_finds_what_the_first_compiled(tmp_path):
    environment = without(os.environ, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other"), HOME=str(tmp_path))
    assert steps_found("~/new/programs", environment) == (2, 0)
    assert steps_found(tmp_path / "new" / "programs", environment) == (0, 2)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_behind_a_url(tmp_path):
    with s3.server(tmp_path) as found:
        environment, files = {**os.environ, **found}, s3.files(found)
        place = f"s3://{s3.BUCKET}/programs"
        assert steps_found(place, environment) == (2, 0)
        assert len([name for name in files.find(place) if "jit_train_step" in name]) == 2
        assert steps_found(place, environment) == (0, 2)
        # No bucket, which JAX would make; nobody who may.
        said = refused(*COMPILE, "--compilation_cache=s3://mistyped/programs", env=environment)
        assert said.startswith("s3://mistyped/programs: no such file or bucket")
        assert files.ls("") == [s3.BUCKET]
        environment |= {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        assert "AWS_ACCESS_KEY_ID" in refused(*COMPILE, f"--compilation_cache={place}", env=environment)


@pytest.mark.slow
def test_one_process_of_one_is_alone(tmp_path):
    environment = without(os.environ, XDG_CACHE_HOME=str(tmp_path))
    call(*COMPILE, f"--coordinator=localhost:{several.free_port()}", "--processes=1", "--process=0", env=environment)
    assert len([*tmp_path.rglob("jit_train_step*")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_by_default_only_a_process_alone_keeps_its_programs(tmp_path, processes, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = several.outputs(several.start(COMPILE, processes))
    assert [status for status, _, _ in ended] == [0] * processes, ended
    kept = [path.name for path in tmp_path.rglob("jit_train_step*")]
    assert len(kept) == (2 if processes == 1 else 0)


def test_what_cannot_be_a_place(tmp_path):
    (tmp_path / "file").touch()
    said = refused(*COMPILE, f"--compilation_cache={tmp_path / 'file'}")
    assert said.startswith(f"{tmp_path / 'file'}: no folder for compiled programs: ")
    # Said before the other process, which never comes, is awaited.
    others = ("--coordinator=localhost:1", "--processes=2", "--process=0")
    said = refused(*COMPILE, "--compilation_cache=memory://programs", *others)
    assert said == "memory://programs: JAX keeps programs in a folder, or behind gs:// or s3://"
    environment = without(os.environ, JAX_COMPILATION_CACHE_DIR="s3:///programs")
    assert refused(*COMPILE, env=environment).startswith("s3:///programs: JAX keeps programs")
