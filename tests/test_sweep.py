"""Sweeps: every combination with every seed once, and what they find."""

import csv
import os
import sys

import numpy as np
import pytest

from launch import processes
from launch.definition import short_names
from tests import sweeping
from tests.sweeping import CONFIG, DEV, KEY, NAMES, TEST, arguments, calls, ledger, statuses

fake, run = sweeping.fake, sweeping.run


def written(tmp_path):
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        return {(row[f"{KEY}"], row["metric"]): row for row in csv.DictReader(file)}


def test_every_combination_is_run_with_every_seed_once(tmp_path, run):
    status, shown, _ = run(*arguments(tmp_path))
    assert status == 0
    assert calls(tmp_path) == NAMES
    assert all(f"\n{name}: started, " in f"\n{shown}" for name in NAMES)
    assert f"{NAMES[1]}: dev/dev/accuracy 74.0000 at step 11, " in shown
    assert "; 0 left" in shown
    kept = ledger(tmp_path)["runs"][NAMES[4]]
    assert (kept["status"], kept["exit"], kept["seed"]) == ("done", 0, 1)
    assert kept["selected"] == {"step": 11, "metric": "dev/dev/accuracy", "value": DEV[0.0005][1]}
    assert kept["evals"]["xnli"]["test/en/accuracy"] == TEST[0.0005][1]
    assert f"--{KEY}=0.0005" in kept["command"]
    assert (tmp_path / "sweep" / f"{NAMES[4]}.log").read_text() == "begun 1\n"
    status, again, _ = run(*arguments(tmp_path))
    assert status == 0
    assert calls(tmp_path) == NAMES
    assert "6 of 6 runs are done already" in again
    assert shown[shown.index("mean ±") :] == again[again.index("mean ±") :]


def test_means_and_deviations_are_numpys(tmp_path, run):
    _, shown, _ = run(*arguments(tmp_path))
    table = written(tmp_path)
    assert len(table) == 4
    for rate in (0.001, 0.0005):
        for metric, values in (("dev/dev/accuracy", DEV[rate]), ("xnli/test/accuracy", TEST[rate])):
            row = table[str(rate), metric]
            assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-12)
            assert float(row["std"]) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
            assert [float(row[f"seed {seed}"]) for seed in (0, 1, 2)] == values
            assert row["best"] == str(int(rate == 0.001))
            assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in shown
            assert row["runs"] == "3"
    assert "sample, n - 1" in shown
    # The best on dev is the worse on test: the table must not choose by the test set.
    each = ", ".join(f"{value:.2f}" for value in TEST[0.001])
    mean = f"{np.mean(TEST[0.001]):.2f} ± {np.std(TEST[0.001], ddof=1):.2f}"
    assert f"best: learning_rate=0.001\n  xnli/test/accuracy: {mean} ({each})\n" in shown
    assert ledger(tmp_path)["best"] == {"combination": "learning_rate=0.001", "runs": NAMES[:3]}


def test_of_a_loss_the_lowest_is_the_best(tmp_path, run):
    more = "--config.train.select=dev/dev/loss"  # what the stand-in finds is given whatever name the config has
    _, shown, _ = run(*arguments(tmp_path, more))
    assert "best: learning_rate=0.0005\n" in shown
    assert "lowest mean of dev/dev/loss" in " ".join(shown.split())


def test_one_seed_has_no_deviation(tmp_path, run):
    _, shown, _ = run(*arguments(tmp_path, seeds="1"))
    assert "74.00 ± -" in shown
    assert written(tmp_path)["0.001", "dev/dev/accuracy"]["std"] == ""


def test_seeds_and_values_are_added(tmp_path, run):
    run(*arguments(tmp_path, seeds="0", grid=f"{KEY}=1e-3"))
    run(*arguments(tmp_path, seeds="0,1", grid=f"{KEY}=0.001"))
    status, _, _ = run(*arguments(tmp_path, seeds="2", grid=f"{KEY}=5e-4"))
    assert status == 0
    assert sorted(calls(tmp_path)) == sorted(NAMES)
    assert list(statuses(tmp_path)) == NAMES


def test_a_failed_run_is_shown_and_tried_again(tmp_path, run):
    (tmp_path / "fail-1").touch()
    status, shown, said = run(*arguments(tmp_path))
    assert status == 1
    assert calls(tmp_path) == NAMES
    for name in (NAMES[1], NAMES[4]):
        log = tmp_path / "sweep" / f"{name}.log"
        assert f"{name}: failed, exit status 2; " in shown
        assert f"{name} failed, exit status 2; {log} ends:\n  begun 1\n  error: the disk is full\n" in said
    assert "best:" not in shown  # no combination is whole
    _, shown, _ = run(f"--workdir={tmp_path / 'sweep'}", "--report")
    assert shown.endswith(f"2 of 6 runs failed: {NAMES[1]}, {NAMES[4]}\n")
    assert ledger(tmp_path)["best"] is None
    (tmp_path / "fail-1").unlink()
    status, shown, _ = run(*arguments(tmp_path))
    assert status == 0
    assert calls(tmp_path)[6:] == [NAMES[1], NAMES[4]]
    assert "best: learning_rate=0.001" in shown


