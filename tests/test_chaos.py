"""The chaos of `make chaos`: that it kills where it says, sees what differs, and goes through."""

import json
import signal
import subprocess
import sys

import pytest

from tests import chaos_child, chaos_processes, chaos_runs
from tests.chaos_child import MOMENTS
from tests.command import ROOT

KILLS = {"kills": 10, "processes": 4, "finetuning": 10}  # of a round

# Says when what is awaited begins, then does it for a while.
PROGRAM = """
import time
from tests import chaos_child

def save(seconds):
    print("begun", flush=True)
    time.sleep(seconds)

chaos_child.MOMENTS.clear()
chaos_child.MOMENTS["save"] = chaos_child.Moment("__main__:save")
chaos_child.follow(chaos_child.Plan(**{plan}))
save({seconds})
print("ended", flush=True)
save(0)
"""


def killed(seconds, **plan):
    """How a process ends that is killed in a moment of so many seconds, and what it said until then."""
    program = PROGRAM.format(plan=plan, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    "place", sorted({place for one in MOMENTS.values() for place in (one.begins, one.ends)} - {""})
)
def test_every_moment_is_one_of_the_product(place):
    owner, name = chaos_child.found(place)
    assert callable(getattr(owner, name))


def test_a_kill_comes_within_its_moment():
    assert killed(20, moment="save", delay=0.2) == (-signal.SIGKILL, ["begun"])
    assert killed(0.01, moment="save", delay=20) == (-signal.SIGKILL, ["begun"])  # at its end at the latest
    assert killed(0.01, moment="save", number=2, delay=20) == (-signal.SIGKILL, ["begun", "ended", "begun"])
    assert killed(0.01, moment="save", number=3) == (0, ["begun", "ended", "begun"])


def test_a_moment_is_measured(tmp_path):
    assert killed(0.2, record=str(tmp_path / "seconds"))[0] == 0
    first, second = json.loads((tmp_path / "seconds").read_text())["save"]
    assert first > 0.2 > second


def test_another_process_is_killed():
    other = subprocess.Popen(["sleep", "60"])
    assert killed(1, moment="save", victim=other.pid)[0] == 0
    assert other.wait(timeout=30) == -signal.SIGKILL


def test_what_differs_is_named():
    assert chaos_runs.differences({"a": b"1", "b": 2}, {"a": b"1", "b": 3, "c": 4}) == ["b", "c"]


@pytest.mark.parametrize(
    ("victim", "status", "said", "seconds", "wrong"),
    [
        (1, 42, "error: process 1 of 2 is gone: nothing was heard; all processes end\n", 1, ""),
        (1, 42, "error: process 1 of 2 is gone: nothing was heard; all processes end\n", 61, "took 61 s"),
        (1, 42, "", 1, "exit status is 42"),
        (1, 1, "error: process 1 of 2 is gone: nothing was heard; all processes end\n", 1, "exit status is 1"),
        (0, -signal.SIGABRT, "JAX distributed service detected fatal errors", 1, ""),
        (0, -signal.SIGABRT, "std::bad_alloc", 1, "aborted"),
        (1, -signal.SIGABRT, "JAX distributed service detected fatal errors", 1, "exit status is -6"),
    ],
)
def test_the_end_of_the_other_process_is_judged(victim, status, said, seconds, wrong):
    found = chaos_processes.judged(victim, chaos_processes.Ended(status, said, 0.0), seconds)
    assert wrong in found
    assert bool(found) == bool(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
def test_a_round(kind, tmp_path):
    told = [sys.executable, "-m", "tests.chaos", kind, "--rounds", "1", "--output", str(tmp_path / "found.json")]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["wrong"] == []
    assert found["kills"] == sum(found["by_moment"].values()) == KILLS[kind]
    assert found["runs_compared"] >= 1


def test_predictions_of_a_killed_evaluation_leave_nothing(tmp_path):
    from ernie_m_jax.evaluation import runner
    from ernie_m_jax.evaluation.evaluator import Outcome

    class One:
        run = staticmethod(lambda *_: Outcome({}, {"dev-en.tsv": ["a"]}))
        show = staticmethod(lambda *_: [])
        write = staticmethod(lambda *_: None)

    folder = tmp_path / "dev-predictions"
    folder.mkdir()
    (folder / ".dev-en.tsv.0.tmp").touch()
    evaluations = object.__new__(runner.Evaluations)
    evaluations.evaluators = {"dev": One()}
    evaluations.run("dev", None, None, None, tmp_path, "dev-4")
    assert [path.name for path in folder.iterdir()] == ["dev-en.tsv"]
