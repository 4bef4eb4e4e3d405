"""`python -m tests.chaos kills`: a run that is killed again and again."""

import pathlib
import random
import shutil
import signal
import time

from tests.chaos_runs import ANY, MOMENTS, differences, observed, start


def kills(rounds: int, seed: int, folder: pathlib.Path) -> list[str]:
    """Kills runs; prints a table and returns what was not as it should be."""
    for name in ("compiling", "undisturbed"):  # the second finds its programs in the cache, as those to be killed do
        begun = time.monotonic()
        done = start(folder / name)
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr[-2000:]}")
    took, wanted = time.monotonic() - begun, observed(folder / "undisturbed")
    print(f"undisturbed: {took:.0f} s, {len(wanted)} things compared", flush=True)
    hits, wrong = dict.fromkeys([*MOMENTS, ANY], 0), []
    for number in range(rounds):
        rng, workdir = random.Random(f"{seed} {number}"), folder / f"round{number}"
        order = list(MOMENTS)
        for _ in range(3):
            order.insert(rng.randrange(len(order) + 1), ANY)
        for moment in order:
            # Half as long as a run takes, so that it does not end meanwhile: the other moments are still to come.
            told = (ANY, 1, rng.uniform(0, took / 2)) if moment == ANY else _at(moment, rng)
            done = start(workdir, *told)
            hits[moment] += done.returncode == -signal.SIGKILL
            if done.returncode not in (-signal.SIGKILL, 0):
                wrong.append(f"round {number}, {told}: exit status {done.returncode}: {done.stderr[-1500:]}")
        done = start(workdir)
        if done.returncode:
            wrong.append(f"round {number}, the last start: exit status {done.returncode}: {done.stderr[-1500:]}")
        elif differ := differences(observed(workdir), wanted):
            wrong.append(f"round {number}: {len(differ)} of {len(wanted)} differ: {', '.join(differ[:5])}")
        print(f"round {number}: {hits}, {len(wrong)} wrong", flush=True)
        shutil.rmtree(workdir)
    return wrong


def _at(moment: str, rng: random.Random) -> tuple[str, int, float]:
    """Which call of the moment's is killed, and how long after it began."""
    once = moment in ("tokenizer training", "compilation", "stage change")
    return moment, 1 if once else rng.randint(1, 2), rng.uniform(0, MOMENTS[moment][2])
