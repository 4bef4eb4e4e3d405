"""Signals to stop, and the exit status that they lead to."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from ernie_m_jax import lifeline, main
from ernie_m_jax.training import preemption
from tests.command import ROOT


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 42),
        (None, 42),  # several processes: JAX caught it, and only a scheduler's signal is caught there
        (signal.SIGINT, 130),  # a person; nothing is to start the run again
    ],
)
def test_the_exit_status_says_whether_to_run_it_again(number, status, monkeypatch, capsys):
    def interrupted(arguments, workdir):
        raise preemption.Interrupted("stopped after step 3 of 9 of one, saved", number)

    monkeypatch.setattr(main, "opened_workdir", contextlib.nullcontext)
    monkeypatch.setattr(main, "do", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.main(["main"])
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert said == "stopped after step 3 of 9 of one, saved; the same command goes on from there\n"


def test_several_processes_are_asked_for_a_number_that_never_goes_back(monkeypatch):
    """JAX's rule: they stop at the first number after the largest that was asked for before the signal."""
    asked, stop_at = [], None

    def reached(number):
        asked.append(number)
        return number == stop_at

    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", reached)
    monkeypatch.setattr(preemption, "_agreed", preemption._Agreed())
    with preemption.StopRequest() as first:
        assert [first.due(step) for step in range(3)] == [False] * 3
    stop_at = max(asked) + 1  # the signal comes between two stages
    with preemption.StopRequest() as second:
        assert second.due(0)
        assert second.due(0)  # and stays so
    assert asked == [1, 2, 3, 4]


def test_the_status_is_one_number():
    assert lifeline.RESTART == 42
    assert preemption.status(signal.SIGTERM) == lifeline.RESTART


def test_sigterm_may_come_again_but_a_second_ctrl_c_ends_the_run():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        assert not stop.due(1)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.due(2)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_ctrl_c_is_noted_and_decides_the_status():
    with preemption.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a launcher that was interrupted too
        assert stop.signal == signal.SIGINT


def test_sigterm_between_the_steps_ends_the_run_at_once_to_be_run_again():
    program = (
        "import os, signal; from ernie_m_jax.training import preemption\n"
        "with preemption.between_steps():\n"
        "    with preemption.StopRequest() as stop:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.signal == signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (42, "True\n"), done.stderr
    assert done.stderr == "stopped while no step ran; the same command goes on from there\n"
