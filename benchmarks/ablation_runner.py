"""Runs the arms of `ablation.py`, each in a process of its own, until the time is up."""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ablation_arms import Arm
from machine import ROOT

CONFIG = "configs/pretrain/ablation.py"
# Steps of each phase, the share of pairs in the corpus, and how many of the CAMLM arms' checkpoints are measured.
SIZES = {"study": (1_500, 1_500, "05"), "study-cpu": (2_000, 1_000, "33"), "study-messages": (1_700, 1_000, "50")}
CHECKPOINTS = 4
SAFETY = 0.65  # of the steps that the time left holds: more arms share the machine, and BTMLM's steps take longer
GRACE = 20  # seconds that a run has for saving once it is told to stop


class Runner:
    """Runs arms until the time is up.

    Attributes:
      workdir: has a directory and a log of each arm.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        steps: Mapping[str, int],
        flags: Sequence[str] = (),
    ):
        """Starts the clock.

        Args:
          arguments: of the command line.
          steps: of an arm of the stages "first" and "second".
          flags: for every arm.
        """
        self.workdir, self._size = arguments.workdir, arguments.size
        self._pairs = SIZES[arguments.size][2]
        self._corpus, self._steps = arguments.corpus.absolute(), steps
        self._measures = arguments.measures
        also = (name_and_path.split("=", 1) for name_and_path in arguments.also)
        self._flags = [*flags, *(flag for name, path in also for flag in _retrieval(name, path))]
        self._end = time.monotonic() + 60 * arguments.minutes
        self._cores: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
        cores = sorted(os.sched_getaffinity(0))
        for job in range(arguments.jobs):
            self._cores.put(set(cores[job % len(cores) :: arguments.jobs] if arguments.pin else cores))

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

    def command(self, arm: Arm) -> list[str]:
        """An arm's command line."""
        argument = f"experiment={arm.experiment},size={self._size},stage={arm.stage},corpus={self._corpus}"
        stage = {"first": "stage1", "second": "stage2"}[arm.stage]
        start = self.workdir.absolute() / f"{arm.start}-{arm.seed}"
        return [
            *(sys.executable, "-m", "ernie_m_jax.main"),
            f"--config={CONFIG}:{argument},pairs={arm.pairs or self._pairs},{arm.keys}",
            f"--workdir={self.workdir.absolute() / arm.name}",
            f"--config.stages.{stage}.steps={self._steps_of(arm)}",
            *([f"--config.init.params={start}"] if arm.start else []),
            *(self._kept(arm) if self._followed(arm) else []),
            *arm.flags,
            *([f"--config.objectives.ceiling.path={self._written(arm)}/{{language}}.tsv.gz"] * arm.reads_written),
            *self._flags,
        ]

    def _written(self, arm: Arm) -> pathlib.Path:
        return self.workdir.absolute() / f"{arm.start}-{arm.seed}" / f"written-{arm.pairs or self._pairs}"

    def _steps_of(self, arm: Arm) -> int:
        return 1 if arm.experiment == "exp0" else self._steps[arm.stage]

    def _followed(self, arm: Arm) -> bool:
        """Whether its writing is measured during training: that of the generators."""
        return self._measures and arm.stage == "first" and arm.experiment == "exp3"

    def _kept(self, arm: Arm) -> tuple[str, ...]:
        every = max(1, self._steps_of(arm) // CHECKPOINTS)
        return f"--config.train.save_every={every}", "--config.train.max_to_keep=0"

    def _unequal(self, arm: Arm) -> str:
        """Nothing, or why a finished arm must not stand beside the others: an earlier call gave it something else."""
        config = json.loads((self.workdir / arm.name / "config.json").read_text("utf-8"))["config"]
        (steps,) = (stage["steps"] for stage in config["stages"].values())
        found = {"steps": steps, "corpus": config["tokenizer"]["path"].removesuffix("/tokenizer")}
        wanted = {"steps": self._steps_of(arm), "corpus": str(self._corpus)}
        other = [f"{what} {value}" for what, value in found.items() if value != wanted[what]]
        return f"an earlier call gave it {', '.join(other)}; take another --workdir" if other else ""

    def run(self, arm: Arm) -> str:
        """Runs and measures an arm unless that is done; "" or why it is not."""
        cores = self._cores.get()
        try:
            return self._trained(arm, cores) or self._measured(arm, cores)
        finally:
            self._cores.put(cores)

    def _trained(self, arm: Arm, cores: set[int]) -> str:
        done = self.workdir / arm.name / "summary.json"
        if done.exists():
            return self._unequal(arm)
        if arm.start and not (self.workdir / f"{arm.start}-{arm.seed}" / "summary.json").exists():
            return f"{arm.start}-{arm.seed} is not finished"
        if arm.reads_written and not (written := self._written(arm)).exists():
            text = self._corpus / f"pairs-{arm.pairs or self._pairs}" / "text"
            command = [sys.executable, str(pathlib.Path(__file__).parent / "ablation_written.py")]
            command += ["--run", str(written.parent), "--text", str(text), "--output", str(written)]
            status = self._process(command, f"{arm.name}.written.log", cores)
            if not written.exists():
                return status
        status = self._process(self.command(arm), f"{arm.name}.log", cores)
        return "" if done.exists() else status

    def _measured(self, arm: Arm, cores: set[int]) -> str:
        run = self.workdir / arm.name
        if not self._measures or (run / "measures.json").exists():
            return ""
        command = [sys.executable, str(pathlib.Path(__file__).parent / "ablation_measures.py"), "--run", str(run)]
        command += ["--corpus", str(self._corpus), *(["--every"] if self._followed(arm) else [])]
        status = self._process(command, f"{arm.name}.measures.log", cores)
        return "" if (run / "measures.json").exists() else status

    def _process(self, command: Sequence[str], log_name: str, cores: set[int]) -> str:
        """Runs a command until it ends or the time is up; how it ended, for a message."""
        if time.monotonic() >= self._end:
            return "not begun: no time left"
        self.workdir.mkdir(parents=True, exist_ok=True)
        with (self.workdir / log_name).open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**_environment(), **os.environ},
                preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
            )
            timer = threading.Timer(max(self._end - time.monotonic(), 0), _stop, (process,))
            timer.start()
            status = process.wait()
            timer.cancel()
        return f"ended with status {status}; see {log_name}"


def _retrieval(name: str, path: str) -> list[str]:
    """Flags that add a retrieval set to a run's evaluations."""
    entry = f"--config.evals.{name}"
    return [f"{entry}.kind=retrieval", f"{entry}.source.path={path}", f"{entry}.every_layer=True",
            f"{entry}.start=False"]  # fmt: skip


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


def phase(runner: Runner, arms: Sequence[Arm], jobs: int) -> Iterator[tuple[Arm, str]]:
    """Runs arms, `jobs` at a time in their order; each with "" or why it is not finished, once it is known."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(runner.run, arm): arm for arm in arms}
        for future in concurrent.futures.as_completed(waiting):
            yield waiting[future], future.result()
