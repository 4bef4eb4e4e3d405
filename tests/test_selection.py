"""Model selection: which checkpoint a stage ends with, and when it ends early."""

import json
import math
import shutil
import types

import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.checkpoints import CheckpointError, Checkpoints
from ernie_m_jax.convert import native
from ernie_m_jax.reporting import files
from ernie_m_jax.training import claim, restore, run, stages
from ernie_m_jax.training.selection import Evaluated, Selection
from tests import selecting
from tests.selecting import FIRST, LAST, MIDDLE, STEPS, Scores, train
from tests.test_saved_steps import flip, listing

# The logic alone.


def selection(values, select="dev/test/accuracy", patience=0, state=None, first=1):
    config = types.SimpleNamespace(select=select, patience=patience)
    metric = select.partition("/")[2]
    entries = [Evaluated(step, "dev", {metric: value}) for step, value in enumerate(values, first)]
    return Selection(config, state, entries)


@pytest.mark.parametrize(
    ("values", "select", "best"),
    [
        ([], "dev/accuracy", None),
        ([1.0, 3.0, 2.0], "dev/accuracy", 2),
        ([1.0, 3.0, 3.0], "dev/accuracy", 2),
        ([1.0, 3.0, 2.0, 0.5], "dev/loss", 4),
        ([0.5, 3.0, 0.5], "dev/en/loss", 1),
        ([1.0, 3.0], "dev/loss_of_blood", 2),  # "loss" is the whole last part of the name
        ([math.nan, 1.0, math.nan, 2.0], "dev/accuracy", 4),
        ([math.nan, 2.0, 1.0], "dev/loss", 3),
        (["nan", "inf", 1.0], "dev/loss", 3),  # as metrics.jsonl has them
        ([math.inf, 2.0], "dev/accuracy", 2),
        ([math.nan, math.nan], "dev/accuracy", None),
    ],
)
def test_the_best_step(values, select, best):
    chosen = selection(values, select)
    assert chosen.best == best
    assert chosen.value == (values[best - 1] if best else pytest.approx(math.nan, nan_ok=True))


@pytest.mark.parametrize(
    ("values", "patience", "ended"),
    [
        ([3.0, 1.0, 1.0, 1.0], 0, None),
        ([3.0, 1.0, 1.0, 1.0], 2, 3),
        ([3.0, 1.0, 4.0, 1.0], 2, None),
        ([3.0, 3.0, 3.0], 2, 3),  # equal is not better
        ([3.0, 1.0, 1.0, 4.0, 1.0], 2, 3),  # it stays where it ended
        ([math.nan, math.nan, 1.0], 2, 2),
        ([3.0, math.nan, 4.0, math.nan], 2, None),
    ],
)
def test_patience_counts_evaluations_in_a_row_that_are_not_better(values, patience, ended):
    assert selection(values, patience=patience).ended == ended


def test_the_state_goes_on_as_if_it_had_never_stopped():
    values = [2.0, math.nan, 1.0, 3.0, 3.0, 1.0, 9.0]
    for cut in range(len(values) + 1):
        state = json.loads(json.dumps(selection(values[:cut], patience=2).state(), allow_nan=False))
        for known in range(cut + 1):  # evaluations that the state has taken already do not count twice
            again = selection(values[known:], patience=2, state=state, first=known + 1)
            assert again.state() == selection(values, patience=2).state()


def test_other_evaluations_and_the_untrained_model_do_not_count():
    config = types.SimpleNamespace(select="dev/accuracy", patience=1)
    chosen = Selection(config)
    assert not chosen.note(Evaluated(0, "dev", {"accuracy": 9.0}))
    assert not chosen.note(Evaluated(1, "test", {"accuracy": 9.0}))
    assert chosen.note(Evaluated(1, "dev", {"accuracy": 1.0}))
    assert (chosen.best, chosen.ended) == (1, None)


def test_a_metric_that_does_not_exist_is_said_with_those_there_are():
    chosen = Selection(types.SimpleNamespace(select="dev/acuracy", patience=0))
    with pytest.raises(configs.ConfigError, match=r"train\.select names .*'acuracy' of dev, which has accuracy, loss$"):
        chosen.note(Evaluated(1, "dev", {"accuracy": 1.0, "loss": 2.0}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train__select": "held"}, r"config\.train\.select is 'held'; it must be EVALUATION/METRIC.*: held"),
        ({"train__select": "other/loss"}, "with an evaluation of config.evals: held"),
        ({"train__select": "", "train__patience": 2}, "patience counts evaluations of config.train.select, which is"),
    ],
)
def test_a_selection_that_means_nothing_is_refused(keys, message, tokenizer_path, tmp_path):
    with pytest.raises(configs.ConfigError, match=message):
        configs.resolve(selecting.tree(tokenizer_path, tmp_path, **keys))


