"""Batches made in several processes: the same, from any state, and no process left behind."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.config import ConfigError
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.data.records import DataError
from tests.conftest import small_tree

ROOT = pathlib.Path(__file__).parents[1]


def opened(name, tokenizer, workers, owned=None, **keys):
    config = configs.resolve(small_tree(data__workers=workers, **keys))
    task = tasks.bind(config, name)
    return contextlib.closing(loader.Loader(task, tokenizer, task.records(mixture.Sources(config)), owned))


def assert_same(one, other):
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_batches_and_states_are_the_same_for_any_number_of_workers(tokenizer):
    with opened("camlm", tokenizer, 0) as thread:
        before = [next(thread) for _ in range(5)]
        state = json.loads(json.dumps(thread.state()))
        expected = [next(thread) for _ in range(5)]
        with opened("camlm", tokenizer, 3) as three:
            for batch in before:
                assert_same(batch, next(three))
            assert three.state() == state
            assert_same(expected[0], next(three))
            end = three.state()
        with opened("camlm", tokenizer, 2) as two:
            two.restore(state)
            assert two.state() == state
            for batch in expected:
                assert_same(batch, next(two))
        thread.restore(end)
        assert_same(expected[1], next(thread))


def test_an_error_in_a_worker_is_the_users(tokenizer, tmp_path):
    (tmp_path / "invisible.txt").write_text("\u200b\n" * 100)
    source = dataclasses.asdict(configs.SourceConfig(str(tmp_path / "invisible.txt"), "text", ("en",), (), (), ""))
    with (
        opened("mmlm", tokenizer, 1, data__monolingual={"text": source}) as loader_,
        pytest.raises(DataError, match="records in a row gave no example"),
    ):
        next(loader_)


def test_more_workers_than_streams_are_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"config\.data\.workers is 5; it must be at most 4, the virtual streams"):
        opened("mmlm", tokenizer, 5).__enter__()
    with pytest.raises(ConfigError, match="it must be at most 2"):
        opened("mmlm", tokenizer, 3, owned=(0, 1)).__enter__()


def descendants(pid):
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    own = {pid}
    for _ in range(5):
        own |= {child for child, parent in parents.items() if parent in own}
    return own - {pid}


def ended(pids, seconds):
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < end:
        time.sleep(0.2)
    return not left


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_process(how, tmp_path):
    command = [sys.executable, "-m", "ernie_m_jax.main", "--config=configs/quickstart.py:objectives=tlm"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.data.workers=2", "--config.train.log_every=1"]
    command += ["--config.evals.retrieval.start=False"]
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as run:
        end = time.monotonic() + 300
        while "stage1 3/" not in log.read_text() and time.monotonic() < end and run.poll() is None:
            time.sleep(0.3)
        children = descendants(run.pid)
        assert len(children) >= 2, log.read_text()
        for pid in (run.pid, *(children if how == signal.SIGTERM else ())):  # a scheduler's reaches all of them
            os.kill(pid, how)
        status = run.wait(120)
    assert status == (42 if how == signal.SIGTERM else -signal.SIGKILL), log.read_text()
    assert ended(children, 20)
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 42), (signal.SIGKILL, 2)])
def test_a_signal_while_the_processes_start_ends_the_run(how, status, tmp_path):
    command = [sys.executable, "-m", "ernie_m_jax.main", "--config=configs/quickstart.py:objectives=tlm"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.data.workers=2", "--config.evals.retrieval.start=False"]
    command = ["/usr/bin/env", "--default-signal=INT", *command]  # a shell's background has it ignored
    log = tmp_path / "log"
    with log.open("w") as out:
        run = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    end = time.monotonic() + 300
    # The processes of the data, beside the resource tracker.
    while len(children := spawned(run.pid)) < 2 and time.monotonic() < end and run.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    if how == signal.SIGKILL:  # of one of them, as where the host is out of memory
        os.kill(min(children), how)
    else:  # to all, as from a terminal or a scheduler
        os.killpg(run.pid, how)
    assert run.wait(120) == status, log.read_text()
    assert ended(children, 20)
    assert status != 2 or "a process that makes batches was ended from outside" in log.read_text()


def spawned(pid):
    """The processes below one that Python started to work for it."""
    found = set()
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found
