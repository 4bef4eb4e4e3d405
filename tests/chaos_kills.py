"""`python -m tests.chaos kills`, and `finetuning`: a run that is killed again and again, and started once more."""

import json
import pathlib
import random
import shutil
import time

from tests.chaos_child import ANY, Plan
from tests.chaos_runs import PRETRAINING, Report, Run, Undisturbed, killed, observed, start

COMPILING = "compilation"
TRIES = 3  # runs that may end before the same kill


def kills(rounds: int, seed: int, folder: pathlib.Path, run: Run = PRETRAINING) -> Report:
    """Kills runs."""
    report = Report(run.name)
    undisturbed = without(run, folder)
    report.show(f"undisturbed: {undisturbed.seconds:.0f} s, {len(undisturbed.wanted)} things compared")
    for number in range(rounds):
        _Round(run, undisturbed, report, folder / f"round{number}", random.Random(f"{run.name} {seed} {number}")).go()
        report.table(f"round {number}")
    return report


def without(run: Run, folder: pathlib.Path) -> Undisturbed:
    """Two runs that nobody kills: the second finds its programs in the cache, as most of those to be killed do."""
    lasted: dict[str, list[float]] = {}
    for name in ("compiling", "undisturbed"):
        begun, record = time.monotonic(), folder / f"{name}.json"
        done = start(folder / name, Plan(record=str(record)), run)
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr[-2000:]}")
        took = time.monotonic() - begun
        lasted = json.loads(record.read_text()) | ({COMPILING: lasted[COMPILING]} if lasted else {})
    shutil.rmtree(folder / "compiling")
    return Undisturbed(observed(folder / "undisturbed"), took, lasted)


class _Round:
    """One run, killed once in each of its moments and at some instants; more than one where it ends before that."""

    def __init__(self, run: Run, undisturbed: Undisturbed, report: Report, workdir: pathlib.Path, rng: random.Random):
        self._run, self._undisturbed, self._report = run, undisturbed, report
        self._workdir, self._rng = workdir, rng
        self._cache = workdir.with_suffix(".cache")  # empty, and then what a killed compilation leaves

    def go(self) -> None:
        """All kills, then the run to its end."""
        order = list(self._run.moments)
        for _ in range(self._run.instants):
            order.insert(self._rng.randint(1, len(order)), ANY)
        before = ""
        for moment in order:
            for _ in range(TRIES):
                if self._start(self._undisturbed.plan(moment, self._rng), before):
                    self._report.hit(moment)
                    break
            else:
                self._report.wrong.append(f"{self._workdir.name}: no kill in {moment} within {TRIES} runs")
            before = moment
        self._start(None, before)
        shutil.rmtree(self._cache, ignore_errors=True)

    def _start(self, plan: Plan | None, before: str) -> bool:
        """Starts the run once more; whether it was killed. One that has ended is compared and gone.

        What a killed compilation left in its cache is read by the start after it.
        """
        compiles = COMPILING in (before, plan.moment if plan else "")
        done = start(self._workdir, plan, self._run, self._cache if compiles else None)
        if killed(done.returncode):
            return True
        if done.returncode:
            self._report.wrong.append(
                f"{self._workdir.name}, {plan}: exit status {done.returncode}: {done.stderr[-1500:]}"
            )
            return False
        self._report.finished(self._workdir.name, self._workdir, self._undisturbed.wanted)
        shutil.rmtree(self._workdir)
        return False
