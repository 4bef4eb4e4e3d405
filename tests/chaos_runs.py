"""The run that `tests.chaos` kills and damages: starting it, killing it in a moment, and what must not differ."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
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
