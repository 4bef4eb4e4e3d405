"""Real processes that hang: they end with their stacks and status 42, and slow ones do not."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from ernie_m_jax import lifeline
from tests import several
from tests.command import ROOT

BLOCKED = """
    import os, pathlib, sys
    from ernie_m_jax import lifeline
    from ernie_m_jax.training.phases import Phases
    from ernie_m_jax.training.watchdog import Watchdog

    lifeline.DUMPING = 0.5
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    if sys.argv[2] == "closed":
        os.close(reader)
    else:
        os.set_blocking(2, False)
        try:
            while True:
                os.write(2, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(2, True)
    now = [0.0]
    phases = Phases(lambda: now[0])
    phases.enter("step")
    watched = Watchdog(phases, pathlib.Path(sys.argv[1]), 1.0, lambda: now[0])
    while True:
        now[0] += 1
        watched.tick()
"""
LEAVES_LATE = """
    import sys, time
    import jax
    from ernie_m_jax import lifeline

    number = int(sys.argv[2])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, number)
    lifeline.start("localhost")
    lifeline.at_hang(lambda problem: time.sleep(2))
    if number == 0:
        lifeline.hang("no step")
    time.sleep(100)
"""
HANGS = """
    import time
    from ernie_m_jax import main
    from ernie_m_jax.training import waiting

    draw, batches = waiting.Waiting.draw, []

    def stuck_reader(self, loader):
        batches.append(loader)
        if len(batches) == 4:
            time.sleep(600)
        return draw(self, loader)

    waiting.Waiting.draw = stuck_reader
    main.cli()
"""
SLOW = """
    import time
    from ernie_m_jax import main
    from ernie_m_jax.checkpoint.checkpoints import Checkpoints
    from ernie_m_jax.evaluation.runner import Evaluations
    from ernie_m_jax.training import waiting

    def slow(of, name, calls=10**9):
        inner, count = getattr(of, name), []

        def slowed(*args, **keys):
            count.append(1)
            time.sleep(4 if len(count) <= calls else 0)
            return inner(*args, **keys)

        setattr(of, name, slowed)

    slow(waiting.Waiting, "draw", 1)
    slow(Checkpoints, "save")
    slow(Evaluations, "run")
    main.cli()
"""


def arguments(workdir, tokenizer_path, *more):
    return (
        "--config=tests/several.py",
        f"--workdir={workdir}",
        f"--config.tokenizer.path={tokenizer_path}",
        "--config.stages.one.steps=8",
        "--config.stages.one.weights={'mmlm': 1.0}",
        "--config.train.watchdog_seconds=1",
        *more,
    )


def run(program, arguments):
    words = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("stderr", ["full", "closed"])
def test_a_run_that_hangs_is_ended_though_nobody_reads_what_it_says(stderr, tmp_path):
    done = run(BLOCKED, [str(tmp_path), stderr])
    assert done.returncode == lifeline.RESTART
    assert "in _stacks" in (tmp_path / "hang.txt").read_text()


def test_a_process_that_is_slow_to_say_where_it_hangs_is_to_be_run_again_too():
    port = str(several.free_port())
    words = [sys.executable, "-c", textwrap.dedent(LEAVES_LATE), port]
    started = [
        subprocess.Popen([*words, number], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in "01"
    ]
    ended = several.outputs(started, timeout=60)
    assert [status for status, _, _ in ended] == [lifeline.RESTART] * 2, ended
    assert ended[1][2].endswith("error: process 0 of 2 says: no step; all processes end\n")


@pytest.mark.slow
def test_a_real_run_whose_reader_hangs_ends_with_its_stacks_to_be_run_again(tokenizer_path, tmp_path):
    begun = time.monotonic()
    done = run(HANGS, arguments(tmp_path, tokenizer_path, "--config.evals={}"))
    assert done.returncode == lifeline.RESTART, done.stderr
    assert time.monotonic() - begun < 60
    limit = r"error: no step for \d s \(limit 1 s by config.train.watchdog_seconds\)"
    assert re.match(rf"{limit}: in data for \d s after step 1 of one; ", done.stderr)
    assert "stuck_reader" in done.stderr
    assert "in stuck_reader" in (tmp_path / "hang.txt").read_text()
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert [beat[name] for name in ("process", "phase", "stage", "step")] == [0, "data", "one", 1]
    assert abs(time.time() - beat["time"]) < 60
    assert len(several.lines(tmp_path / "one")) == 2  # of the third the numbers were not read


@pytest.mark.slow
def test_slow_first_batches_saves_and_evaluations_are_no_hang(tokenizer_path, tmp_path):
    more = ("--config.evals.retrieval.every=4", "--config.train.save_every=4")
    done = run(SLOW, arguments(tmp_path, tokenizer_path, *more))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "hang.txt").exists()
    assert not (tmp_path / "heartbeat.json").exists()  # nothing beats any more


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_that_is_stopped_ends_both_and_is_named(victim, tokenizer_path, tmp_path):
    more = ("--config.stages.one.steps=100000", "--config.train.save_every=20", "--config.train.watchdog_seconds=600")
    started = several.start(arguments(tmp_path, tokenizer_path, *more), 2)
    several.wait_for(tmp_path / "one", 30, started)
    started[victim].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    ended = several.outputs(started, timeout=120)
    took = time.monotonic() - stopped
    other = 1 - victim
    status, _, said = ended[other]
    assert status == lifeline.RESTART, said
    assert re.search(
        rf"error: process {victim} was silent for 2\d s, last in \w+ for \d+ s after step \d+ of one", said
    )
    assert ended[victim][0] == -signal.SIGKILL
    assert took < 45, took
    print(f"process {victim} stopped: both ended after {took:.1f} s")
