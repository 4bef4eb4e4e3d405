"""A run with model selection that is stopped, killed or damaged anywhere ends like one that never was, bit for bit."""

import json
import os
import pathlib
import shutil
import signal

import pytest

from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import guard, preemption
from tests import selecting
from tests.selecting import FIRST, LAST, MIDDLE, Scores, assert_same, everything, train
from tests.test_saved_steps import flip, listing


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with pytest.MonkeyPatch.context() as patch:
        selecting.share_programs(patch)
        yield


@pytest.fixture(scope="module")
def tree(tokenizer_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return lambda *names, **keys: selecting.tree(tokenizer_path, folder, names or ("one",), **keys)


@pytest.fixture(scope="module")
def left(undisturbed):
    """A function from scores and keys to what that run leaves."""
    made = {}

    def get(scores=MIDDLE, **keys):
        name = repr((scores, keys))
        if name not in made:
            made[name] = everything(undisturbed(scores, **keys) / "one")
        return made[name]

    return get


@pytest.fixture(scope="module")
def undisturbed(tree, tmp_path_factory):
    """A function from scores and keys to the work directory of a run that went through at once."""
    made = {}

    def get(scores=MIDDLE, **keys):
        name = repr((scores, keys))
        if name not in made:
            made[name] = tmp_path_factory.mktemp("undisturbed")
            with pytest.MonkeyPatch.context() as patch:
                Scores(patch, scores)
                train(tree(**keys), made[name])
        return made[name]

    return get


def stop(patch, at):
    patch.setattr(preemption.StopRequest, "due", lambda self, step: step == at)
    return preemption.Interrupted


def kill(patch, at):
    def die(self, step):
        if step == at:
            raise KeyboardInterrupt

    patch.setattr(preemption.StopRequest, "due", die)
    return KeyboardInterrupt


def kill_in_save(patch, at):
    """Between the line of an evaluation and the checkpoint of its step."""
    save = Checkpoints.save

    def die(self, step, *arguments, **keys):
        if step == at:
            raise KeyboardInterrupt
        save(self, step, *arguments, **keys)

    patch.setattr(Checkpoints, "save", die)
    return KeyboardInterrupt


def kill_before_choice(patch, at):
    """Between a checkpoint and the file that says it is selected."""
    select = saved_steps.select
    patch.setattr(saved_steps, "select", lambda where, step: None if step == at else select(where, step))
    return kill(patch, at + 1)


def kill_in_evaluation(patch, at):
    del patch
    return KeyboardInterrupt, at


def signal_in_evaluation(patch, at):
    """SIGTERM while the state before step `at` is evaluated."""
    run = Evaluations.run

    def signalled(self, *arguments):
        if arguments[-1] == f"held-{at}":
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, *arguments)

    patch.setattr(Evaluations, "run", signalled)
    return preemption.Interrupted


def signal_in_step(patch, at):
    """SIGTERM while a step is done."""
    read = metrics.Meter.read

    def signalled(self, step):
        if step.index == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, step)

    patch.setattr(metrics.Meter, "read", signalled)
    return preemption.Interrupted


