"""The launchers' tests: their scripts run for real, with stand-ins on PATH for what they would start."""

import os
import pathlib
import shlex
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# Everything that a launcher may start. Each has a stand-in in every test, so that no test reaches a real one.
COMMANDS = ("docker", "gcloud", "kubectl", "python", "sbatch", "scontrol", "srun", "ssh", "xpk")
# Notes its arguments, then does what the test says: `$n` counts the calls of one command from 1.
STAND_IN = """#!/bin/bash
here={here} name={name}
n=$(($(cat "$here/$name.count" 2>/dev/null || echo 0) + 1))
echo "$n" > "$here/$name.count"
printf '%s\\0' "$name" "$@" >> "$here/calls"
printf '\\1' >> "$here/calls"
{body}
"""
# Undoes what nohup and a shell's & do: no shell can catch a signal that it was started to ignore.
HEEDING = ("/usr/bin/env", "--default-signal=HUP,INT")
REFUSED = "echo 'this test expects no call' >&2; exit 99"


def ends_with(*statuses):
    """A body: the statuses of the calls in turn, the last of them from then on."""
    cases = " ".join(f"{number}) exit {status} ;;" for number, status in enumerate(statuses, 1))
    return f"case $n in {cases} *) exit {statuses[-1]} ;; esac"


class Launcher:
    """Runs the scripts of launch/ with the stand-ins."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in COMMANDS:
            self.fake(name, REFUSED)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "SLURM_"))}
        self.environment = inherited | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "LAUNCH_RESTART_SECONDS": "0"}

    def fake(self, name, body):
        path = self.folder / "bin" / name
        path.write_text(STAND_IN.format(here=shlex.quote(str(self.folder)), name=name, body=body))
        path.chmod(0o755)

    def run(self, script, *arguments, **environment):
        return subprocess.run(
            ["bash", str(LAUNCH / script), *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            [*HEEDING, "bash", str(LAUNCH / script), *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dry(self, script, *arguments, **environment):
        """The commands of a dry run, each as its words; nothing may have been called."""
        done = self.run(script, "--dry_run", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert self.calls() == []
        return [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]

    def refused(self, script, *arguments, **environment):
        """What a wrong call says."""
        done = self.run(script, *arguments, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        assert self.calls() == []
        return done.stderr.removeprefix("error: ").rstrip("\n")

    def calls(self, name=None):
        """The arguments of every call so far, the command's name first."""
        path = self.folder / "calls"
        ended = path.read_text().split("\1")[:-1] if path.exists() else []
        found = [call.split("\0")[:-1] for call in ended]
        return [call for call in found if name in (None, call[0])]

    def wait_for(self, path):
        deadline = time.monotonic() + 30
        while not (self.folder / path).exists():
            assert time.monotonic() < deadline, f"no {path} within the time"
            time.sleep(0.01)


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)
