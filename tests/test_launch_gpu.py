"""launch/gpu.sh, and with it what launch/restart.sh gives every launcher: flags, quoting, restarts, signals."""

import signal

import pytest

from ernie_m_jax.training import preemption
from tests import launching
from tests.launching import LAUNCH, ends_with

launcher = launching.launcher
ODD = (
    '--config.data.monolingual.text.path=it\'s/{language} $HOME `x` "y" \\ *.txt',
    "--config.languages=en,de",
    "",
    "ä",
)
RUN = ("--config=configs/quickstart.py", "--workdir=runs/a b")


def test_the_number_is_the_one_of_the_training():
    assert f"\nRESTART={preemption.RESTART} " in (LAUNCH / "restart.sh").read_text()


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
