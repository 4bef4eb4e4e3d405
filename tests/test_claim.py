"""One run at a time trains in a work directory. Real processes hold it."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from ernie_m_jax.config import ConfigError
from ernie_m_jax.training import claim
from tests.command import ROOT

HOLDS = """
    import pathlib, sys, time
    from ernie_m_jax.training import claim
    with claim.alone(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in a directory, which is made."""
    words = [sys.executable, "-c", textwrap.dedent(HOLDS), str(tmp_path / "run")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_directory_in_which_another_run_trains_is_refused(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE", 0.0)
    said = rf"another run is training in it \(process {holder.pid} on "
    with pytest.raises(ConfigError, match=said) as error, claim.alone(tmp_path / "run"):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "named",  # and names without the process's number: each of xdist's workers has its own
    ["process 1 on elsewhere", "", f"process {os.getpid()} on {socket.gethostname()}"],
    ids=["on another host", "unnamed", "alive here"],
)
def test_a_process_that_is_not_seen_here_is_waited_for_longer(named, holder, tmp_path, monkeypatch):
    (tmp_path / "run" / claim.LOCK).write_text(named + "\n")
    monkeypatch.setattr(claim, "PATIENCE", 600.0)
    monkeypatch.setattr(claim, "LEASE", 0.5)
    with pytest.raises(ConfigError, match="another run is training in it"), claim.alone(tmp_path / "run"):
        pass


def test_a_process_that_was_killed_holds_nothing(holder, tmp_path):
    holder.kill()
    with claim.alone(tmp_path / "run"):
        assert f"process {os.getpid()} on " in (tmp_path / "run" / claim.LOCK).read_text()
    assert not (tmp_path / "run" / claim.LOCK).exists()


def test_nothing_is_left_where_nothing_was_begun(tmp_path):
    with pytest.raises(ConfigError, match="wrong"), claim.alone(tmp_path / "new"):
        raise ConfigError("wrong")
    assert not (tmp_path / "new").exists()
    with claim.alone(tmp_path):
        pass
    assert tmp_path.exists()
