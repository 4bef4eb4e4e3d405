"""The runs that `tests.chaos` kills and damages: starting them, what must not differ at their end, and what is told."""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from tests.chaos_child import ANY, Plan

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 24
TIMES = ("timing", "goodput")  # of a line of the metrics
SPEED = ("tokens_per_second", "data_wait")  # of a stage's summary


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to be killed.

    Attributes:
      name: what is told of it begins with that.
      arguments: of the command, without --workdir.
      moments: of one round, in the order in which they come; `ANY` is put among them.
      instants: how many kills at any instant a round has besides.
    """

    name: str
    arguments: tuple[str, ...]
    moments: tuple[str, ...]
    instants: int


PRETRAINING = Run(
    "pre-training",
    (
        "--config=configs/quickstart.py",
        "--config.languages=en,de",
        "--config.model.hidden_size=32",
        "--config.model.ffn_size=48",
        "--config.model.num_layers=1",
        "--config.model.vocab_size=800",
        "--config.train.log_every=2",
        "--config.train.save_every=4",
        "--config.train.max_to_keep=2",
        "--config.evals.retrieval.every=8",
        "--config.stages.stage1.weights={'camlm': 1.0}",
        "--config.stages.stage2.weights={'btmlm': 1.0}",
        *(
            f"--config.stages.{stage}.{key}"
            for stage in ("stage1", "stage2")
            for key in (f"steps={STEPS}", "warmup_steps=1")
        ),
    ),
    ("tokenizer training", "compilation", "step", "save", "deletion of old steps", "evaluation", "stage change"),
    instants=3,
)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """Of a run whose compiled programs, the smallest too, lie in a folder: so a start compiles what is new only."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(arguments: tuple[str, ...], workdir: pathlib.Path, plan: Plan | None = None) -> list[str]:
    """The command itself, or under a plan."""
    told = ["tests.chaos_child", json.dumps(dataclasses.asdict(plan))] if plan else ["ernie_m_jax.main"]
    return [sys.executable, "-m", *told, *arguments, f"--workdir={workdir}"]


def start(
    workdir: pathlib.Path, plan: Plan | None = None, run: Run = PRETRAINING, cache: pathlib.Path | None = None
) -> subprocess.CompletedProcess:
    """Runs it to its end, or until it is killed as the plan says; its programs are kept beside the work directory."""
    told, own = command(run.arguments, workdir, plan), environment(cache or workdir.parent / "cache")
    return subprocess.run(told, env=own, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def observed(workdir: pathlib.Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was killed."""
    from ernie_m_jax.checkpoint import tree
    from tests import selecting

    found: dict[str, Any] = {}
    for folder in sorted(path.parent for path in workdir.glob("*/checkpoints")):
        stage = folder.name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for number, line in enumerate(lines, 1):
            found[f"{stage} line {number}"] = {key: line[key] for key in line if key not in TIMES}
        for path in sorted([*folder.glob("*.csv"), *folder.glob("*-predictions/*")]):
            found[f"{stage} {path.relative_to(folder)}"] = path.read_bytes()
        summary = json.loads((folder / "summary.json").read_text())
        found[f"{stage} summary"] = {key: summary[key] for key in summary if key not in SPEED}
        found[f"{stage} selected"] = selecting.selected(folder)
        found[f"{stage} steps"] = selecting.steps(folder)
        for step in selecting.steps(folder):
            arrays, streams, meta = selecting.saved(folder, step)
            for name, leaf in tree.named(arrays).items():
                found[f"{stage} {step} {name}"] = leaf.tobytes()
            found |= {f"{stage} {step} stream {name}": value for name, value in streams.items()}
            found[f"{stage} {step} meta"] = meta
    return found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


class Report:
    """What a kind of chaos found.

    Attributes:
      wrong: what was not as it should be; empty: nothing.
    """

    def __init__(self, name: str):
        self.name, self.wrong = name, list[str]()
        self._hits, self._finished, self._things, self._begun = Counter[str](), 0, 0, time.monotonic()

    def show(self, text: str) -> None:
        """Prints a line of this kind's."""
        print(f"{self.name}: {text}", flush=True)

    def hit(self, moment: str) -> None:
        """A process was killed in a moment."""
        self._hits[moment] += 1

    def finished(self, where: str, workdir: pathlib.Path, wanted: dict[str, Any]) -> None:
        """A run that was killed has ended: it is compared with one that was not."""
        self._finished += 1
        self._things = len(wanted)
        if differ := differences(observed(workdir), wanted):
            self.wrong.append(f"{where}: {len(differ)} of {len(wanted)} differ: {', '.join(differ[:5])}")

    def table(self, where: str) -> None:
        """Prints which moment was met how often so far."""
        self.show(f"{where}: {self._hits.total()} kills, {self._finished} runs compared, {len(self.wrong)} wrong")
        for moment, count in sorted(self._hits.items()):
            print(f"  {moment:<45} {count:>4}", flush=True)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kills": self._hits.total(),
            "by_moment": dict(sorted(self._hits.items())),
            "runs_compared": self._finished,
            "things_compared_per_run": self._things,
            "wrong": self.wrong,
            "seconds": round(time.monotonic() - self._begun, 1),
        }


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What is known of a run that was not killed.

    Attributes:
      wanted: `observed`.
      seconds: that it took, its programs being compiled before.
      lasted: seconds of each occurrence of each moment; of compilations, without a cache.
    """

    wanted: dict[str, Any]
    seconds: float
    lasted: dict[str, list[float]]

    def plan(self, moment: str, rng: random.Random, **keys: Any) -> Plan:
        """A kill at a random instant of a moment; at any instant, of the first half of a run.

        The half keeps most of the killed runs from ending before, and from the next start on it is the other half.
        """
        if moment == ANY:
            return Plan(ANY, 1, rng.uniform(0, self.seconds / 2), **keys)
        lasted = self.lasted.get(moment) or [0.0]
        late = {"step": 6, "stage change": 1, "tokenizer training": 1, "compilation": 1, "joined": 1}.get(moment, 2)
        # The first step of a process is mostly its compilation, which is a moment of its own.
        number = rng.randint(2 if moment == "step" else 1, late)
        return Plan(moment, number, rng.uniform(0, sorted(lasted)[len(lasted) // 2]), **keys)


def killed(status: int) -> bool:
    """Whether a process ended by SIGKILL."""
    return status == -signal.SIGKILL
