"""Several processes: real ones, over Gloo, must give the numbers of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

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


def test_a_wrong_process_number_is_one_clear_error():
    environment = dict(os.environ, JAX_COORDINATOR_ADDRESS="localhost:1", JAX_NUM_PROCESSES="two", JAX_PROCESS_ID="0")
    failed = subprocess.run(
        [sys.executable, "-m", "ernie_m_jax.main", "--config=configs/quickstart.py", "--workdir=nowhere"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert failed.returncode == 2
    assert failed.stderr.strip() == "error: JAX_NUM_PROCESSES is 'two'; it must be a number from 0"
