"""--mode=replay: a recorded step once more, the same to the bit; what differs is said, and nothing is written."""

import json
import shutil

import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import guard, replay, run, spikes
from tests.command import call, refused
from tests.test_train import STEPS, tree


def resolved(tokenizer_path):
    keys = {"stages__one__weights": {"camlm": 1.0}, "train__spike_sigmas": 3.0, "train__max_to_keep": 0}
    return configs.resolve(tree(tokenizer_path, **keys))


@pytest.fixture(scope="module")
def trained(tokenizer_path, tmp_path_factory):
    """A run with checkpoints of steps 3, 6 and 8, whose losses have a limit after two of them."""
    workdir = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spikes, "WINDOW", 2)
        run.train(resolved(tokenizer_path), workdir)
    return workdir


@pytest.fixture(autouse=True)
def _window(monkeypatch):
    monkeypatch.setattr(spikes, "WINDOW", 2)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(workdir):
    read = [json.loads(line) for line in (workdir / "one" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in read if "objective" in line}


@pytest.mark.parametrize(
    ("step", "begun"),
    [pytest.param(1, None, marks=pytest.mark.slow), (4, 3), pytest.param(6, 6, marks=pytest.mark.slow)],
)
def test_a_step_is_the_same_to_the_bit(step, begun, trained, tokenizer_path, capsys):
    before = contents(trained)
    values = replay.replay(resolved(tokenizer_path), trained / ("one" if step % 2 else ""), step)
    line = lines(trained)[step]
    assert {name: value for name, value in line.items() if name not in ("step", "objective")} == values
    said = capsys.readouterr().out
    where = "the stage's beginning" if begun is None else f"the checkpoint of step {begun}"
    assert f"one: {step + 1 - (begun or 0)} steps from {where} in {trained}/one" in said
    assert f"step {step} (camlm): loss {line['loss']!r}\n" in said
    assert "its records: row 0: " in said
    assert "the same bits as recorded: accuracy, " in said
    assert contents(trained) == before


def test_what_differs_is_said(trained, tokenizer_path, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    path, loss = copy / "one" / metrics.FILE, lines(copy)[7]["loss"]
    path.write_text(path.read_text().replace(repr(loss), repr(loss * (1 + 1e-7))))
    with pytest.raises(
        guard.TrainingError, match=rf"step 7 of one is not .*: loss: {loss!r} now, {loss * (1 + 1e-7)!r} rec"
    ):
        replay.replay(resolved(tokenizer_path), copy, 7)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(trained, tokenizer_path, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "one" / "checkpoints" / "6" / "meta.json").write_text("{}")
    replay.replay(resolved(tokenizer_path), copy, 7)
    said = capsys.readouterr().out
    assert "step 6 is passed over: " in said
    assert "one: 5 steps from the checkpoint of step 3" in said
    assert (copy / "one" / "checkpoints" / "6").exists()


@pytest.mark.slow
def test_a_step_that_is_not_recorded_is_only_shown(trained, tokenizer_path, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "one" / metrics.FILE).unlink()
    replay.replay(resolved(tokenizer_path), copy, 7)
    assert "has no line of step 7: there is nothing to compare with" in capsys.readouterr().out


def test_a_step_that_the_stage_has_not(trained, tokenizer_path):
    with pytest.raises(configs.ConfigError, match=rf"--step=8: one has the steps 0 to {STEPS - 1}"):
        replay.replay(resolved(tokenizer_path), trained, 8)


def test_the_command_needs_a_step(trained):
    assert refused(f"--workdir={trained}", "--mode=replay") == "--step=N is missing; --mode=replay needs it"


@pytest.mark.slow
def test_the_command_replays_every_step_of_four_objectives(tokenizer_path, tmp_path):
    arguments = (
        "--config=tests/several.py",
        f"--workdir={tmp_path}",
        f"--config.tokenizer.path={tokenizer_path}",
        "--config.stages.one.steps=9",
        "--config.train.save_every=4",
        "--config.train.max_to_keep=0",
    )
    call(*arguments)
    for step in range(9):
        said = call(f"--workdir={tmp_path}/one", "--mode=replay", f"--step={step}").stdout
        assert f"loss {lines(tmp_path)[step]['loss']!r}\n" in said
        assert "the same bits as recorded" in said
