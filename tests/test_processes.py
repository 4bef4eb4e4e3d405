"""Several processes: real ones, over Gloo, must give the numbers of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from ernie_m_jax import processes
from ernie_m_jax.config import ConfigError
from tests.test_main import ROOT, SMALL, command

STEPS = 20
OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")


def arguments(workdir, tokenizer):
    weights = [f"--config.stages.stage{stage}.weights.{name}=1.0" for stage in (1, 2) for name in OBJECTIVES[:3]]
    return command(
        *SMALL,
        f"--workdir={workdir}",
        f"--config.tokenizer.path={tokenizer}",
        "--config.model.vocab_size=1000",
        f"--config.stages.stage1.steps={STEPS}",
        "--config.stages.stage1.warmup_steps=5",
        f"--config.stages.stage2.steps={STEPS}",
        "--config.stages.stage2.warmup_steps=5",
        *weights,
        "--config.stages.stage2.weights.btmlm=3.0",
        "--config.train.save_every=8",
    )


def train(workdir, tokenizer, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        environment = dict(os.environ, JAX_PLATFORMS="cpu")
        if processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            }
        started.append(
            subprocess.Popen(
                arguments(workdir, tokenizer),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=400) for process in started]
    for process, (_, stderr) in zip(started, outputs, strict=True):
        assert process.returncode == 0, stderr[-3000:]
    return [stdout for stdout, _ in outputs]


def lines(workdir, stage):
    read = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if "objective" in line]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tokenizer_path, tmp_path):
    shown = {count: train(tmp_path / str(count), tokenizer_path, count) for count in (1, 2)}
    trained = set()
    for stage in ("stage1", "stage2"):
        one, two = (lines(tmp_path / str(count), stage) for count in (1, 2))
        assert len(one) == len(two) == STEPS
        for single, double in zip(one, two, strict=True):
            # The same rows of the same objective: what is counted is equal, what is computed nearly.
            for name in ("step", "objective", "tokens", "scored", "fill"):
                assert single[name] == double[name], (stage, name)
            np.testing.assert_allclose(double["loss"], single["loss"], rtol=1e-5)
        trained |= {line["objective"] for line in two}
    assert trained == set(OBJECTIVES)
    summaries = [json.loads((tmp_path / str(count) / "summary.json").read_text()) for count in (1, 2)]
    assert summaries[0]["evals"]["retrieval"] == pytest.approx(summaries[1]["evals"]["retrieval"], abs=0.5)
    first, second = shown[2]
    assert "Summary" in first
    assert "Summary" not in second  # one screen


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


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def errors(*started):
    """Each process's standard error; all must have ended with status 2."""
    said = [process.communicate(timeout=100)[1].strip() for process in started]
    assert [process.returncode for process in started] == [2] * len(started), said
    return said


@pytest.mark.slow
def test_who_does_not_come_is_named_by_those_who_came():
    port = free_port()
    said = errors(*(start(port, 4, process, seconds=8) for process in (0, 2)))
    assert set(said) == {"error: 2 of 4 processes came within 8 s; missing: 1, 3"}


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_is_one_line():
    port = free_port()
    (said,) = errors(start(port, 2, 1, seconds=2))
    assert said.startswith(f"error: process 1 did not reach process 0 at 127.0.0.1:{port} within 2 s: ")


def test_processes_that_disagree_are_told():
    port = free_port()
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
    place = {"coordinator": f"localhost:{free_port()}", "processes": "1", "process": "0"}
    program = (
        "import jax; from ernie_m_jax import processes; "
        f"processes.join({place}); print(jax.config.values['jax_cuda_visible_devices'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr
