"""Several processes of one run on this machine: real ones, over Gloo. Also the config file of a small one."""

import json
import os
import socket
import subprocess
import time

from ml_collections import ConfigDict

from configs import base
from tests.command import ROOT, command
from tests.conftest import small_tree


def get_config():
    """The small config of the tests, of one layer, with retrieval of held-out messages."""
    tree = ConfigDict(small_tree(model__num_layers=1))
    tree.evals.retrieval.source = base.source("corpus:diagnostics/dev")
    return tree


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(arguments, processes, each=()):
    """Starts the processes; `each` has what one of them gets beside the arguments."""
    port, started = free_port(), []
    for number in range(processes):
        environment = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="")
        if processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            }
        own = each[number] if number < len(each) else ()
        started.append(
            subprocess.Popen(
                command(*arguments, *own),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def outputs(started, timeout=900):
    """Each process's exit status, standard output and standard error."""
    said = [process.communicate(timeout=timeout) for process in started]
    return [(process.returncode, *both) for process, both in zip(started, said, strict=True)]


def train(arguments, processes):
    """Runs to the end; the processes' standard outputs."""
    ended = outputs(start(arguments, processes))
    assert [status for status, _, _ in ended] == [0] * processes, [stderr[-2000:] for _, _, stderr in ended]
    return [stdout for _, stdout, _ in ended]


def lines(stage):
    """The metrics of a stage's steps."""
    path = stage / "metrics.jsonl"
    read = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in read if "objective" in line]


def wait_for(stage, steps, started, seconds=600):
    """Waits until a stage has so many steps behind it."""
    end = time.monotonic() + seconds
    while len(lines(stage)) < steps:
        for process in started:
            assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < end, "no progress"
        time.sleep(0.05)