def disturb(how, at, config, workdir, scores=MIDDLE):
    """Begins a run that ends as `how` says, then lets the same command go on."""
    with pytest.MonkeyPatch.context() as patch:
        told = Scores(patch, scores)
        error = how(patch, at)
        if isinstance(error, tuple):
            error, told.dies_at = error
        with pytest.raises(error):
            train(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        told = Scores(patch, scores)
        train(config, workdir)
    return told.calls


FEW = [(stop, 4), (kill_in_evaluation, "one/held-4"), (kill_in_save, 8), (kill_before_choice, 4)]
MORE = [
    *((stop, at) for at in (1, 2, 3, 5, 6, 7, 8)),
    *((kill, at) for at in (1, 2, 3, 4, 5, 6, 7, 8)),
    *((kill_in_evaluation, f"one/held-{step}") for step in (2, 6, 8)),
    (kill_in_evaluation, "one/held"),
    *((kill_in_save, at) for at in (2, 3, 4, 6)),
    *((signal_in_evaluation, at) for at in (4, 8)),
    (signal_in_step, 7),
]


def named(cases):
    return [pytest.param(how, at, id=f"{how.__name__}-{str(at).rpartition('/')[2]}") for how, at in cases]


@pytest.mark.parametrize(("how", "at"), named(FEW))
def test_a_disturbed_run_ends_like_one_that_was_not(how, at, tree, left, tmp_path):
    disturb(how, at, tree(), tmp_path)
    assert_same(tmp_path / "one", left())


@pytest.mark.parametrize(("how", "at"), [(signal_in_evaluation, 8), (signal_in_step, 7)])
def test_a_signal_at_a_stage_s_end_leaves_the_evaluation_that_selects_to_the_next_start(how, at, tree, left, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        told = Scores(patch, LAST)
        error = how(patch, at)
        with pytest.raises(error, match=r"stopped after step 8 of 8 of one, saved") as stopped:
            train(tree(), tmp_path)
        assert stopped.value.status == preemption.RESTART
        assert "one/held-8" not in told.calls
    assert 8 in selecting.steps(tmp_path / "one")
    assert selecting.selected(tmp_path / "one") == {"step": 4}
    with pytest.MonkeyPatch.context() as patch:
        told = Scores(patch, LAST)
        train(tree(), tmp_path)
        assert told.calls[0] == "one/held-8"
    assert_same(tmp_path / "one", left(LAST))


def wherever():
    """Every way to be disturbed, whichever step is the best. Step 4 is saved only where it is the best so far."""
    for name, scores in {"middle": MIDDLE, "first": FIRST, "last": LAST}.items():
        for how, at in FEW + MORE:
            if (how, at) == (kill_before_choice, 4) and scores is not MIDDLE:
                at = 2
            if (how, at) != (kill_in_save, 4) or scores is not FIRST:
                yield pytest.param(how, at, scores, id=f"{how.__name__}-{str(at).rpartition('/')[2]}-{name}")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "at", "scores"), list(wherever()))
def test_wherever_it_is_disturbed(how, at, scores, tree, left, tmp_path):
    disturb(how, at, tree(), tmp_path, scores)
    assert_same(tmp_path / "one", left(scores))


@pytest.mark.slow
def test_a_stage_that_ended_early_does_not_go_on(tree, left, tmp_path):
    keys = {"train__patience": 2}
    expected = left(FIRST, **keys)
    assert max(expected["checkpoints"]) == 6
    assert expected["checkpoints"][6][2]["selection"] == {"step": 6, "best": 2, "value": 5.0, "since": 2, "ended": 6}
    # Stopped at the step of the evaluation that ends it, which is then run on what was saved.
    calls = disturb(stop, 6, tree(**keys), tmp_path, FIRST)
    assert calls == ["one/held-6", "one/held"]
    assert_same(tmp_path / "one", expected)


def test_a_damaged_newest_checkpoint_of_a_stage_that_ended_early(tree, undisturbed, left, tmp_path, monkeypatch):
    workdir = pathlib.Path(shutil.copytree(undisturbed(FIRST, train__patience=2), tmp_path / "run"))
    for path in (workdir / "summary.json", workdir / "one" / "summary.json"):
        path.unlink()
    (workdir / "one" / "checkpoints" / "6" / "meta.json").write_text("{")
    told = Scores(monkeypatch, FIRST)
    train(tree(train__patience=2), workdir)
    assert told.calls == ["one/held-4", "one/held-6", "one/held"]
    assert_same(workdir / "one", left(FIRST, train__patience=2))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "at"), named([(kill_in_save, 6), (kill_in_evaluation, "one/held"), (kill, 5)]))
def test_a_stage_that_ends_early_ends_so_wherever_it_is_disturbed(how, at, tree, left, tmp_path):
    keys = {"train__patience": 2}
    disturb(how, at, tree(**keys), tmp_path, FIRST)
    assert_same(tmp_path / "one", left(FIRST, **keys))


@pytest.mark.slow
def test_an_evaluation_that_came_after_its_checkpoint_counts(tree, left, tmp_path, monkeypatch):
    # Saved at step 4 before it is evaluated there; then killed, after that and before another save.
    stopped(tree, tmp_path, 4)
    with pytest.MonkeyPatch.context() as patch:
        Scores(patch)
        error = kill(patch, 5)
        with pytest.raises(error):
            train(tree(), tmp_path)
    assert selecting.steps(tmp_path / "one") == [4]  # 2 was selected until it was evaluated
    told = Scores(monkeypatch)
    train(tree(), tmp_path)
    assert told.calls == ["one/held-6", "one/held-8", "one/held"]
    assert_same(tmp_path / "one", left())


