"""The command as a user gives it: real argv in a process of its own."""

import json
import os
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


def on_eight_devices(program):
    """Runs a test file as a program on as many virtual devices; what its last line says, and its standard error."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", program]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr
