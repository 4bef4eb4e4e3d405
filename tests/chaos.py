"""Chaos: a run that is killed again and again, and checkpoints that are damaged at random. `make chaos`.

    python -m tests.chaos kills --rounds 10        SIGKILL at random instants of every kind of moment
    python -m tests.chaos damage --places 200      one flipped bit, a cut file, a missing file, in a finished run

Each round of `kills` is one run: a small one of two stages, which trains its tokenizer, evaluates, saves and deletes.
It is killed once in each kind of moment, in the order in which they come, and three times at any instant. Then it runs
to its end, and parameters, optimizer, data streams, metrics (but for times) and evaluation files must be those of an
undisturbed run to the bit. `damage` counts a checkpoint that is taken as good although a bit of it is not.
Exit status: 0 all as it should be; 1 something was not, and it is named.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 24
RUN = (
    "--config=configs/quickstart.py",
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
)
# Kind of moment -> module, what is called then, seconds within which the kill comes. In the order in which they come.
MOMENTS = {
    "tokenizer training": ("ernie_m_jax.tokenizer", "train", 1.0),
    "compilation": ("ernie_m_jax.training.loop", "_Loop.compile", 3.0),
    "step": ("ernie_m_jax.reporting.metrics", "Meter.read", 0.05),
    "save": ("ernie_m_jax.checkpoint.checkpoints", "Checkpoints.save", 0.3),
    "deletion of old steps": ("ernie_m_jax.checkpoint.saved_steps", "delete_old", 0.01),
    "evaluation": ("ernie_m_jax.evaluation.runner", "Evaluations.run", 0.5),
    "stage change": ("ernie_m_jax.training.run", "run_stage", 0.5),
}
ANY = "any instant"
TIMES = ("timing", "goodput")  # of a line of the metrics


def child(moment: str, number: int, delay: float, arguments: list[str]) -> None:
    """The command, killed `delay` seconds after the `number`-th call of what belongs to the moment begins.

    Of a stage change: after the stage's end.
    """
    import importlib

    from ernie_m_jax import main

    def kill() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == ANY:
        threading.Thread(target=kill, daemon=True).start()
    else:
        module, name, _ = MOMENTS[moment]
        *path, name = name.split(".")
        owner: Any = functools.reduce(getattr, path, importlib.import_module(module))
        original, calls = getattr(owner, name), 0

        @functools.wraps(original)
        def counted(*given: Any, **keys: Any) -> Any:
            nonlocal calls
            calls += 1
            if moment == "stage change":
                found = original(*given, **keys)
            if calls == number:
                threading.Thread(target=kill, daemon=True).start()
            return found if moment == "stage change" else original(*given, **keys)

        setattr(owner, name, counted)
    sys.argv = ["ernie-m-jax", *arguments]
    main.cli()


def start(workdir: pathlib.Path, *told: object) -> subprocess.CompletedProcess:
    """Runs the command, to be killed as `child` is told, or undisturbed."""
    arguments = [*RUN, f"--workdir={workdir}"]
    program = ["tests.chaos", "child", *map(str, told), "--"] if told else ["ernie_m_jax.main"]
    command, environment = [sys.executable, "-m", *program, *arguments], os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def observed(workdir: pathlib.Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was killed."""
    import jax
    import numpy as np

    from ernie_m_jax import config as configs
    from ernie_m_jax import config_files
    from ernie_m_jax.training import run, stages

    found: dict[str, Any] = {}
    for folder in (workdir / "stage1", workdir / "stage2"):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for number, line in enumerate(lines):
            found[f"{folder.name} line {number + 1}"] = {key: line[key] for key in line if key not in TIMES}
        for path in sorted(folder.glob("*.csv")):
            found[f"{folder.name} {path.name}"] = path.read_text()
    made = run.make(configs.resolve(config_files.stored_config_tree(workdir)), workdir)
    stage = stages.make_stage(made.config, "stage2", workdir / "stage2")
    state, streams, _ = stages.checkpoints(made, stage.directory).restore(None, stages.abstract_state(made, stage))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found[f"state{jax.tree_util.keystr(path)}"] = np.asarray(leaf).tobytes()
    return found | {f"stream {name}": value for name, value in streams.items()}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


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


def damage(places: int, seed: int, folder: pathlib.Path) -> list[str]:
    """Damages the newest checkpoint of a finished run; returns where that was not seen."""
    from ernie_m_jax.checkpoint import saved_steps
    from ernie_m_jax.checkpoint.manifest import CheckpointError

    done = start(folder / "run")
    if done.returncode:
        raise SystemExit(f"the run failed: {done.stderr[-2000:]}")
    checkpoints = folder / "run" / "stage2" / "checkpoints"
    rng, wrong, seen = random.Random(seed), [], dict.fromkeys(DAMAGES, 0)
    files = [path for path in sorted((checkpoints / str(STEPS)).rglob("*")) if path.is_file()]
    for number in range(places):
        kind = list(DAMAGES)[number % 10 if number % 10 < len(DAMAGES) else 0]  # seven in ten are bits
        path = rng.choice(files)
        content = path.read_bytes()
        DAMAGES[kind](path, content, rng)
        try:
            with contextlib.redirect_stdout(None):
                taken = saved_steps.newest_good(epath_of(checkpoints), set_aside=False)
        except CheckpointError:
            taken = None
        finally:
            path.write_bytes(content)
        changed = kind != "cut" or content
        if taken == STEPS and changed:
            wrong.append(f"{kind} {path.relative_to(checkpoints)} was not seen")
        seen[kind] += taken != STEPS
    print(f"{places} damages of {len(files)} files: seen {seen}; {len(wrong)} not seen", flush=True)
    if saved_steps.newest_good(epath_of(checkpoints), set_aside=False) != STEPS:
        wrong.append("the repaired checkpoint is not good again")
    return wrong


def epath_of(path: pathlib.Path) -> Any:
    """The path as the checkpoints' functions take it."""
    from etils import epath

    return epath.Path(path)


def _flip(path: pathlib.Path, content: bytes, rng: random.Random) -> None:
    if not content:
        path.write_bytes(b"x")
        return
    at = rng.randrange(len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])


DAMAGES: dict[str, Callable[[pathlib.Path, bytes, random.Random], None]] = {
    "flipped": _flip,
    "cut": lambda path, content, rng: path.write_bytes(content[: rng.randrange(max(len(content), 1))]),
    "missing": lambda path, content, rng: path.unlink(),
    "longer": lambda path, content, rng: path.write_bytes(content + b"\0"),
}


def main() -> int:
    """Runs what the command line asks for."""
    if sys.argv[1:2] == ["child"]:
        end = sys.argv.index("--")
        moment, number, delay = sys.argv[2:end]
        child(moment, int(number), float(delay), sys.argv[end + 1 :])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "damage"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        if arguments.what == "kills":
            wrong = kills(arguments.rounds, arguments.seed, pathlib.Path(folder))
        else:
            wrong = damage(arguments.places, arguments.seed, pathlib.Path(folder))
    print("\n".join(wrong) or "all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
