"""The paper's claim in small: the arms of `ablation_arms.py` side by side, on a corpus of `ablation_corpus.py`.

    python benchmarks/ablation.py --corpus corpus --workdir runs/ablation --output ablation.json --jobs 16 --minutes 9.5

Each arm is a run of `configs/pretrain/ablation.py:size=study` in a process of its own, --jobs at a time; on one GPU the
processes share it. First all of the first phase, then those that start from one of them. --minutes after the start what
still runs is stopped, and counts as unfinished. Arguments that begin with --config. go to every arm. Prints a row per
group of arms, mean and range over seeds, and writes every number of every arm, with hardware, versions and date.
Finished arms in --workdir are not run again, so that a second call may add arms.

Layers: "dev" and "test" are retrieval (percent, mean over all directions) at the layer that is best on dev, chosen arm
by arm; "last" is test at the last layer, "layers" its mean over all layers above the embeddings; "udhr" is another
domain's, at dev's layer. "margin" is test by margin scoring to and from English, at the layer best on dev. "words" is
CAMLM's accuracy on dev in percent, "text" MMLM's: how well words are restored from the translation alone, and from
their own sentence.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import ablation_arms
from ablation_arms import Arm
from objectives import ROOT, processor

CONFIG = "configs/pretrain/ablation.py"
COLUMNS = (
    "dev",
    "test",
    "last",
    "layers",
    "margin",
    "udhr",
    "words",
    "text",
    "btmlm loss",
    "steps",
    "Mtokens",
    "minutes",
)
SAFETY = 0.65  # of the steps that the time left holds: more arms share the machine, and BTMLM's steps take longer
GRACE = 20  # seconds that a run has for saving once it is told to stop


class Runner:
    """Runs arms until the time is up.

    Attributes:
      workdir: has a directory and a log of each arm.
    """

    def __init__(self, corpus: pathlib.Path, workdir: pathlib.Path, steps: Mapping[str, int], seconds: float):
        """Starts the clock.

        Args:
          corpus: the folder of the corpus.
          workdir: of all arms.
          steps: of an arm of the stages "first" and "second".
          seconds: until what runs is stopped.
        """
        self.workdir = workdir
        self._corpus, self._steps = corpus.absolute(), steps
        self._end = time.monotonic() + seconds

    def fit_second(self, first: Sequence[Mapping[str, Any]]) -> None:
        """Gives the second stage as many steps as the time left holds, by what the slowest arms of the first took.

        Args:
          first: `numbers` of the first phase's arms.
        """
        training = [arm["stage"]["tokens"] / arm["stage"]["tokens_per_second"] for arm in first]
        slowest = min(arm["stage"]["steps"] / seconds for arm, seconds in zip(first, training, strict=True))
        rest = max(60 * arm["columns"]["minutes"] - seconds for arm, seconds in zip(first, training, strict=True))
        left = self._end - time.monotonic()
        self._steps = {**self._steps, "second": max(1, int(SAFETY * slowest * (left - rest)))}
        print(f"{left:.0f} s are left: {self._steps['second']} steps in the second phase", flush=True)

    def command(self, arm: Arm, flags: Sequence[str]) -> list[str]:
        """An arm's command line."""
        argument = f"experiment={arm.experiment},size=study,stage={arm.stage},corpus={self._corpus}"
        stage = {"first": "stage1", "second": "stage2"}[arm.stage]
        start = self.workdir.absolute() / f"{arm.start}-{arm.seed}"
        return [
            *(sys.executable, "-m", "ernie_m_jax.main"),
            f"--config={CONFIG}:{argument},pairs={arm.pairs},seed={arm.seed}",
            f"--workdir={self.workdir.absolute() / arm.name}",
            f"--config.stages.{stage}.steps={self._steps[arm.stage]}",
            *([f"--config.init.params={start}"] if arm.start else []),
            *arm.flags,
            *flags,
        ]

    def _unequal(self, arm: Arm) -> str:
        """Nothing, or why a finished arm must not stand beside the others: an earlier call gave it other steps."""
        stages = json.loads((self.workdir / arm.name / "config.json").read_text("utf-8"))["config"]["stages"]
        (steps,) = (stage["steps"] for stage in stages.values())
        wanted = self._steps[arm.stage]
        return "" if steps == wanted else f"it has {steps} steps from an earlier call, the others {wanted}"

    def run(self, arm: Arm, flags: Sequence[str]) -> str:
        """Runs an arm unless it is finished; "" or why it is not."""
        done = self.workdir / arm.name / "summary.json"
        if done.exists():
            return self._unequal(arm)
        if arm.start and not (self.workdir / f"{arm.start}-{arm.seed}" / "summary.json").exists():
            return f"{arm.start}-{arm.seed} is not finished"
        if time.monotonic() >= self._end:
            return "not begun: no time left"
        self.workdir.mkdir(parents=True, exist_ok=True)
        with (self.workdir / f"{arm.name}.log").open("w") as log:
            process = subprocess.Popen(
                self.command(arm, flags), cwd=ROOT, stdout=log, stderr=log, env={**_environment(), **os.environ}
            )
            timer = threading.Timer(max(self._end - time.monotonic(), 0), _stop, (process,))
            timer.start()
            status = process.wait()
            timer.cancel()
        return "" if done.exists() else f"ended with status {status}; see {arm.name}.log"


