"""A sweep of the smallest runs there are: a stand-in for `ernie_m_jax.main`, and the command that uses it."""

import json
import sys

import pytest

from launch import sweep

CONFIG = "configs/finetune/xnli.py:size=tiny"
KEY = "config.stages.finetune.learning_rate"
GRID = f"{KEY}=1e-3,0.0005"
NAMES = [f"learning_rate={rate},seed={seed}" for rate in ("0.001", "0.0005") for seed in (0, 1, 2)]
# Stands in for `python -m ernie_m_jax.main`: the same flags, exit statuses and summary, in no time. What it is to do
# stands in files beside the sweep: hang-SEED (until asked to stop), fail-SEED, cores.
FAKE = """
import json, os, pathlib, signal, sys, time
given = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
workdir, seed = pathlib.Path(given["workdir"]), int(given["config.seed"])
rate = float(given["config.stages.finetune.learning_rate"])
told = workdir.parent.parent
workdir.mkdir(parents=True, exist_ok=True)
with (told / "calls").open("a") as calls:
    calls.write(f"{workdir.name} {sorted(os.sched_getaffinity(0))} {given['config.objectives.xnli.max_length']}\\n")
def saved(*_):
    (workdir / "saved").touch()
    print("interrupted; the same command goes on from there", file=sys.stderr)
    sys.exit(42)
signal.signal(signal.SIGTERM, saved)
print(f"begun {seed}", flush=True)
(workdir / "begun").touch()
while (told / f"hang-{seed}").exists():
    time.sleep(0.05)
if (told / f"fail-{seed}").exists():
    print("error: the disk is full", file=sys.stderr)
    sys.exit(2)
dev, test = 70 + 3000 * rate + seed ** 2, 60 - 1000 * rate + seed ** 3
evals = {
    "dev": {"dev/accuracy": dev, "dev/en/accuracy": dev},
    "xnli": {"dev/accuracy": dev, "test/accuracy": test, "test/en/accuracy": test},
}
selected = {"step": 10 + seed, "metric": "dev/dev/accuracy", "value": dev}
summary = {"stages": {"finetune": {"evals": evals, "selected": selected}}}
(workdir / "summary.json").write_text(json.dumps(summary))
"""
DEV = {rate: [70 + 3000 * rate + seed**2 for seed in (0, 1, 2)] for rate in (0.001, 0.0005)}
TEST = {rate: [60 - 1000 * rate + seed**3 for seed in (0, 1, 2)] for rate in (0.001, 0.0005)}


@pytest.fixture
def fake(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return sys.executable, str(path)


def arguments(tmp_path, *more, seeds="0,1,2", grid=GRID):
    return (
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'sweep'}",
        f"--seeds={seeds}",
        "--grid",
        grid,
        "--config.objectives.xnli.max_length=64",
        *more,
    )


@pytest.fixture
def run(fake, capsys):
    """Exit status, standard output and standard error of the command, in this process."""

    def call(*given):
        with pytest.raises(SystemExit) as ended:
            sweep.main(list(map(str, given)), fake)
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return call


def calls(tmp_path):
    path = tmp_path / "calls"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def ledger(tmp_path):
    return json.loads((tmp_path / "sweep" / "sweep.json").read_text())


def statuses(tmp_path):
    return {name: run["status"] for name, run in ledger(tmp_path)["runs"].items()}
