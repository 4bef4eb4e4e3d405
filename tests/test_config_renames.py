"""Old names of keys: a run that states them goes on, everything else that states them is told the new ones."""

import json
import shutil

import pytest

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax import config_build, config_files, config_renames
from ernie_m_jax.config_renames import Change, new_name, upgraded
from ernie_m_jax.convert import native
from ernie_m_jax.training import claim, restore, run
from tests.conftest import small_tree
from tests.test_train import assert_same, final_arrays, lines, tree

OLD = {
    "train.batch_rows": "train.batch_size",
    "train.microbatches": "train.grad_accumulation_steps",
    "train.keep": "train.max_to_keep",
    "data.alpha": "data.sampling_exponent",
    "objectives.mmlm.join_characters": "objectives.mmlm.join_to_characters",
    "objectives.btmlm.join_characters": "objectives.btmlm.join_to_characters",
}
RETRIEVAL = {  # a section that was divided
    "retrieval.batch_rows": "evals.retrieval.batch_size",
    "retrieval.length": "evals.retrieval.max_length",
    "retrieval.layer": "evals.retrieval.layer",
    "train.evaluate_every": "evals.retrieval.every",
}


def with_old_names(tree):
    """The tree as it was written before the keys were renamed."""
    tree = json.loads(json.dumps(tree))
    for old, new in OLD.items():
        *parents, key = new.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[old.split(".")[-1]] = node.pop(key)
    encode, searched = tree.pop("encode"), tree.pop("evals").get("retrieval", {})
    both = searched or encode
    tree["retrieval"] = {
        "source": searched.get("source", {"path": ""}),
        "layer": both["layer"],
        "pooling": both["pooling"],
        "batch_rows": both["batch_size"],
        "length": both["max_length"],
    }
    tree["train"]["evaluate_every"] = searched.get("every", 0)
    # Keys that are newer, which no such tree can have.
    newer = [(tree["train"], "select"), (tree["train"], "patience")]
    newer += [(stage, key) for stage in tree["stages"].values() for key in ("epochs", "warmup_fraction")]
    newer += [(keys, "task") for keys in tree["objectives"].values()]
    for section, key in newer:
        section.pop(key, None)
    return tree


def test_a_tree_with_old_names_becomes_todays():
    source = {"path": "corpus:diagnostics/dev"}
    source = small_tree()["data"]["parallel"]["diagnostics"] | source
    today = configs.to_dict(configs.resolve(small_tree(evals__retrieval__source=source, evals__retrieval__every=5)))
    old = with_old_names(today)
    assert "evals" not in old
    kept = json.dumps(old)
    # But for what is newer, which `resolve` fills in.
    assert configs.resolve(upgraded(old)) == configs.resolve(today)
    filled = json.loads(json.dumps(config_build.with_defaults(configs.Config, upgraded(old))))
    assert configs.differences(filled, today) == []
    assert json.dumps(old) == kept
    assert upgraded(today) == today


@pytest.mark.parametrize("tree", [{}, {"model": 3}, {"train": [], "objectives": {"mmlm": None}, "data": "x"}])
def test_what_is_damaged_stays_damaged(tree):
    assert upgraded(tree) == tree


def test_a_key_under_both_names_is_left_to_the_check():
    tree = small_tree(train__keep=1)
    assert upgraded(tree) == tree
    with pytest.raises(configs.ConfigError, match=r"config\.train\.keep is now config\.train\.max_to_keep"):
        configs.resolve(tree)


@pytest.mark.parametrize(("old", "new"), (OLD | RETRIEVAL).items())
def test_an_old_name_is_told_its_new_one(old, new):
    expected = f"config.{old} is now config.{new}"
    assert new_name(f"config.{old}") == f"config.{new}"
    assert new_name(f"config.{new}") is None
    assert config_files.override(small_tree(), [f"--config.{old}=1"]) == [expected]
    section, *_, key = old.split(".")
    changed = small_tree()
    if section == "retrieval":
        changed["retrieval"], expected = {key: 1}, "config.retrieval is now config.evals.retrieval"
    else:
        changed = small_tree(**{old.replace(".", "__"): 1})
    with pytest.raises(configs.ConfigError) as caught:
        configs.resolve(changed)
    assert str(caught.value) == expected


def test_a_config_file_with_an_old_name_is_told_its_new_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import base\ndef get_config():\n"
        "    config = base.get_config()\n    config.train.microbatches = 2\n    return config\n"
    )
    with pytest.raises(configs.ConfigError, match=r"config\.train\.microbatches is now config\.train\.grad_accum"):
        configs.resolve(config_files.from_file(str(path)), training=False)


def test_sections_move_and_are_rewritten_one_change_after_the_other(monkeypatch):
    def split(tree):
        if "tests" in tree:
            tree["encode"] = {"layer": tree["tests"].pop("layer")}
            tree["evals"] = {"one": tree.pop("tests")}

    changes = (
        Change({"check": "tests", "train.*.old": "stages.*.new"}),
        Change({"tests.layer": "encode.layer", "tests": "evals.one"}, split),
    )
    monkeypatch.setattr(config_renames, "CHANGES", changes)
    tree = {"check": {"layer": 1, "path": "x"}, "train": {"a": {"old": 2}, "b": {"old": 3, "kept": 4}}}
    assert upgraded(tree) == {
        "encode": {"layer": 1},
        "evals": {"one": {"path": "x"}},
        "train": {"a": {}, "b": {"kept": 4}},
        "stages": {"a": {"new": 2}, "b": {"new": 3}},
    }
    assert new_name("config.check.layer") == "config.encode.layer"
    assert new_name("config.check.path") == "config.evals.one.path"
    assert new_name("config.train.b.old") == "config.stages.b.new"
    assert new_name("config.check") == "config.evals.one"
    assert new_name("config.train.b") is None


@pytest.mark.slow
def test_a_run_with_old_names_goes_on_and_is_used(tokenizer_path, tmp_path):
    keys = {"stages__one__steps": 2, "stages__one__weights": {"mmlm": 1.0}, "train__save_every": 1}
    config = configs.resolve(tree(tokenizer_path, **keys))
    whole, workdir = tmp_path / "whole", tmp_path / "old"
    run.train(config, whole)
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "one" / "checkpoints" / "2")  # as if it had been killed at step 1
    for summary in (workdir / "summary.json", workdir / "one" / "summary.json"):
        summary.unlink()
    path = workdir / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"config": with_old_names(stored["config"])}))
    assert "batch_rows" in path.read_text()

    assert configs.resolve(config_files.from_workdir(workdir, training=True)) == config
    claim.check_model(config, workdir)
    using = config_files.from_workdir(workdir, training=False)
    problems = config_files.override(using, ["--config.evals.retrieval.source.path=corpus:diagnostics/dev"])
    made = run.make(configs.resolve(using, training=False, problems=problems), workdir)
    made.evaluate("retrieval", restore.load_params(made, workdir), workdir / "evaluation", "retrieval")
    assert (workdir / "evaluation" / "retrieval.csv").stat().st_size > 0
    assert native.find(workdir) == workdir / "one"
    loaded = ernie_m_jax.load(workdir)
    assert loaded.config == config.model
    assert loaded.languages == config.languages

    run.train(config, workdir)
    assert_same(config, workdir, (lines(whole), final_arrays(config, whole)))
    assert json.loads(path.read_text())["config"] == configs.to_dict(config)