def test_a_choice_that_was_not_written_is_made_again_at_the_end(tree, undisturbed, left, tmp_path):
    # Step 8 is the best and the last: its checkpoint is complete, but the choice names step 4, which is gone.
    workdir = pathlib.Path(shutil.copytree(undisturbed(LAST), tmp_path / "run"))
    for path in (workdir / "summary.json", workdir / "one" / "summary.json"):
        path.unlink()
    (workdir / "one" / "checkpoints" / "selected.json").write_text('{"step": 4}')
    with pytest.MonkeyPatch.context() as patch:
        told = Scores(patch, LAST)
        train(tree(), workdir)
    assert told.calls == ["one/held"]
    assert_same(workdir / "one", left(LAST))


def stopped(tree, workdir, at, scores=MIDDLE, **keys):
    with pytest.MonkeyPatch.context() as patch:
        Scores(patch, scores)
        error = stop(patch, at)
        with pytest.raises(error):
            train(tree(**keys), workdir)


def test_a_damaged_newest_checkpoint_is_passed_over(tree, left, tmp_path, monkeypatch, capsys):
    stopped(tree, tmp_path, 7)
    assert listing(tmp_path / "one" / "checkpoints") == ["4", "7", "selected.json"]
    flip(tmp_path / "one" / "checkpoints" / "7" / "meta.json")
    Scores(monkeypatch)
    train(tree(), tmp_path)
    assert "going on from step 4" in capsys.readouterr().out
    assert_same(tmp_path / "one", left())


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_that_was_selected_is_passed_over(tree, undisturbed, left, tmp_path, monkeypatch):
    expected = undisturbed(LAST, train__max_to_keep=2)
    workdir = pathlib.Path(shutil.copytree(expected, tmp_path / "run"))
    place = workdir / "one"
    assert listing(place / "checkpoints") == ["6", "8", "selected.json"]
    flip(place / "checkpoints" / "8" / "state" / "_METADATA")
    (place / "checkpoints" / "selected.json").write_text('{"step": 8}')
    for path in (workdir / "summary.json", place / "summary.json"):
        path.unlink()
    told = Scores(monkeypatch, LAST)
    train(tree(train__max_to_keep=2), workdir)
    assert told.calls == ["one/held-8", "one/held"]
    assert listing(place / "checkpoints") == ["6", "8", "8.damaged", "selected.json"]
    assert_same(place, left(LAST, train__max_to_keep=2))


@pytest.mark.slow
def test_the_stage_before_is_mended_before_the_next_one_starts(tree, tmp_path, monkeypatch):
    told, both = Scores(monkeypatch), tree("one", "two", train__max_to_keep=2)
    told.dies_at = "two/held-2"
    with pytest.raises(KeyboardInterrupt):
        train(both, tmp_path)
    place = tmp_path / "one"
    expected = everything(place)
    assert expected["checkpoints"].keys() == {4, 6, 8}
    # The line of another evaluation at the end stands behind those of the last steps: a run that goes on drops it.
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "eval": "other", "loss": 1.0}\n')
    flip(place / "checkpoints" / "8" / "meta.json")
    told = Scores(monkeypatch)
    told.dies_at = "two/held-2"
    with pytest.raises(KeyboardInterrupt):
        train(both, tmp_path)
    assert told.calls == ["one/held-8", "one/held", "two/held-2"]
    assert (place / "checkpoints" / "8.damaged").exists()
    assert_same(place, expected)


def test_lost_metrics_change_no_selection(tree, left, tmp_path, monkeypatch):
    stopped(tree, tmp_path, 5)
    (tmp_path / "one" / "metrics.jsonl").unlink()
    Scores(monkeypatch)
    train(tree(), tmp_path)
    expected = left()
    assert selecting.selected(tmp_path / "one") == {"step": 4}
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["selected"] == expected["summary"]["selected"]
    *read, last = selecting.lines(tmp_path / "one")
    assert read == [line for line in expected["metrics"] if line["step"] >= 5]
    assert (last["step"], last["eval"]) == (4, "held")  # made again by the evaluation at the end


def test_a_step_that_was_skipped_before_an_evaluation(tree, tmp_path, monkeypatch):
    note = guard.Guard.note
    monkeypatch.setattr(
        guard.Guard, "note", lambda self, step, values: note(self, step, values | {"skipped": float(step.index == 3)})
    )
    told = Scores(monkeypatch)
    train(tree(), tmp_path / "whole")
    expected = everything(tmp_path / "whole" / "one")
    assert told.calls == ["one/held-2", "one/held-6", "one/held-8", "one/held"]
    assert expected["selected"] == {"step": 8}
    stopped(tree, tmp_path / "run", 4)  # which saves nothing
    assert selecting.steps(tmp_path / "run" / "one") == [2, 3]
    Scores(monkeypatch)
    train(tree(), tmp_path / "run")
    assert_same(tmp_path / "run" / "one", expected)