def _environment() -> dict[str, str]:
    """What processes that share a GPU and a CPU need, where the caller's environment says nothing else."""
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)  # saves after the step that it is in
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def phase(runner: Runner, arms: Sequence[Arm], flags: Sequence[str], jobs: int) -> Iterator[tuple[Arm, str]]:
    """Runs arms, `jobs` at a time in their order; each with "" or why it is not finished, once it is known."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(runner.run, arm, flags): arm for arm in arms}
        for future in concurrent.futures.as_completed(waiting):
            yield waiting[future], future.result()


def numbers(workdir: pathlib.Path, arm: Arm) -> dict[str, Any]:
    """What a finished arm found: its stage's summary, and the columns of the table."""
    stage = {"first": "stage1", "second": "stage2"}[arm.stage]
    found = json.loads((workdir / arm.name / stage / "summary.json").read_text())
    whole = json.loads((workdir / arm.name / "summary.json").read_text())
    evals = found["evals"]
    layers = by_layer(evals["dev"])
    best, margin = (max(values, key=values.__getitem__) for values in (layers, by_layer(evals["dev_margin"])))
    test = by_layer(evals["test"])
    columns = {
        "dev": layers[best],
        "test": test[best],
        "last": test[max(test)],
        "layers": mean(value for layer, value in test.items() if layer),
        "margin": by_layer(evals["test_margin"])[margin],
        "udhr": by_layer(evals["udhr"])[best],
        "words": 100 * evals["words"]["accuracy"],
        "text": 100 * evals["text"]["accuracy"],
        "btmlm loss": found["objectives"].get("btmlm", {}).get("loss"),
        "steps": found["steps"],
        "Mtokens": found["tokens"] / 1e6,
        "minutes": whole["wall_seconds"] / 60,
    }
    chosen = {"layer": best, "margin_layer": margin}
    return {"columns": columns, "chosen": chosen, "stage": found, "versions": whole["versions"]}


def by_layer(metrics: Mapping[str, float]) -> dict[int, float]:
    """The mean over all directions after each layer; 0 is the embeddings."""
    means = {name: value for name, value in metrics.items() if name.startswith("layer") and name.endswith("/average")}
    return {int(name.partition("/")[0].removeprefix("layer")): value for name, value in means.items()}


def table(found: Mapping[str, Mapping[str, Any]], arms: Sequence[Arm]) -> str:
    """A Markdown table, a row per group: mean over its arms, and the range where there are several."""
    lines = [f"| arm | seeds | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for group in dict.fromkeys(arm.group for arm in arms):
        members = [found[arm.name]["columns"] for arm in arms if arm.group == group and arm.name in found]
        if members:
            cells = [_cell([member[column] for member in members]) for column in COLUMNS]
            lines.append(f"| {group} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if min(known) == max(known):
        return f"{known[0]:.4g}"
    return f"{mean(known):.1f} ({min(known):.1f}-{max(known):.1f})"


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder that ablation_corpus.py wrote")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    parser.add_argument("--arms", nargs="+", default=[], help="groups to run, with what they start from; none: all")
    parser.add_argument("--seeds", type=int, default=0, help="leave out seeds from this one on; 0: none")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which what still runs is stopped")
    parser.add_argument("--stage1-steps", type=int, default=1500, help="of an arm of the first phase")
    parser.add_argument("--stage2-steps", type=int, default=1500, help="of the second; 0: what the time left holds")
    arguments, flags = parser.parse_known_args()
    if wrong := [flag for flag in flags if not flag.startswith("--config.")]:
        parser.error(f"unknown arguments: {' '.join(wrong)}")
    try:
        arms = ablation_arms.chosen(arguments.arms)
    except ValueError as error:
        parser.error(str(error))
    arms = [arm for arm in arms if not arguments.seeds or arm.seed < arguments.seeds]
    steps = {"first": arguments.stage1_steps, "second": arguments.stage2_steps or arguments.stage1_steps}
    runner = Runner(arguments.corpus, arguments.workdir, steps, 60 * arguments.minutes)
    begun, found, failed = time.monotonic(), {}, {}
    for starts in (False, True):
        timed = [arm for arm in found.values() if arm["stage"]["tokens_per_second"]]
        if starts and not arguments.stage2_steps and timed:
            runner.fit_second(timed)
        for arm, problem in phase(runner, [arm for arm in arms if bool(arm.start) == starts], flags, arguments.jobs):
            print(f"{time.monotonic() - begun:6.0f} s {arm.name}: {problem or 'finished'}", flush=True)
            if problem:
                failed[arm.name] = problem
            else:
                found[arm.name] = numbers(arguments.workdir, arm)
        print(table(found, arms), flush=True)
        _write(arguments, found, failed)


def _write(arguments: argparse.Namespace, found: Mapping[str, Any], failed: Mapping[str, str]) -> None:
    """Writes the results so far: after each phase, for what comes after may not be reached."""
    record = {
        "command": f"python benchmarks/ablation.py {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "unfinished": failed,
        "arms": found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