# Runs.


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with pytest.MonkeyPatch.context() as patch:
        selecting.share_programs(patch)
        yield


@pytest.fixture(scope="module")
def tree(tokenizer_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")

    def make(*names, **keys):
        return selecting.tree(tokenizer_path, folder, names or ("one",), **keys)

    return make


def word_table(directory, step):
    return selecting.saved(directory, step)[0]["params"]["embeddings"]["word"]


@pytest.mark.parametrize(("scores", "best", "kept"), [(MIDDLE, 4, [4, 8]), (FIRST, 2, [2, 8]), (LAST, 8, [8])])
def test_the_best_checkpoint_is_kept_beside_the_newest_and_is_the_result(
    scores, best, kept, tree, tmp_path, monkeypatch, capsys
):
    told = Scores(monkeypatch, scores)
    workdir, place = tmp_path / "run", tmp_path / "run" / "one"
    numbers = train(tree(), workdir)
    assert told.calls == ["one/held-2", "one/held-4", "one/held-6", "one/held-8", "one/held"]
    assert selecting.steps(place) == kept
    assert selecting.selected(place) == {"step": best}
    assert numbers["stages"]["one"]["selected"] == {"step": best, "metric": "held/accuracy", "value": scores[best]}
    # The last evaluation is of the selected parameters, and so is whatever uses the model.
    expected = word_table(place, best)
    evaluated = {line["step"]: line for line in selecting.lines(place) if "eval" in line}
    assert evaluated.keys() == scores.keys()
    assert numbers["evals"]["held"] == {"one": evaluated[best]["loss"]}
    for path in (workdir, place):
        np.testing.assert_array_equal(ernie_m_jax.load(path).params["embeddings"]["word"], expected)
    config = configs.resolve(tree())
    made = run.make(config, workdir)
    capsys.readouterr()
    np.testing.assert_array_equal(restore.load_params(made, workdir)["embeddings"]["word"], expected)
    assert f"parameters of step {best} in {place}" in capsys.readouterr().out
    np.testing.assert_array_equal(native.read(place)["embeddings/word"], expected)
    # Training goes on from the newest all the same.
    assert stages.checkpoints(made, place).newest_good() == STEPS
    assert train(tree(), workdir)["stages"] == numbers["stages"]
    assert "is complete" in capsys.readouterr().out
    assert len(told.calls) == 5


@pytest.mark.slow
def test_patience_ends_a_stage_for_good_and_the_next_one_starts_from_the_best(tree, tmp_path, monkeypatch, capsys):
    told = Scores(monkeypatch, FIRST)
    both, workdir = tree("one", "two", train__patience=2), tmp_path / "run"
    numbers = train(both, workdir)
    shown = capsys.readouterr().out
    assert "one: held/accuracy was not better since step 2, it ends at step 6" in shown
    assert "one: step 2 is the best, held/accuracy 5.0000" in shown
    assert selecting.steps(workdir / "one") == [2, 6]
    assert {name: values["steps"] for name, values in numbers["stages"].items()} == {"one": 6, "two": 6}
    assert [line["step"] for line in selecting.lines(workdir / "one") if "objective" in line] == list(range(6))
    config = configs.resolve(both)
    made, second = run.make(config, workdir), stages.make_stage(config, "two", workdir / "two")
    begun = restore.fresh(made, second, workdir / "one").params["embeddings"]["word"]
    np.testing.assert_array_equal(begun, word_table(workdir / "one", 2))
    assert (begun != word_table(workdir / "one", 6)).any()
    calls = len(told.calls)
    train(both, workdir)
    assert f"{workdir} is complete" in capsys.readouterr().out
    (workdir / "summary.json").unlink()
    train(both, workdir)
    assert "one is complete" in capsys.readouterr().out
    (workdir / "one" / "summary.json").unlink()  # the numbers are made again, nothing is trained
    (workdir / "summary.json").unlink()
    train(both, workdir)
    assert told.calls[calls:] == ["one/held"]


def test_without_any_finite_number_the_last_step_is_the_result(tree, tmp_path, monkeypatch):
    Scores(monkeypatch, dict.fromkeys(MIDDLE, math.nan))
    numbers = train(tree(), tmp_path / "run")
    assert selecting.steps(tmp_path / "run" / "one") == [STEPS]
    assert selecting.selected(tmp_path / "run" / "one") is None
    assert "selected" not in numbers["stages"]["one"]


def test_a_nan_neither_wins_nor_stands_in_the_way(tree, tmp_path, monkeypatch):
    Scores(monkeypatch, {2: math.nan, 4: 1.0, 6: math.nan, 8: 0.5})
    train(tree(), tmp_path / "run")
    assert selecting.selected(tmp_path / "run" / "one") == {"step": 4}


# Damage.


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        Scores(patch)
        train(tree(), workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"step": "4"}', '{"step": null}', '{"step": true}'])
def test_a_damaged_choice_is_an_error(content, copy):
    path = copy / "one" / "checkpoints" / "selected.json"
    path.write_text(content)
    for use in (lambda: native.read(copy / "one"), lambda: saved_steps.selected(path.parent)):
        with pytest.raises(CheckpointError, match=r"selected\.json is damaged: it is to say"):
            use()
    assert path.read_text() == content


@pytest.mark.parametrize("damage", ["flipped", "without its manifest", "gone"])
def test_no_other_model_stands_for_a_selected_one_that_is_damaged(damage, copy, tree, tmp_path, monkeypatch):
    told = Scores(monkeypatch)
    checkpoints = copy / "one" / "checkpoints"
    if damage == "flipped":
        flip(checkpoints / "4" / "meta.json")
    elif damage == "gone":
        shutil.rmtree(checkpoints / "4")
    else:
        (checkpoints / "4" / "manifest.json").unlink()
    before = listing(checkpoints)
    config = configs.resolve(tree())
    made = run.make(config, copy)
    readers = {
        "load": lambda: ernie_m_jax.load(copy),
        "evaluate": lambda: restore.load_params(made, copy),
        "next stage": lambda: restore.fresh(made, stages.make_stage(config, "one", tmp_path / "two"), copy / "one"),
    }
    for reader in readers.values():
        with pytest.raises(CheckpointError, match=r"checkpoints/4.*model selection chose this step, and no other is"):
            reader()
    # The numbers of the end cannot be made again either, whatever becomes of the file that names the step.
    for path in (copy / "summary.json", copy / "one" / "summary.json"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"checkpoints/4|step 4 is not in"):
            train(tree(), copy)
        assert told.calls == []
        assert listing(checkpoints) == before
        (checkpoints / "selected.json").unlink()


def test_the_choice_is_made_again_by_a_run_that_goes_on(copy, tree, monkeypatch):
    Scores(monkeypatch)
    (copy / "summary.json").unlink()
    (copy / "one" / "summary.json").unlink()
    for content in ("{", '{"step": 8}', None):
        path = copy / "one" / "checkpoints" / "selected.json"
        path.unlink() if content is None else path.write_text(content)
        train(tree(), copy)
        assert selecting.selected(copy / "one") == {"step": 4}
        (copy / "summary.json").unlink()
        (copy / "one" / "summary.json").unlink()


def test_the_choice_does_not_depend_on_the_metrics(copy, tree, monkeypatch):
    Scores(monkeypatch)
    (copy / "summary.json").unlink()
    (copy / "one" / "summary.json").unlink()
    (copy / "one" / "metrics.jsonl").write_text("nonsense\n")
    numbers = train(tree(), copy)
    assert numbers["stages"]["one"]["selected"] == {"step": 4, "metric": "held/accuracy", "value": 5.0}
    assert Checkpoints(copy / "one" / "checkpoints", 0, None).to_use() == 4


def test_a_selection_is_not_taken_over_from_the_run_that_is_resumed(copy, tree, tmp_path, monkeypatch):
    shutil.rmtree(copy / "one" / "checkpoints" / "8")
    Scores(monkeypatch, {4: 1.0, 6: 2.0, 8: 0.0})  # step 4 was the best there, with 5
    train(tree(init__resume=str(copy)), tmp_path / "other")
    assert selecting.selected(tmp_path / "other" / "one") == {"step": 6}
    assert selecting.selected(copy / "one") == {"step": 4}


def test_a_longer_stage_is_as_if_it_had_been_so_long(copy, tree):
    def longer(every):
        given = tree()
        given["stages"]["one"].update(schedule="constant", steps=STEPS)
        given["evals"]["held"]["every"] = every
        files.write_json(copy / "config.json", {"config": configs.to_dict(configs.resolve(given))})
        given["stages"]["one"]["steps"] = STEPS + 4
        return configs.resolve(given)

    claim.check(longer(every=2), copy)
    for every in (0, 3):  # step 8 was evaluated because it was the last
        with pytest.raises(configs.ConfigError, match=r"train\.select took its last step, 8, into account"):
            claim.check(longer(every), copy)
