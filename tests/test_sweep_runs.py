"""Sweeps of real runs, in processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import labelled_files
from tests.command import ROOT

LANGUAGES = ("en", "de")
NAMES = [f"learning_rate=0.01,seed={seed}" for seed in (0, 1)]
SMALL = (
    "--config.languages=en,de",
    "--config.model.vocab_size=1000",
    "--config.model.hidden_size=32",
    "--config.model.ffn_size=48",
    "--config.model.num_layers=1",
    "--config.model.num_heads=4",
    "--config.data.sequence_length=64",
    "--config.data.virtual_streams=2",
    "--config.data.packing_bins=4",
    "--config.train.batch_size=2",
    "--config.train.save_every=5",
    "--config.objectives.xnli.max_length=64",
    "--config.stages.finetune.epochs=12",
    "--config.evals.dev.every=20",
)


@pytest.fixture(scope="module")
def given(tokenizer_path, tmp_path_factory):
    """The command of a sweep of two runs, but for its work directory."""
    folder = tmp_path_factory.mktemp("data")
    labelled_files.write_xnli(folder, LANGUAGES, train=60, dev=18, test=24)
    data = {"train": "XNLI-MT-1.0", "dev": "XNLI-1.0", "test": "XNLI-1.0"}
    return (
        "--config=configs/finetune/xnli.py:size=tiny",
        "--seeds=0,1",
        "--grid=config.stages.finetune.learning_rate=1e-2",
        f"--config.tokenizer.path={tokenizer_path}",
        *(f"--config.objectives.xnli.{split}={folder / name}" for split, name in data.items()),
        *SMALL,
    )


def command(*arguments):
    return [sys.executable, "-m", "launch.sweep", *map(str, arguments)]


def call(*arguments, status=0):
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def interrupt(when, number, *arguments):
    """Starts the sweep and sends it a signal as soon as `when()` is true; returns its exit status."""
    with subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not when():
            assert time.monotonic() < deadline, "not there within the time"
            assert process.poll() is None, "it ended before"
            time.sleep(0.1)
        process.send_signal(number)
        return process.wait(timeout=100)


def ledger(workdir):
    return json.loads((workdir / "sweep.json").read_text())


@pytest.mark.slow
def test_interrupted_and_killed_it_ends_like_one_that_was_not(given, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "spoil"  # as long: titles are centred
    call(*given, f"--workdir={whole}")
    expected = call(f"--workdir={whole}", "--report").stdout

    def saved(name):
        return lambda: any((broken / name / "finetune" / "checkpoints").glob("*/manifest.json"))

    assert interrupt(saved(NAMES[0]), signal.SIGTERM, *given, f"--workdir={broken}") == 42
    assert "the same command goes on" in (broken / f"{NAMES[0]}.log").read_text()
    assert [run["status"] for run in ledger(broken)["runs"].values()] == ["waiting", "waiting"]
    assert interrupt(saved(NAMES[1]), signal.SIGKILL, *given, f"--workdir={broken}") == -signal.SIGKILL
    left = ledger(broken)["runs"][NAMES[1]]
    assert left["status"] == "running"
    os.kill(left["pid"], signal.SIGKILL)  # as when the machine fails, and not the sweep alone
    shown = call(*given, f"--workdir={broken}").stdout
    assert f"{NAMES[0]}: started" not in shown
    assert call(f"--workdir={broken}", "--report").stdout.replace("spoil", "whole") == expected
    assert (broken / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
    runs = ledger(whole)["runs"].values()
    for run, name in zip(runs, NAMES, strict=True):
        summary = json.loads((whole / name / "finetune" / "summary.json").read_text())
        assert run["selected"] == summary["selected"]
        assert run["evals"] == summary["evals"]
    mean = np.mean([run["evals"]["xnli"]["test/accuracy"] for run in runs])
    assert f"xnli/test/accuracy: {mean:.2f} ± " in expected
    assert ledger(whole)["best"] == {"combination": "learning_rate=0.01", "runs": NAMES}
    table(whole, runs, tmp_path / "tables")


def table(workdir, runs, output):
    """The sweep's row of the paper's table is the mean of its runs' figures."""
    tables = [sys.executable, "-m", "ernie_m_jax.evaluation.tables", str(workdir), "--output", str(output)]
    shown = subprocess.run(tables, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True).stdout
    rows = list(csv.reader((output / "xnli-transfer.csv").read_text().splitlines()))
    (row,) = [dict(zip(rows[0], cells, strict=True)) for cells in rows if cells[0] == "ours"]
    assert row["model"] == "ours: from scratch, 2 seeds (2 of 15 languages)"
    for language in LANGUAGES:
        mean = np.mean([run["evals"]["xnli"][f"test/{language}/accuracy"] for run in runs])
        assert float(row[language]) == pytest.approx(mean)
    assert "ours: from scratch" in shown
