"""Where a run of the tests begins (`--begin`), in a process of its own."""

import subprocess
import sys

import pytest

FILES = ["tests/test_draws.py", "tests/test_guard.py", "tests/test_spikes.py"]


def collected(*arguments: str) -> list[str]:
    """The tests of FILES in the order in which they would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *FILES, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if "::" in line]


@pytest.mark.slow
def test_a_run_begins_with_the_first_module_behind_the_share_and_wraps_around():
    """Modules stay whole; begun within the first, a run starts with the second, within the last, with the first."""
    plain, behind_first, behind_last = collected(), collected("--begin", "10"), collected("--begin", "99")
    of = [[name for name in plain if name.startswith(file)] for file in FILES]
    assert all(of)
    assert plain == of[0] + of[1] + of[2]
    assert behind_first == of[1] + of[2] + of[0]
    assert behind_last == plain


@pytest.mark.slow
@pytest.mark.parametrize("percent", ["-5", "100"])
def test_what_is_no_share_is_refused(percent):
    with pytest.raises(subprocess.CalledProcessError) as error:
        collected("--begin", percent)
    assert error.value.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--begin takes 0 to 99, got {percent}" in error.value.output + error.value.stderr
