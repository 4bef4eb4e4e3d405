"""What holds for every launcher: shellcheck finds nothing, --help and --dry_run are there, docs/launch.md has it."""

import pathlib
import subprocess
import sys

import pytest

from tests import launching
from tests.launching import LAUNCH, ROOT

launcher = launching.launcher
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))
LAUNCHERS = [path for path in SCRIPTS if path.name != "restart.sh"]


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    paths = [*map(str, SCRIPTS), str(ROOT / ".ci" / "run")]
    found = subprocess.run([shellcheck, "--external-sources", *paths], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_help_says_how_it_restarts_and_how_to_try_it(launcher, path):
    done = launcher.run(path, "--help")
    assert done.returncode == 0, done.stderr
    assert f"launch/{path.relative_to(LAUNCH)}" in done.stdout
    assert "--dry_run" in done.stdout
    if path.parent == LAUNCH:  # those that run the training
        assert "42" in done.stdout
        assert "--max_restarts" in done.stdout
