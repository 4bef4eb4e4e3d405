"""Runs from end to end: interrupted and resumed, stage after stage, and every way in which a run may not start."""

import json
import threading

import jax
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.data.records import DataError
from ernie_m_jax.training import claim, guard, preemption, run, stages
from tests.conftest import small_tree

STEPS = 8


def tree(tokenizer_path, **keys):
    stage = {
        "steps": STEPS,
        "weights": {"camlm": 1.0, "btmlm": 1.0},  # one of each kind of text; more would only compile longer
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "schedule": "linear",
        "final_fraction": 0.0,
    }
    return small_tree(
        **({"tokenizer__path": str(tokenizer_path), "stages": {"one": stage}, "train__save_every": 3} | keys)
    )


def lines(workdir, stage="one"):
    """The metrics without their timing."""
    read = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in read]


def final_arrays(config, workdir):
    """Every array of the last checkpoint: parameters and optimizer."""
    made = run.make(config, workdir)
    stage = stages.make_stage(config, "one", workdir / "one")
    restored, streams, _ = stages.checkpoints(made, stage.directory).restore(None, stages.abstract_state(made, stage))
    return jax.tree.map(np.asarray, restored), streams


@pytest.fixture(scope="module")
def uninterrupted(tokenizer_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    config = configs.resolve(tree(tokenizer_path))
    run.train(config, workdir)
    return lines(workdir), final_arrays(config, workdir)


def assert_same(config, workdir, uninterrupted):
    expected_lines, (expected_state, expected_streams) = uninterrupted
    assert lines(workdir) == expected_lines
    state, streams = final_arrays(config, workdir)
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    assert streams == expected_streams


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4, 7])
def test_stopped_and_resumed_is_bit_identical(at, tokenizer_path, uninterrupted, tmp_path, monkeypatch):
    config = configs.resolve(tree(tokenizer_path))
    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "due", lambda self, step: step == at)
        with pytest.raises(preemption.Interrupted, match=f"stopped after step {at} of {STEPS} of one"):
            run.train(config, tmp_path)
    run.train(config, tmp_path)
    assert_same(config, tmp_path, uninterrupted)


@pytest.mark.slow
def test_killed_without_warning_goes_on_from_the_last_save(tokenizer_path, uninterrupted, tmp_path, monkeypatch):
    config = configs.resolve(tree(tokenizer_path))

    def die(self, step):
        if step == 5:
            for thread in threading.enumerate():  # a killed process writes no more; this one's thread would
                if thread.name.startswith("checkpoint-"):
                    thread.join()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "due", die)
        with pytest.raises(KeyboardInterrupt):
            run.train(config, tmp_path)
    assert len(lines(tmp_path)) > 3
    run.train(config, tmp_path)
    assert_same(config, tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_run_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tokenizer_path, tmp_path, capsys):
    keys = {
        "stages__one__steps": 40,
        "stages__one__learning_rate": 1e30,
        "stages__one__warmup_steps": 0,
        "train__save_every": 1,
        "train__max_to_keep": 1,
        "train__max_skipped": 3,
    }
    config = configs.resolve(tree(tokenizer_path, **keys))
    with pytest.raises(
        guard.TrainingError, match=r"step \d+ \(\w+\): loss .*not finite in 3 steps in a row"
    ) as stopped:
        run.train(config, tmp_path)
    skipped = [line for line in lines(tmp_path) if line.get("skipped")]
    first = skipped[0]["step"]
    assert [line["step"] for line in skipped[:3]] == [first, first + 1, first + 2]
    assert f"step {first + 2} ({skipped[2]['objective']})" in str(stopped.value)
    assert "update skipped, 2 of at most 3 in a row" in capsys.readouterr().out
    # Nothing of the steps in a row is saved: the newest checkpoint is from before them, and finite.
    restored, _ = final_arrays(config, tmp_path)
    assert int(restored.step) == first
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))
    # The records it names are those of the rows.
    written = json.loads((tmp_path / "one" / "not_finite.json").read_text())
    assert [step["step"] for step in written] == [first, first + 1, first + 2]
    assert len(written[2]["rows"]) == config.train.batch_size
    named = written[2]["rows"][0][0]
    assert f"row 0: {named['entry']} {named['index']}" in str(stopped.value)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_skipped_steps_are_counted_and_the_run_goes_on(tokenizer_path, tmp_path, monkeypatch):
    config = configs.resolve(tree(tokenizer_path, train__save_every=0))
    counted = stages.counted_loss

    def sometimes(loss, model, params, batch, rng):
        sums = counted(loss, model, params, batch, rng)
        spoilt = jax.random.bernoulli(jax.random.fold_in(rng, 13), 0.4)  # some steps, not the last
        return sums | {"loss": (jax.numpy.where(spoilt, jax.numpy.inf, sums["loss"][0]), sums["loss"][1])}

    monkeypatch.setattr(stages, "counted_loss", sometimes)
    numbers = run.train(config, tmp_path)
    skipped = [line["skipped"] for line in lines(tmp_path) if "objective" in line]
    assert 0 < sum(skipped) < STEPS
    objectives = numbers["objectives"]["one"].values()
    assert sum(values.get("skipped", 0) for values in objectives) == sum(skipped)
    assert all(np.isfinite(values["loss"]) for values in objectives if values.get("skipped", 0) < values["steps"])


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tokenizer_path, tmp_path):
    config = configs.resolve(tree(tokenizer_path, stages__one__steps=2))
    first = run.train(config, tmp_path)
    second = run.train(config, tmp_path)
    assert first["objectives"] == second["objectives"]
    assert len([line for line in lines(tmp_path) if "objective" in line]) == 2


@pytest.mark.slow
def test_a_second_stage_starts_from_the_first_ones_parameters(tokenizer_path, tmp_path):
    one = tree(tokenizer_path)["stages"]["one"] | {"steps": 2}
    two = one | {"steps": 1, "warmup_steps": 0, "learning_rate": 0.0, "weights": {"btmlm": 1.0}}
    config = configs.resolve(tree(tokenizer_path, stages={"one": one, "two": two}))
    run.train(config, tmp_path)
    made = run.make(config, tmp_path)

    def params(name):
        stage = stages.make_stage(config, name, tmp_path / name)
        return stages.checkpoints(made, stage.directory).restore_params(None, stages.abstract_state(made, stage).params)

    # With a learning rate of 0 the second stage must end where the first ended.
    jax.tree.map(np.testing.assert_array_equal, params("one"), params("two"))
    assert {line["objective"] for line in lines(tmp_path, "two") if "objective" in line} == {"btmlm"}


@pytest.mark.slow
def test_init_params_and_init_resume(tokenizer_path, uninterrupted, tmp_path):
    source, target, other = tmp_path / "source", tmp_path / "target", tmp_path / "other"
    run.train(configs.resolve(tree(tokenizer_path, stages__one__steps=3)), source)
    keys = {"init__params": str(source), "stages__one__steps": 1, "stages__one__learning_rate": 0.0}
    config = configs.resolve(tree(tokenizer_path, stages__one__warmup_steps=0, **keys))
    run.train(config, target)
    before, _ = final_arrays(configs.resolve(tree(tokenizer_path)), source)
    after, _ = final_arrays(config, target)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    # Resuming into a new work directory takes state, streams and step; the schedule is the new config's.
    resumed = configs.resolve(tree(tokenizer_path, init__resume=str(source)))
    run.train(resumed, other)
    found = [line for line in lines(other) if "objective" in line]
    expected = [line for line in uninterrupted[0] if "objective" in line]
    assert [line["step"] for line in found] == list(range(3, STEPS))
    assert [line["tokens"] for line in found] == [line["tokens"] for line in expected[3:]]


def test_a_later_stage_is_checked_before_the_first_one_trains(tokenizer_path, tmp_path):
    one = tree(tokenizer_path)["stages"]["one"] | {"weights": {"mmlm": 1.0}}
    stages = {"one": one, "two": one | {"weights": {"camlm": 1.0}}}
    config = configs.resolve(tree(tokenizer_path, stages=stages, data__parallel={}))
    with pytest.raises(configs.ConfigError, match=r"config\.data\.parallel names no source"):
        run.train(config, tmp_path)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "config.json").exists()


def test_objectives_are_drawn_by_weight_and_step(tokenizer_path, tmp_path):
    config = configs.resolve(tree(tokenizer_path, stages__one__weights={"mmlm": 3.0, "tlm": 1.0, "camlm": 0.0}))
    stage = stages.make_stage(config, "one", tmp_path)
    drawn = [stage.objective(index) for index in range(4000)]
    assert drawn.count("mmlm") == pytest.approx(3000, abs=100)
    assert drawn.count("camlm") == 0
    assert [stage.objective(index) for index in range(50)] == drawn[:50]


