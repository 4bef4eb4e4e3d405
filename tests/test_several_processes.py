"""Several processes: real ones, over Gloo, must give the numbers of one, and end together."""

import re
import signal
import time

import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax.checkpoint import tree
from tests import labelled_files, several

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")
STEPS = 20
RATE = 1e-6  # of losses
NLI = ("en", "de", "fr")

pytestmark = pytest.mark.slow


def pretraining(workdir, tokenizer_path, *more):
    """All four objectives in one stage, saved every 5 steps."""
    return (
        "--config=tests/several.py",
        f"--workdir={workdir}",
        f"--config.tokenizer.path={tokenizer_path}",
        f"--config.stages.one.steps={STEPS}",
        "--config.train.save_every=5",
        "--config.evals.retrieval.every=10",
        *more,
    )


def finetuning(workdir, tokenizer_path, folder):
    """Three epochs of XNLI, evaluated on dev and test."""
    paths = {"train": "XNLI-MT-1.0", "dev": "XNLI-1.0", "test": "XNLI-1.0"}
    return (
        "--config=configs/finetune/xnli.py:size=tiny",
        f"--workdir={workdir}",
        f"--config.tokenizer.path={tokenizer_path}",
        "--config.model.vocab_size=1000",
        "--config.model.hidden_size=32",
        "--config.model.ffn_size=48",
        *(f"--config.objectives.xnli.{split}={folder / name}" for split, name in paths.items()),
        f"--config.languages={','.join(NLI)}",
        "--config.objectives.xnli.max_length=64",
        "--config.data.sequence_length=64",
        "--config.data.virtual_streams=4",
        "--config.data.packing_bins=4",
        "--config.train.batch_size=4",
        f"--config.stages.finetune.steps={STEPS}",
        "--config.stages.finetune.learning_rate=1e-3",
        "--config.evals.dev.every=10",
    )


def same_losses(stage, expected):
    """The same rows of the same objective at each step: what is counted is equal, what is computed nearly."""
    found, wanted = several.lines(stage), several.lines(expected)
    assert len(found) == len(wanted) == STEPS
    for one, other in zip(found, wanted, strict=True):
        for name in ("step", "objective", "tokens", "scored", "fill"):
            assert one.get(name) == other.get(name), (name, one["step"])
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=RATE, err_msg=f"step {one['step']}")
    return {line["objective"] for line in found}


def files_of(folder):
    """What a folder holds, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def parameters(workdir, stage):
    """The bits of a stage's parameters, by name."""
    model = ernie_m_jax.load(workdir / stage)
    return {name: np.asarray(array).tobytes() for name, array in tree.named(model.params).items()}


@pytest.fixture(scope="module")
def alone(tokenizer_path, tmp_path_factory):
    """The pre-training of one process with one device."""
    workdir = tmp_path_factory.mktemp("several") / "alone"
    several.train(pretraining(workdir, tokenizer_path), 1)
    return workdir


@pytest.mark.parametrize("processes", [2, 4])
def test_pretraining_has_the_losses_of_one_process(processes, alone, tokenizer_path, tmp_path):
    shown = several.train(pretraining(tmp_path, tokenizer_path), processes)
    assert same_losses(tmp_path / "one", alone / "one") == set(OBJECTIVES)
    assert (tmp_path / "one" / "retrieval.csv").read_bytes() == (alone / "one" / "retrieval.csv").read_bytes()
    assert ["Summary" in one for one in shown] == [True] + [False] * (processes - 1)  # one screen


@pytest.mark.parametrize("processes", [2, 4])
def test_finetuning_has_the_losses_and_the_table_of_one_process(processes, tokenizer_path, tmp_path):
    labelled_files.write_xnli(tmp_path, NLI, 60, 18, 24)
    for count in (1, processes):
        several.train(finetuning(tmp_path / str(count), tokenizer_path, tmp_path), count)
    one, many = (tmp_path / str(count) / "finetune" for count in (1, processes))
    assert same_losses(many, one) == {"xnli"}
    assert (many / "xnli.csv").read_bytes() == (one / "xnli.csv").read_bytes()
    assert files_of(many / "xnli-predictions") == files_of(one / "xnli-predictions")


def test_a_tensor_axis_across_processes_reads_each_row_once(alone, tokenizer_path, tmp_path):
    more = ("--config.mesh.data=2", "--config.mesh.tensor=2")
    several.train(pretraining(tmp_path, tokenizer_path, *more), 4)
    assert same_losses(tmp_path / "one", alone / "one") == set(OBJECTIVES)


def test_a_run_goes_on_with_another_number_of_processes(alone, tokenizer_path, tmp_path):
    for processes, after in ((4, 4), (2, 9), (1, 14), (4, None)):
        started = several.start(pretraining(tmp_path, tokenizer_path), processes)
        if after is None:
            assert [status for status, _, _ in several.outputs(started)] == [0] * processes
            break
        several.wait_for(tmp_path / "one", after, started)
        started[-1].send_signal(signal.SIGTERM)  # to one of them: all stop after the same step
        ended = several.outputs(started)
        assert {status for status, _, _ in ended} == {42}, ended
        assert all(re.search(r"stopped after step \d+ of 20 of one, saved", said) for _, _, said in ended), ended
        assert after <= len(several.lines(tmp_path / "one")) < STEPS
    same_losses(tmp_path / "one", alone / "one")


@pytest.mark.parametrize(("processes", "victim"), [(2, 0), (2, 1), (4, 2)])
def test_the_others_end_with_a_killed_process_and_the_rerun_is_as_if_nothing_was(
    processes, victim, tokenizer_path, tmp_path
):
    several.train(pretraining(tmp_path / "undisturbed", tokenizer_path), processes)
    workdir = tmp_path / "killed"
    started = several.start(pretraining(workdir, tokenizer_path), processes)
    several.wait_for(workdir / "one", 8, started)
    started[victim].kill()
    killed = time.monotonic()
    ended = several.outputs(started, timeout=60)
    assert time.monotonic() - killed < 60
    for number, (status, _, said) in enumerate(ended):
        if number == victim:
            assert status == -signal.SIGKILL
        elif victim == 0 and status == -signal.SIGABRT:
            assert "JAX distributed service detected fatal errors" in said  # which process 0 serves, was faster
        else:
            assert status == 42, said
            assert f"error: process {victim} of {processes} is gone" in said
            assert "Traceback" not in said
    several.train(pretraining(workdir, tokenizer_path), processes)
    assert several.lines(workdir / "one")[-1]["loss"] == several.lines(tmp_path / "undisturbed" / "one")[-1]["loss"]
    assert parameters(workdir, "one") == parameters(tmp_path / "undisturbed", "one")


def test_an_error_of_one_process_ends_all_and_is_named(tokenizer_path, tmp_path):
    wrong = ("--config.data.monolingual.diagnostics.path=/nowhere/{language}.txt",)
    ended = several.outputs(several.start(pretraining(tmp_path, tokenizer_path), 2, each=((), wrong)), timeout=120)
    assert [status for status, _, _ in ended] == [1, 2], ended
    assert "/nowhere/" in ended[1][2]
    assert re.search(r"error: process 1 of 2 ended: .*/nowhere/.*; all processes end", ended[0][2])
