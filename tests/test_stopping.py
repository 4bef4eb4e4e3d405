"""SIGTERM while no step runs: in a compiler, a wait for data, an evaluation, a tokenizer. Real processes."""

import json
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax.checkpoint import tree
from tests import several
from tests.command import ROOT, command

pytestmark = pytest.mark.slow
SOON = 8.0  # seconds from the signal to the exit, a save included, on a busy machine

SLEEPS = """
    import time
    from ernie_m_jax import main
    {imports}

    inner, calls = {owner}.{name}, []

    def slow(*args, **keys):
        calls.append(1)
        if len(calls) == {call}:
            time.sleep(600)
        return inner(*args, **keys)

    {owner}.{name} = slow
    main.cli()
"""
PLACES = {
    "compile": ("import jax", "jax.stages.Lowered", "compile", 1, 0),
    "data": ("from ernie_m_jax.data.loader import Loader", "Loader", "__next__", 4, 3),
    "evaluation": ("from ernie_m_jax.evaluation.runner import Evaluations", "Evaluations", "run", 2, 4),
}


def arguments(workdir, *more):
    return (
        "--config=tests/several.py",
        f"--workdir={workdir}",
        "--config.stages.one.steps=8",
        "--config.stages.one.weights={'mmlm': 1.0}",
        "--config.evals.retrieval.every=4",
        *more,
    )


def started(words):
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped(process):
    """Sends SIGTERM; the exit status, standard error and the seconds that it took."""
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, said = process.communicate(timeout=120)
    return process.returncode, said, time.monotonic() - sent


def wait_for_phase(workdir, phase, process):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        beat = workdir / "heartbeat.json"
        said = json.loads(beat.read_text()) if beat.exists() else {}
        if said.get("phase") == phase and said["phase_seconds"] > 1:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {phase}")


def parameters(workdir):
    model = ernie_m_jax.load(workdir / "one")
    return {name: np.asarray(array).tobytes() for name, array in tree.named(model.params).items()}


def numbers(workdir):
    read = [json.loads(line) for line in (workdir / "one" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in read]


@pytest.fixture(scope="module")
def undisturbed(tokenizer_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    several.train(arguments(workdir, f"--config.tokenizer.path={tokenizer_path}"), 1)
    return workdir


@pytest.mark.parametrize("phase", PLACES)
def test_a_run_is_saved_at_once_and_goes_on_to_the_bit(phase, undisturbed, tokenizer_path, tmp_path):
    imports, owner, name, call, done = PLACES[phase]
    program = textwrap.dedent(SLEEPS.format(imports=imports, owner=owner, name=name, call=call))
    given = arguments(tmp_path, f"--config.tokenizer.path={tokenizer_path}")
    process = started([sys.executable, "-c", program, *given])
    wait_for_phase(tmp_path, phase, process)
    status, said, seconds = stopped(process)
    assert status == 42, said
    assert re.search(
        rf"stopped after step {done} of 8 of one, saved \d+\.\d s after the signal; the same command", said
    )
    assert seconds < SOON
    print(f"{phase}: exit {seconds:.1f} s after SIGTERM")
    assert [int(path.name) for path in (tmp_path / "one" / "checkpoints").iterdir()] == [done]
    several.train(given, 1)
    assert numbers(tmp_path) == numbers(undisturbed)
    assert parameters(tmp_path) == parameters(undisturbed)


def test_a_tokenizer_s_training_is_no_obstacle(tmp_path):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(60_000)]
    for language in ("en", "de", "ru"):
        lines = [" ".join(draw.choices(words, k=12)) for _ in range(30_000)]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines) + "\n")
    more = (
        f"--config.data.monolingual.diagnostics.path={tmp_path}/{{language}}.txt",
        "--config.model.vocab_size=16000",
    )
    process = started(command(*arguments(tmp_path / "run", *more)))
    for line in process.stdout:
        if line.startswith("training a tokenizer of 16000 entries"):
            break
    time.sleep(4)  # into SentencePiece
    assert not (tmp_path / "run" / "tokenizer").exists()
    status, said, seconds = stopped(process)
    assert status == 42, said
    assert said.endswith("stopped while no step ran; the same command goes on from there\n")
    assert seconds < SOON
    print(f"tokenizer: exit {seconds:.1f} s after SIGTERM")


LATE = """
    import os, signal
    from ernie_m_jax import main
    from ernie_m_jax.training import waiting

    close = waiting.Waiting.close

    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        close(self)

    waiting.Waiting.close = signalled
    main.cli()
"""


def test_a_signal_after_the_last_save_of_a_stage_is_heeded(tokenizer_path, tmp_path):
    more = (f"--config.tokenizer.path={tokenizer_path}", "--config.evals={}", "--config.stages.one.steps=2")
    words = [argument for argument in arguments(tmp_path, *more) if "retrieval" not in argument]
    process = started([sys.executable, "-c", textwrap.dedent(LATE), *words])
    _, said = process.communicate(timeout=120)
    assert process.returncode == 42, said
    assert "stopped at the end of one, saved" in said