@pytest.mark.slow
def test_the_summary_names_what_was_seen(tokenizer_path, tmp_path):
    source = {
        "path": "corpus:diagnostics/dev",
        "format": "auto",
        "languages": (),
        "pairs": (),
        "columns": (),
        "split": "",
    }
    config = configs.resolve(tree(tokenizer_path, evals__retrieval__source=source))
    numbers = run.train(config, tmp_path)
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert set(stored["evals"]["retrieval"]) == {"untrained", "one"}
    assert all(0 <= value <= 100 for value in stored["evals"]["retrieval"].values())
    assert set(stored["objectives"]["one"]) == {line["objective"] for line in lines(tmp_path) if "objective" in line}
    for values in stored["objectives"]["one"].values():
        assert {"loss", "first_loss", "accuracy", "scored", "steps"} <= set(values)
    assert {"pseudo_novel", "pseudo_confidence"} <= set(
        stored["objectives"]["one"].get("btmlm", {"pseudo_novel", "pseudo_confidence"})
    )
    assert 0.8 < stored["fill"] <= 1
    assert stored["tokens_per_second"] > 0
    assert stored["versions"]["jax"] == jax.__version__
    assert numbers["wall_seconds"] > 0
    assert (tmp_path / "one" / "retrieval.csv").read_text().startswith("query,en,de,ru")
    assert (tmp_path / "one" / "retrieval.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "one" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model__vocab_size": 1001}, "config.model.vocab_size is 1001, but the tokenizer in .* has 1000 entries"),
        ({"data__monolingual__diagnostics__path": "no/such.{language}.txt"}, "no/such.en.txt"),
        ({"languages": ("en", "de", "fi")}, "no data in 'fi'"),
        ({"stages__one__warmup_steps": STEPS + 1}, r"config\.stages\.one\.warmup_steps is 9; it must be from 0 to 8"),
        ({"mesh__data": 3}, "mesh.data=3"),
        ({"init__params": "nowhere"}, "config.init.params: .nowhere.: no such file or directory"),
    ],
)
def test_a_run_that_cannot_start_says_why(keys, message, tokenizer_path, tmp_path):
    with pytest.raises((configs.ConfigError, DataError), match=message):
        run.train(configs.resolve(tree(tokenizer_path, **keys)), tmp_path)


def test_a_work_directory_of_another_config_is_refused(tokenizer_path, tmp_path):
    claim.claim(configs.resolve(tree(tokenizer_path)), tmp_path)
    # Nothing was made there yet: a mended config may take it over.
    claim.claim(configs.resolve(tree(tokenizer_path, seed=2)), tmp_path)
    claim.claim(configs.resolve(tree(tokenizer_path)), tmp_path)
    (tmp_path / "one" / "checkpoints" / "3").mkdir(parents=True)
    claim.claim(configs.resolve(tree(tokenizer_path, seed=3)), tmp_path)
    claim.claim(configs.resolve(tree(tokenizer_path)), tmp_path)
    (tmp_path / "one" / "checkpoints" / "3" / "manifest.json").touch()
    kept = (tmp_path / "config.json").read_text()
    with pytest.raises(configs.ConfigError, match=r"(?s)different config.*config\.seed: 0 there, 1 here"):
        claim.claim(configs.resolve(tree(tokenizer_path, seed=1)), tmp_path)
    assert (tmp_path / "config.json").read_text() == kept
    faster = configs.resolve(tree(tokenizer_path, train__log_every=7))
    claim.claim(faster, tmp_path)
    assert configs.resolve(claim.stored_config_tree(tmp_path)) == faster


@pytest.mark.parametrize("of", ["model", "stage"])
def test_a_model_and_a_stage_are_no_place_for_a_run(of, tokenizer_path, tmp_path):
    folder = tmp_path / "run" / "one" if of == "stage" else tmp_path / "model"
    (folder / "checkpoints" / "0").mkdir(parents=True)
    (folder / "checkpoints" / "0" / "manifest.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    (folder / "summary.json").write_text("{}")
    with pytest.raises(configs.ConfigError, match=r"not a run: choose another --workdir; --config\.init\.params="):
        run.train(configs.resolve(tree(tokenizer_path)), folder)
    assert (folder / "config.json").read_text() == (folder / "summary.json").read_text() == "{}"


def test_init_resume_is_of_a_stage_of_the_same_name(tokenizer_path, tmp_path):
    one = tree(tokenizer_path)["stages"]["one"]
    config = configs.resolve(tree(tokenizer_path, stages={"one": one | {"steps": 2}}))
    made = run.make(config, tmp_path / "source")
    stage = stages.make_stage(config, "one", tmp_path / "source" / "one")
    saved = stages.checkpoints(made, stage.directory)
    saved.save(1, stages.initial_state(made, stage, None), {"0": {}}, {"stage": "one"})
    saved.wait()
    other = configs.resolve(tree(tokenizer_path, stages={"two": one}, init__resume=str(stage.directory)))
    with pytest.raises(configs.ConfigError, match="is of stage 'one', but this run begins with 'two'"):
        run.train(other, tmp_path / "other")