def test_a_run_that_ends_well_without_a_summary_has_failed(tmp_path, run, fake):
    (tmp_path / "fake.py").write_text("pass")
    status, _, said = run(*arguments(tmp_path, seeds="0", grid=f"{KEY}=1e-3"))
    assert status == 1
    assert "exit status 0 but without a whole summary.json" in said


def test_a_removed_run_is_run_again(tmp_path, run):
    run(*arguments(tmp_path))
    (tmp_path / "sweep" / NAMES[2] / "summary.json").unlink()
    run(*arguments(tmp_path))
    assert calls(tmp_path)[6:] == [NAMES[2]]


def test_the_numbers_are_those_that_the_runs_have_now(tmp_path, run):
    run(*arguments(tmp_path, seeds="0", grid=f"{KEY}=1e-3"))
    path = tmp_path / "sweep" / NAMES[0] / "summary.json"
    path.write_text(path.read_text().replace(str(TEST[0.001][0]), "12.5"))
    _, shown, _ = run(f"--workdir={tmp_path / 'sweep'}", "--report")
    assert "xnli/test/accuracy: 12.50 ± -" in shown


def test_the_default_seed_is_the_configs(tmp_path, run):
    given = [one for one in arguments(tmp_path, "--dry_run") if not one.startswith(("--seeds", "--config=c"))]
    _, shown, _ = run(f"--config={CONFIG},seed=5", *given)
    assert shown.count("--config.seed=5") == len(shown.splitlines()) == 2


def test_dry_run_and_report_run_nothing(tmp_path, run):
    status, shown, _ = run(*arguments(tmp_path, "--dry_run"))
    assert status == 0
    lines = shown.splitlines()
    assert len(lines) == 6
    assert lines[3].startswith(f"waiting: {sys.executable} ")
    for part in (f"--config={CONFIG}", f"--{KEY}=0.0005", "--config.seed=0", "--config.objectives.xnli.max_length=64"):
        assert part in lines[3]
    assert not (tmp_path / "sweep").exists()
    status, _, said = run(*arguments(tmp_path, "--report"))
    assert (status, (tmp_path / "sweep").exists()) == (2, False)
    assert "holds no sweep" in said
    run(*arguments(tmp_path, seeds="0,1"))
    before = ledger(tmp_path)
    status, shown, _ = run(*arguments(tmp_path, "--report", "--grid", "config.train.patience=3,4"))  # the stored one
    assert (status, ledger(tmp_path)) == (0, before)
    assert len(calls(tmp_path)) == 4
    assert "best: learning_rate=0.001" in shown


def test_jobs_divide_the_cores(tmp_path, run, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core cannot be divided")
    status, _, _ = run(*arguments(tmp_path, "--jobs=2"))
    assert status == 0
    used = {line.split("[")[1].split("]")[0] for line in (tmp_path / "calls").read_text().splitlines()}
    assert used == {", ".join(map(str, cores[0::2])), ", ".join(map(str, cores[1::2]))}
    assert sorted(os.sched_getaffinity(0)) == cores


def test_jobs_divide_the_gpus(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert [part.environment for part in processes.shares(2)] == [
        {"CUDA_VISIBLE_DEVICES": "2,5"},
        {"CUDA_VISIBLE_DEVICES": "3,7"},
    ]
    with pytest.raises(ValueError, match="4 GPUs are visible"):
        processes.shares(5)
    assert processes.shares(1)[0].environment == {}
    for named, visible in (("-1", []), ("", []), ("1,-1,2", ["1"]), ("GPU-8932f9, MIG-1/2", ["GPU-8932f9", "MIG-1/2"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert processes.visible_gpus() == visible


def test_keys_are_shortened_as_far_as_they_differ():
    keys = ["stages.one.learning_rate", "stages.two.learning_rate", "train.batch_size", "other.seed"]
    assert list(short_names(keys).values()) == ["one.learning_rate", "two.learning_rate", "batch_size", "other.seed"]


def test_a_value_that_is_no_file_name_is_still_told_apart(tmp_path, run):
    grid = "config.objectives.xnli.train=data/a,data:a"
    _, shown, _ = run(*arguments(tmp_path, "--dry_run", seeds="0", grid=grid))
    names = [part.rpartition("/")[2] for part in shown.split() if part.startswith("--workdir=")]
    assert len(set(names)) == 2
    assert all(name.startswith("train=data-a-") for name in names)
