"""`python -m tests.chaos processes`: a run of two processes, one of which is killed, so that the other must end too.

The first process is the one that looks for the moment, whichever of the two is killed then: only it trains the
tokenizer, deletes old steps and writes what evaluations find, and the other waits for it meanwhile.
"""

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests import several
from tests.chaos_child import Plan
from tests.chaos_kills import COMPILING, TRIES
from tests.chaos_runs import PRETRAINING, ROOT, Report, Undisturbed, command, environment, killed, observed

COUNT = 2
LIMIT = 60  # seconds from a process's death to the other's end
MOMENTS = (*PRETRAINING.moments, "joined")  # the last: any instant since they have met
PER_ROUND = 4  # kills, each process twice
AGAIN = 42  # exit status: start it again


class Ended(NamedTuple):
    """How a process ended: its exit status, standard error, and when."""

    status: int
    said: str
    when: float


def processes(rounds: int, seed: int, folder: pathlib.Path) -> Report:
    """Kills one of two processes, again and again."""
    report = Report("two processes")
    undisturbed = without(folder)
    report.show(f"undisturbed: {undisturbed.seconds:.0f} s, {len(undisturbed.wanted)} things compared")
    for number in range(rounds):
        workdir, rng = folder / f"round{number}", random.Random(f"processes {seed} {number}")
        # Two rounds meet every moment, in the order in which they come; the two after that with the other process.
        for place in range(PER_ROUND):
            moment, victim = MOMENTS[number % 2 * PER_ROUND + place], (place + number // 2) % COUNT
            kill(moment, victim, workdir, undisturbed, report, rng)
        finish(workdir, undisturbed, report)
        report.table(f"round {number}")
    return report


def without(folder: pathlib.Path) -> Undisturbed:
    """Two runs that nobody kills, as in `chaos_kills`."""
    lasted: dict[str, list[float]] = {}
    for name in ("compiling", "undisturbed"):
        begun, record = time.monotonic(), folder / f"{name}.json"
        ended = run(folder / name, Plan(record=str(record)))
        if any(one.status for one in ended):
            raise SystemExit(f"the undisturbed run failed: {[one.said[-2000:] for one in ended]}")
        took = time.monotonic() - begun
        lasted = json.loads(record.read_text()) | ({COMPILING: lasted[COMPILING]} if lasted else {})
    lasted["joined"] = [took / 2]  # as `ANY` of one process
    shutil.rmtree(folder / "compiling")
    return Undisturbed(observed(folder / "undisturbed"), took, lasted)


def kill(
    moment: str, victim: int, workdir: pathlib.Path, undisturbed: Undisturbed, report: Report, rng: random.Random
) -> None:
    """Kills a process in a moment; where the run ends before that, in the same moment of another run."""
    for _ in range(TRIES):
        plan = undisturbed.plan(moment, rng)
        ended = run(workdir, plan, victim)
        if killed(ended[victim].status):
            report.hit(f"{'any instant' if moment == 'joined' else moment}, process {victim}")
            other = ended[1 - victim]
            if wrong := judged(victim, other, other.when - ended[victim].when):
                report.wrong.append(f"{workdir.name}, process {victim}, {plan}: {wrong}")
            return
        compare(ended, workdir, undisturbed, report)
    report.wrong.append(f"{workdir.name}: no kill of process {victim} in {moment} within {TRIES} runs")


def judged(victim: int, other: Ended, seconds: float) -> str:
    """What is wrong with the end of the process that was not killed; empty: nothing."""
    if seconds > LIMIT:
        return f"the other took {seconds:.0f} s to end"
    if victim == 0 and other.status == -signal.SIGABRT:  # of JAX, whose service process 0 is
        return "" if "JAX distributed service detected fatal errors" in other.said else f"aborted: {other.said[-1500:]}"
    said = re.search(rf"^error: process {victim} of {COUNT} is gone: .*; all processes end$", other.said, re.MULTILINE)
    if other.status != AGAIN or not said or "Traceback" in other.said:
        return f"the other's exit status is {other.status}: {other.said[-1500:]}"
    return ""


def finish(workdir: pathlib.Path, undisturbed: Undisturbed, report: Report) -> None:
    """Runs it to its end."""
    compare(run(workdir), workdir, undisturbed, report)


def compare(ended: Sequence[Ended], workdir: pathlib.Path, undisturbed: Undisturbed, report: Report) -> None:
    """Of a run in which nobody was killed."""
    if any(one.status for one in ended):
        report.wrong.append(f"{workdir.name}: {[(one.status, one.said[-1500:]) for one in ended]}")
    else:
        report.finished(workdir.name, workdir, undisturbed.wanted)
    shutil.rmtree(workdir)


def run(workdir: pathlib.Path, plan: Plan | None = None, victim: int = 0) -> list[Ended]:
    """Starts both and waits for their ends; the plan is the first one's, and may be the death of the other."""
    port, started = several.free_port(), dict[int, Any]()
    for number in reversed(range(COUNT)):  # the first one is told the other's number
        own = environment(workdir.parent / "cache") | {
            "XLA_FLAGS": "",
            # JAX's cache is written by the first process, and the other finds none of its programs there.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(COUNT),
            "JAX_PROCESS_ID": str(number),
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        }
        told = None if number or plan is None else plan
        if told is not None and victim:
            told = Plan(plan.moment, plan.number, plan.delay, started[victim].pid)
        said = (workdir.parent / f"{number}.stderr").open("w+")
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": said}
        process = subprocess.Popen(command(PRETRAINING.arguments, workdir, told), cwd=ROOT, env=own, **quiet)
        process.said, started[number] = said, process
    return wait([started[number] for number in range(COUNT)])


def wait(started: Sequence[Any]) -> list[Ended]:
    """Waits for the ends of all; what goes on long after another has ended is killed, and so seen to be late."""
    ends: dict[int, float] = {}
    while len(ends) < len(started):
        for number, process in enumerate(started):
            if number not in ends and process.poll() is not None:
                ends[number] = time.monotonic()
            elif number not in ends and ends and time.monotonic() - min(ends.values()) > 2 * LIMIT:
                process.kill()
        time.sleep(0.02)
    found = []
    for number, process in enumerate(started):
        process.said.seek(0)
        found.append(Ended(process.returncode, process.said.read(), ends[number]))
        process.said.close()
    return found
