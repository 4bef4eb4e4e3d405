"""launch/gpu.sh, and with it what launch/restart.sh gives every launcher: flags, quoting, restarts, signals."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ernie_m_jax import lifeline
from tests import launching
from tests.command import quick
from tests.launching import LAUNCH, ROOT, ends_with
from tests.several import free_port

launcher = launching.launcher
ODD = (
    '--config.data.monolingual.text.path=it\'s/{language} $HOME `x` "y" \\ *.txt',
    "--config.languages=en,de",
    "",
    "ä",
)
RUN = ("--config=configs/quickstart.py", "--workdir=runs/a b")


def test_the_number_is_the_one_of_the_training():
    assert f"\nRESTART={lifeline.RESTART} " in (LAUNCH / "restart.sh").read_text()


def test_a_dry_run_prints_the_command_as_a_shell_reads_it(launcher):
    (command,) = launcher.dry("gpu.sh", "--gpus=0,1", "--", *RUN, *ODD)
    assert command == ["env", "CUDA_VISIBLE_DEVICES=0,1", "python", "-m", "ernie_m_jax.main", *RUN, *ODD]
    (command,) = launcher.dry("gpu.sh", "--python", "/my venv/bin/python", "--module=launch.sweep", "--", "--seeds=0,1")
    assert command == ["/my venv/bin/python", "-m", "launch.sweep", "--seeds=0,1"]


def test_the_training_gets_its_flags_unchanged(launcher):
    launcher.fake("python", 'echo "$CUDA_VISIBLE_DEVICES" > "$here/gpus"; exit 0')
    done = launcher.run("gpu.sh", "--", *RUN, *ODD, "--dry_run", "--help", LAUNCH_GPUS="3")
    assert done.returncode == 0, done.stderr
    assert launcher.calls() == [["python", "-m", "ernie_m_jax.main", *RUN, *ODD, "--dry_run", "--help"]]
    assert (launcher.folder / "gpus").read_text() == "3\n"


@pytest.mark.parametrize(
    ("statuses", "flags", "status", "calls"),
    [
        ((42, 42, 0), (), 0, 3),
        ((42,), ("--max_restarts=2",), 42, 3),
        ((42,), ("--max_restarts=0",), 42, 1),
        ((42, 1), (), 1, 2),
        ((130,), (), 130, 1),
    ],
)
def test_42_runs_it_again_a_bounded_number_of_times_and_nothing_else_does(launcher, statuses, flags, status, calls):
    launcher.fake("python", ends_with(*statuses))
    done = launcher.run("gpu.sh", *flags, "--", *RUN)
    assert done.returncode == status, done.stderr
    assert launcher.calls() == [["python", "-m", "ernie_m_jax.main", *RUN]] * calls
    assert done.stderr.count("restart ") == calls - 1
    assert ("--max_restarts" in done.stderr) == (status == 42)


@pytest.mark.parametrize(
    ("number", "caught", "status"),
    [(signal.SIGTERM, "TERM", 42), (signal.SIGINT, "INT", 130), (signal.SIGHUP, "TERM", 42)],
)
def test_a_signal_reaches_the_training_whose_status_is_handed_on(launcher, number, caught, status):
    loop = 'touch "$here/ready"; while :; do sleep 0.02; done'
    launcher.fake("python", f"trap 'sleep 0.1; echo {caught} >> \"$here/caught\"; exit {status}' {caught}; {loop}")
    process = launcher.start("gpu.sh", "--", *RUN)
    launcher.wait_for("ready")
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status  # it was stopped itself, so 42 starts nothing again
    assert (launcher.folder / "caught").read_text() == f"{caught}\n"
    assert len(launcher.calls()) == 1
    assert said == ""


def test_a_signal_between_two_runs_ends_the_waiting(launcher):
    launcher.fake("python", f'touch "$here/ready"; {ends_with(42)}')
    process = launcher.start("gpu.sh", "--restart_seconds=60", "--", *RUN)
    launcher.wait_for("ready")
    while "restart 1 of 100" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 42
    process.stderr.close()
    assert len(launcher.calls()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the training's flags are missing; they come after --"),
        (("--config=x",), "unknown flag --config; --help lists those of gpu.sh, the training's come after --"),
        (("--gpus",), "--gpus needs a value"),
        (("0", "--"), "unexpected argument 0; the training's flags come after --"),
        (("--dry_run=1", "--", "x"), "--dry_run takes no value"),
        (("--max_restarts=many", "--", "x"), "--max_restarts is 'many'; it must be a number from 0"),
        (
            ("--a[$(touch bad)]=1", "--"),
            "unknown flag --a[$(touch bad)]; --help lists those of gpu.sh, the training's come ",
        ),
        (("--python=no such", "--", "x"), "--python: there is no command 'no such'"),
    ],
)
def test_a_wrong_call_is_one_line(launcher, arguments, message):
    said = launcher.refused("gpu.sh", *arguments)
    assert said.startswith(message)
    assert "\n" not in said
    assert not (launcher.folder / "bad").exists()


def test_help_is_the_head_of_the_script(launcher):
    done = launcher.run("gpu.sh", "--help")
    assert done.returncode == 0
    assert "launch/gpu.sh [FLAGS] -- --config=" in done.stdout
    assert "--max_restarts" in done.stdout


@pytest.mark.slow
def test_two_processes_of_which_one_is_preempted_both_save_and_are_run_again(tmp_path):
    """Real ones: what they are told by the launcher, by JAX and by one another."""
    given = [*quick(tmp_path / "run", steps=60), f"--coordinator=localhost:{free_port()}", "--processes=2"]
    environment = dict(os.environ, JAX_PLATFORMS="cpu", JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo")
    flags = (f"--python={sys.executable}", "--max_restarts=1", "--restart_seconds=1", "--")
    started = []
    try:
        for process in (0, 1):
            with (tmp_path / f"{process}.log").open("w") as log:
                command = ["bash", str(LAUNCH / "gpu.sh"), *flags, *given, f"--process={process}"]
                started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        metrics = tmp_path / "run" / "stage1" / "metrics.jsonl"
        deadline = time.monotonic() + 900
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert time.monotonic() < deadline, "no step within the time"
            assert [launcher.poll() for launcher in started] == [None, None]
            time.sleep(0.05)
        second = started[1].pid
        (training,) = pathlib.Path(f"/proc/{second}/task/{second}/children").read_text().split()
        os.kill(int(training), signal.SIGTERM)
        assert [launcher.wait(timeout=900) for launcher in started] == [0, 0]
    finally:
        for launcher in started:
            launcher.terminate()  # and with it the training
            launcher.wait()
    logs = [(tmp_path / f"{process}.log").read_text() for process in (0, 1)]
    for log in logs:
        assert log.count("saved; the same command goes on from there") == 1
        assert "gpu.sh: preempted or hung (status 42); restart 1 of 1" in log
    assert "stage1: going on from step " in logs[0]
    assert (tmp_path / "run" / "summary.json").is_file()
