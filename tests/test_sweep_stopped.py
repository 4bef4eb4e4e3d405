"""A sweep that was stopped or killed goes on."""

import errno
import signal
import subprocess
import sys
import time

import pytest

from ernie_m_jax.reporting import files
from tests import sweeping
from tests.command import ROOT
from tests.sweeping import NAMES, arguments, calls, ledger, statuses

fake, run = sweeping.fake, sweeping.run


@pytest.fixture
def start(tmp_path, fake):
    """Starts the command in a process of its own, its output in the file `screen`; none outlives the test."""
    begun = []

    def begin(*given):
        script = f"from launch import sweep; sweep.main({list(map(str, given))!r}, {fake!r})"
        with (tmp_path / "screen").open("wb") as screen:
            process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=screen, stderr=screen)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()
    for path in tmp_path.glob("hang-*"):
        path.unlink()  # and the stand-ins end


def wait_for(process, holds):
    deadline = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < deadline, "not so within the time"
        assert process.poll() is None, "it ended before"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 42)])
def test_a_signal_is_passed_on_and_the_same_command_goes_on(tmp_path, start, run, number, status):
    (tmp_path / "hang-1").touch()
    process = start(*arguments(tmp_path))
    wait_for(process, (tmp_path / "sweep" / NAMES[1] / "begun").exists)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    shown = (tmp_path / "screen").read_text()
    assert shown.endswith("\ninterrupted, 5 of 6 runs left; the same command goes on\n")
    assert (tmp_path / "sweep" / NAMES[1] / "saved").exists()
    assert ledger(tmp_path)["runs"][NAMES[1]]["exit"] == 42
    assert list(statuses(tmp_path).values()) == ["done"] + ["waiting"] * 5
    (tmp_path / "hang-1").unlink()
    assert run(*arguments(tmp_path))[0] == 0
    assert calls(tmp_path) == [*NAMES[:2], *NAMES[1:]]


@pytest.mark.slow
def test_after_a_kill_the_next_start_waits_for_the_run_that_was_left(tmp_path, start, run):
    (tmp_path / "hang-1").touch()
    process = start(*arguments(tmp_path))
    wait_for(process, (tmp_path / "sweep" / NAMES[1] / "begun").exists)
    status, _, said = run(*arguments(tmp_path))
    assert status == 2
    assert "another process runs this sweep" in said
    process.kill()
    process.wait()
    left = ledger(tmp_path)["runs"][NAMES[1]]
    assert left["status"] == "running"
    process = start(*arguments(tmp_path))
    line = f"{NAMES[1]}: process {left['pid']}, which an earlier sweep left, still runs it; waiting for it to end\n"
    wait_for(process, lambda: line in (tmp_path / "screen").read_text())
    (tmp_path / "hang-1").unlink()
    assert process.wait(timeout=60) == 0
    assert calls(tmp_path) == [*NAMES[:2], *NAMES[1:]]
    assert set(statuses(tmp_path).values()) == {"done"}


def test_where_it_cannot_go_on_it_leaves_no_run_behind(tmp_path, run, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "hang-1").touch()
    folder, write = tmp_path / "sweep", files.write_json

    def full(path, content):
        if (folder / NAMES[0] / "summary.json").exists():
            deadline = time.monotonic() + 60
            while not (folder / NAMES[1] / "begun").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write_json", full)
    status, _, said = run(*arguments(tmp_path, "--jobs=2"))
    (tmp_path / "hang-1").unlink()  # if it was left, it ends
    assert status == 2
    assert (folder / NAMES[1] / "saved").exists()
    first, second = said.splitlines()
    assert first.startswith("the sweep cannot go on; its runs are asked to save and awaited: ")
    assert first.endswith(NAMES[1])  # behind the other, if that has not been seen to end
    assert second == f"error: {folder / 'sweep.json'} cannot be written: [Errno 28] No space left on device"
    monkeypatch.setattr(files, "write_json", write)
    status, _, _ = run(*arguments(tmp_path))
    assert status == 0
    assert set(statuses(tmp_path).values()) == {"done"}
