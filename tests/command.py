"""The command as a user gives it: real argv in a process of its own."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = "--config=configs/quickstart.py"
SMALL = (
    QUICKSTART,
    "--config.model.hidden_size=32",
    "--config.model.ffn_size=48",
    "--config.model.vocab_size=800",
    "--config.train.log_every=2",
)


# One objective per stage: each more is a program more to compile.
ONE_EACH = (
    "--config.stages.stage1.weights={'camlm': 1.0}",
    "--config.stages.stage2.weights={'btmlm': 1.0}",
)


def command(*arguments):
    return [sys.executable, "-m", "ernie_m_jax.main", *map(str, arguments)]


def call(*arguments, status=0, env=None):
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=env
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done


def refused(*arguments, env=None):
    """What the command says when it refuses; without a traceback."""
    said = call(*arguments, status=2, env=env).stderr
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said.removeprefix("error: ").rstrip("\n")


def quick(workdir, steps=4):
    """A run of some steps per stage."""
    return (
        *SMALL,
        *ONE_EACH,
        f"--workdir={workdir}",
        f"--config.stages.stage1.steps={steps}",
        f"--config.stages.stage2.steps={steps}",
        "--config.stages.stage1.warmup_steps=1",
        "--config.stages.stage2.warmup_steps=1",
    )
