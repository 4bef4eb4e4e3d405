"""Joining the other processes of a run: who does not come, disagrees or says nonsense is one line."""

import os
import subprocess
import sys

import pytest

from ernie_m_jax import processes
from ernie_m_jax.config import ConfigError
from tests import several
from tests.command import ROOT


def start(port, processes, process, seconds=20, **environment):
    """One process of several that would train into a place where none may."""
    command = [sys.executable, "-m", "ernie_m_jax.main", "--config=configs/quickstart.py", "--workdir=/dev/null/none"]
    command += [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"]
    return subprocess.Popen(
        [*command, f"--join_seconds={seconds}"],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu", **environment),
        stderr=subprocess.PIPE,
        text=True,
    )


def errors(*started):
    """Each process's standard error; all must have ended with status 2."""
    said = [process.communicate(timeout=100)[1].strip() for process in started]
    assert [process.returncode for process in started] == [2] * len(started), said
    return said


@pytest.mark.slow
def test_who_does_not_come_is_named_by_those_who_came():
    port = several.free_port()
    said = errors(*(start(port, 4, process, seconds=8) for process in (0, 2)))
    assert set(said) == {"error: 2 of 4 processes came within 8 s; missing: 1, 3"}


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_is_one_line():
    port = several.free_port()
    (said,) = errors(start(port, 2, 1, seconds=2))
    assert said.startswith(f"error: process 1 did not reach process 0 at 127.0.0.1:{port} within 2 s: ")


def test_processes_that_disagree_are_told():
    port = several.free_port()
    said = errors(start(port, 2, 0), start(port, 3, 1))
    assert set(said) == {"error: process 1 was told of 3 processes, process 0 of 2"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"coordinator": "a:1"},
            r"--coordinator without --processes \(JAX_NUM_PROCESSES\) and --process \(JAX_PROCESS_ID",
        ),
        ({"coordinator": "a", "processes": "2", "process": "0"}, "--coordinator is 'a'; it must be HOST:PORT"),
        ({"coordinator": "a:1", "processes": "2", "process": "2"}, "--process is 2, but --processes is 2"),
        ({"coordinator": "a:1", "processes": "-2", "process": "0"}, "--processes is '-2'; it must be a number"),
    ],
)
def test_places_that_cannot_be(given, message):
    with pytest.raises(ConfigError, match=message):
        processes.find(given, {})


def test_the_environment_and_flags_say_the_same():
    flags = {"coordinator": "[::1]:80", "processes": "4", "process": "3"}
    environment = {processes.VARIABLES[name]: value for name, value in flags.items()}
    assert processes.find(flags, {}) == processes.find({}, environment) == processes.Place("::1", 80, 4, 3)
    assert processes.find({"process": "1"}, environment).process == 1
    assert processes.find({}, {}) is None
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is 'two'; it must be a number from 0"):
        processes.find({}, environment | {"JAX_NUM_PROCESSES": "two"})


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),  # salloc, without srun
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_clusters_are_found(environment, several):
    assert processes.in_cluster(environment) is several


def test_a_process_that_was_told_its_place_takes_all_devices_of_its_host_under_slurm_too():
    # JAX would give it the one GPU whose number is SLURM_LOCALID.
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    environment = dict(os.environ, JAX_PLATFORMS="cpu", SLURM_LOCALID="0", **slurm)
    place = {"coordinator": f"localhost:{several.free_port()}", "processes": "1", "process": "0"}
    program = (
        "import jax; from ernie_m_jax import processes; "
        f"processes.join({place}); print(jax.config.values['jax_cuda_visible_devices'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr
