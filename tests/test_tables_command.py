"""The paper's tables with ours beneath, out of the directories that runs leave."""

import csv
import json
import shutil

import matplotlib.image
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.evaluation import tables
from ernie_m_jax.reporting import files, paper_tables

EVERY = [(task, setting) for task in paper_tables.TASKS for setting in paper_tables.settings(task)]


@pytest.fixture
def run(capsys):
    """Exit status, standard output and standard error of the command, in this process."""

    def call(*given):
        status = 0
        try:
            tables.main(list(map(str, given)))
        except SystemExit as ended:
            status = ended.code
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def leave(directory, flag, evals, *settings, finished=True):
    """The config and the summary of a finished run; `evals` is what its last evaluations found."""
    tree = config_files.from_file(f"configs/finetune/{flag}")
    config = configs.resolve(tree, problems=config_files.override(tree, settings))
    files.write_json(directory / "config.json", {"config": configs.to_dict(config)})
    if finished:
        files.write_json(directory / "summary.json", {"stages": {"finetune": {"evals": evals}}})
    return directory


def xnli(seed):
    """Accuracies of a run of this seed, by language."""
    return {language: 50 + number + 10 * seed + 0.123 for number, language in enumerate(paper_tables.languages("xnli"))}


def scored(task, metric, values):
    found = {f"test/{language}/{metric}": value for language, value in values.items()}
    return {task: {**found, f"dev/en/{metric}": 1.0, f"test/{metric}": float(np.mean(list(values.values())))}}


def rows(folder, task, setting):
    """Our rows of a written table: name -> cells."""
    with (folder / f"{task}-{setting}.csv").open() as file:
        return {row[1]: row[2:] for row in csv.reader(file) if row[0] == "ours"}


def xnli_run(directory, seed, *settings, flag="xnli.py:size=base", **keys):
    return leave(directory, flag, scored("xnli", "accuracy", xnli(seed)), f"--config.seed={seed}", *settings, **keys)


def test_without_a_run_every_table_has_every_row_of_the_paper(tmp_path, run):
    status, shown, _ = run("--output", tmp_path)
    assert status == 0
    lines = [line.split() for line in shown.splitlines()]
    for task, setting in EVERY:
        assert f"{task} {setting}: the paper's rows" in " ".join(shown.split())  # a narrow table's title is wrapped
        published = paper_tables.rows(task, setting)
        markdown = (tmp_path / f"{task}-{setting}.md").read_text()
        picture = matplotlib.image.imread(tmp_path / f"{task}-{setting}.png")
        assert picture.ndim == 3
        assert min(picture.shape[:2]) > 100
        for row in published:
            cells = [f"{value:.2f}" if task == "conll" else str(value) for value in row.values.values()]
            assert [*row.model.split(), *cells] in lines
            model = row.model.replace("*", r"\*")
            assert f"| {model} | {' | '.join(cells)} |\n" in markdown
        assert rows(tmp_path, task, setting) == {}


def test_runs_that_differ_in_their_seed_are_one_row_their_mean(tmp_path, run):
    given = [xnli_run(tmp_path / f"run-{seed}", seed, f"--config.mesh.data={seed + 1}") for seed in (0, 1)]
    tree = json.loads((given[1] / "config.json").read_text())
    tree["config"]["stages"]["finetune"]["steps"] = 77  # as measured, which the order of a seed may change
    (given[1] / "config.json").write_text(json.dumps(tree))
    status, shown, _ = run(*given, "--output", tmp_path)
    assert status == 0
    (cells,) = rows(tmp_path, "xnli", "transfer").values()
    values = np.array([list(xnli(seed).values()) for seed in (0, 1)])
    np.testing.assert_allclose(list(map(float, cells)), [*values.mean(0), values.mean()], rtol=1e-12)
    assert list(rows(tmp_path, "xnli", "transfer")) == ["ours: ernie-m-base, 2 seeds"]
    assert f" {values.mean(0)[0]:.1f} " in shown
    assert "| **ours: ernie-m-base, 2 seeds** | **55.1** |" in (tmp_path / "xnli-transfer.md").read_text()
    assert rows(tmp_path, "xnli", "all") == {}


def test_each_task_comes_into_its_table_and_setting(tmp_path, run):
    mlqa = {f"test/en/{metric}": value for metric, value in (("f1", 80.5), ("exact_match", 60.25))}
    found = {"tatoeba": {"de>en": 40.0, "fr>en": 60.0, "en>de": 1.0, "to_en": 50.0, "layer7/average": 3.0}}
    sources = ("--config.data.parallel.pairs.path=x.{pair}.{language}",)
    status, _, _ = run(
        xnli_run(tmp_path / "a", 0, flag="xnli.py:size=base,mode=all"),
        leave(tmp_path / "b", "pawsx.py:size=large", scored("pawsx", "accuracy", {"en": 90.0, "de": 80.0})),
        leave(tmp_path / "c", "conll.py:size=base,mode=all", scored("conll", "piece_f1", {"en": 91.5, "nl": 81.5})),
        leave(tmp_path / "d", "mlqa.py:size=base", {"mlqa": mlqa}),
        leave(tmp_path / "e", "tatoeba.py:size=base", found, *sources),
        f"XLM-R={leave(tmp_path / 'f', 'xnli.py:size=base,init=x/xlmr', scored('xnli', 'accuracy', {'en': 70.0}))}",
        "--output",
        tmp_path,
    )
    assert status == 0
    ours = {place: rows(tmp_path, *place) for place in EVERY}
    assert {place: list(found) for place, found in ours.items() if found} == {
        ("xnli", "transfer"): ["XLM-R, 1 seed (1 of 15 languages)"],
        ("xnli", "all"): ["ours: ernie-m-base, 1 seed"],
        ("pawsx", "transfer"): ["ours: ernie-m-large, 1 seed (2 of 7 languages)"],
        ("conll", "all"): ["ours: ernie-m-base, 1 seed (2 of 4 languages)"],
        ("mlqa", "transfer"): ["ours: ernie-m-base, 1 seed (1 of 7 languages)"],
        ("tatoeba", "transfer"): ["ours: ernie-m-base*, 1 seed (2 of 36 languages)"],
    }
    ((*_, f1),) = ours["mlqa", "transfer"].values()
    assert f1 == "80.5/60.25"
    assert list(ours["tatoeba", "transfer"].values()) == [["50.0"]]


def test_configs_that_differ_are_rows_of_their_own(tmp_path, run):
    one = xnli_run(tmp_path / "one", 0)
    other = xnli_run(tmp_path / "other", 1, "--config.optimizer.layer_decay=0.7")
    scratch = xnli_run(tmp_path / "scratch", 0, "--config.init.params=", "--config.tokenizer.path=somewhere")
    status, _, _ = run(one, other, scratch, "--output", tmp_path)
    assert status == 0
    assert list(rows(tmp_path, "xnli", "transfer")) == [
        f"ours: ernie-m-base ({one}, xnli), 1 seed",
        f"ours: ernie-m-base ({other}, xnli), 1 seed",
        "ours: from scratch, 1 seed",
    ]


def sweep(directory, statuses, best):
    runs = {f"rate={rate},seed={seed}": {"status": statuses} for rate in (1, 2) for seed in (0, 1)}
    files.write_json(directory / "sweep.json", {"runs": runs, "best": best})
    for name in runs:
        rate, seed = int(name[5]), int(name[-1])
        xnli_run(directory / name, seed, f"--config.stages.finetune.learning_rate={rate}e-5")
    return directory


def test_of_a_sweep_the_best_combination_counts(tmp_path, run):
    best = {"combination": "rate=2", "runs": ["rate=2,seed=0", "rate=2,seed=1"]}
    given = sweep(tmp_path / "sweep", "done", best)
    status, _, _ = run(given, f"one={given / 'rate=1,seed=1'}", "--output", tmp_path)
    assert status == 0
    found = rows(tmp_path, "xnli", "transfer")
    assert list(found) == ["ours: ernie-m-base, 2 seeds", "one, 1 seed"]
    assert float(found["ours: ernie-m-base, 2 seeds"][0]) == pytest.approx(np.mean([xnli(0)["en"], xnli(1)["en"]]))
    assert float(found["one, 1 seed"][0]) == xnli(1)["en"]


def test_a_label_may_hold_any_character(tmp_path, run, recwarn):
    status, _, said = run(f"$x^{{$ 你好={xnli_run(tmp_path / 'run', 0)}", "--output", tmp_path)
    assert (status, said) == (0, "")
    assert list(rows(tmp_path, "xnli", "transfer")) == ["$x^{$ 你好, 1 seed"]
    assert [str(one.message) for one in recwarn if "Glyph" in str(one.message)] == []


def test_what_is_only_evaluated_has_no_seed(tmp_path, run):
    """What `--mode=evaluate` leaves in a directory that holds no run."""
    directory = leave(tmp_path / "zero" / "evaluation", "tatoeba.py:size=large,init=x/ernie-m-large", {})
    files.write_json(directory / "summary.json", {"evals": {"tatoeba": {"de>en": 40.0}}})
    for given in (tmp_path / "zero", directory):
        status, _, _ = run(given, "--output", tmp_path)
        assert status == 0
        assert list(rows(tmp_path, "tatoeba", "transfer")) == ["ours: ernie-m-large (1 of 36 languages)"]


def evaluated(run, seed, *settings):
    """What `--mode=evaluate` leaves in the directory of a run."""
    left = xnli_run(run / "evaluation", seed, *settings, finished=False)
    files.write_json(left / "summary.json", {"evals": scored("xnli", "accuracy", xnli(seed))})
    return left


def test_evaluations_of_runs_that_differ_in_their_seed_are_one_row(tmp_path, run):
    given = [evaluated(xnli_run(tmp_path / f"run-{seed}", seed), seed) for seed in (0, 1)]
    status, _, said = run(*given, xnli_run(tmp_path / "run-2", 2), "--output", tmp_path)
    assert (status, said) == (0, "")
    found = rows(tmp_path, "xnli", "transfer")
    assert [name.rpartition("), ")[2] for name in found] == [
        "2 seeds",
        "1 seed",
    ]  # what was trained is a row of its own
    values = np.array([list(xnli(seed).values()) for seed in (0, 1)])
    np.testing.assert_allclose(list(map(float, next(iter(found.values()))))[:-1], values.mean(0), rtol=1e-12)


def test_failed_runs_of_a_sweep_are_said_and_its_best_counts(tmp_path, run):
    best = {"combination": "rate=2", "runs": ["rate=2,seed=0", "rate=2,seed=1"]}
    given = sweep(tmp_path / "sweep", "done", best)
    stored = json.loads((given / "sweep.json").read_text())
    stored["runs"]["rate=1,seed=1"]["status"] = "failed"
    files.write_json(given / "sweep.json", stored)
    status, _, said = run(given, "--output", tmp_path)
    assert status == 0
    assert said == f"{given}: 1 of 4 runs failed: rate=1,seed=1; the best of the others counts\n"
    assert list(rows(tmp_path, "xnli", "transfer")) == ["ours: ernie-m-base, 2 seeds"]


@pytest.mark.parametrize("content", ['"text"', "null", "[]", '{"stages": []}', '{"stages": {"a": {"evals": null}}}'])
def test_a_damaged_summary_is_named(tmp_path, run, content):
    given = xnli_run(tmp_path / "run", 0)
    (given / "summary.json").write_text(content)
    status, shown, said = run(given)
    assert (status, shown) == (2, "")
    assert said.startswith(f"error: {given / 'summary.json'} is damaged (")
    assert said.count("\n") == 1


@pytest.mark.parametrize("value", [float("nan"), 100.5, -1.0, None, "x", [3], True])
def test_a_figure_that_is_no_percentage_is_named(tmp_path, run, value):
    found = scored("xnli", "accuracy", xnli(0))
    found["xnli"]["test/de/accuracy"] = value
    given = leave(tmp_path / "run", "xnli.py:size=base", found)
    status, shown, said = run(given, "--output", tmp_path / "tables")
    assert (status, shown) == (2, "")
    assert said.startswith(f"error: {given / 'summary.json'}: xnli, ")
    assert " from 0 to 100" in said
    assert ("de is" in said) or ("test/de/accuracy is" in said)
    assert said.count("\n") == 1
    assert not (tmp_path / "tables").exists()


def test_a_run_on_other_languages_than_the_papers_settings_says_so(tmp_path, run):
    conll = "--config.objectives.conll.train_languages=es,nl"
    evals = scored("conll", "piece_f1", {"es": 70.0, "nl": 60.0})
    status, shown, said = run(leave(tmp_path / "run", "conll.py:size=base,mode=all", evals, conll))
    assert (status, shown) == (2, "")
    assert "no evaluation of it belongs in a table" in said
    assert "conll is trained on es, nl; the paper's settings are en, or all of en, nl, es, de" in said
    assert said.count("\n") == 1


def refuse_unfinished(folder):
    given = xnli_run(folder, 0, finished=False)
    return [given], f"{given}: the run is not finished, there is no summary.json"


def refuse_missing(folder):
    return [f"XLM-R={folder}"], f"XLM-R={folder}: no such directory"


def refuse_empty(folder):
    folder.mkdir()
    return [folder], f"{folder} has no config.json"


def refuse_other(folder):
    given = leave(folder, "xnli.py:size=base", {"xnli": {"dev/en/accuracy": 3.0}})
    return [given], f"{given}: no evaluation of it belongs in a table of the paper (config.evals: dev, xnli)"


def refuse_damaged(folder):
    given = xnli_run(folder, 0)
    (given / "summary.json").write_text("{")
    return [given], f"{given / 'summary.json'} is damaged"


def refuse_twice(folder):
    given = xnli_run(folder, 0)
    return [given, given], f"{given} and {given} are the same run, {given}; give one of them"


def refuse_twice_by_label(folder):
    given = xnli_run(folder, 0)
    labelled = [f"A={given}", f"B={given.parent}/./{given.name}"]
    return labelled, f"{labelled[1]} and {labelled[0]} are the same run, {given}"


def refuse_copy(folder):
    given = [xnli_run(folder / name, 0) for name in ("one", "two")]
    return given, f"{given[0]}, xnli and {given[1]}, xnli are of one config and one seed"


def refuse_its_evaluation(folder):
    given = xnli_run(folder, 0)
    return [given, evaluated(given, 0)], f"{given / 'evaluation'} and {given} are the same run"


def refuse_its_stages_evaluation(folder):
    given = xnli_run(folder, 0)
    (given / "finetune" / "checkpoints").mkdir(parents=True)
    return [
        evaluated(given / "finetune", 0),
        given,
    ], f"{given} and {given / 'finetune' / 'evaluation'} are the same run"


def refuse_sweep_of_one_combination_with_a_failed_run(folder):
    return [sweep(folder, "failed", None)], "no combination of the sweep has a finite value on dev and no failed run"


def refuse_other_languages(folder):
    one, other = xnli_run(folder / "one", 0), xnli_run(folder / "other", 1)
    found = json.loads((other / "summary.json").read_text())
    del found["stages"]["finetune"]["evals"]["xnli"]["test/sw/accuracy"]
    files.write_json(other / "summary.json", found)
    return [one, other], f"{other}, xnli has no figure for sw, which {one}, xnli has"


def refuse_sweep_whose_run_is_gone(folder):
    best = {"combination": "rate=2", "runs": ["rate=2,seed=0", "rate=2,seed=1"]}
    given = sweep(folder, "done", best)
    shutil.rmtree(given / "rate=2,seed=1")
    return [given], f"{given / 'rate=2,seed=1'}: the run is gone"


def refuse_sweep(folder):
    return [sweep(folder, "running", None)], "the sweep is not finished, 4 of 4 runs are left"


def refuse_sweep_without_best(folder):
    return [sweep(folder, "done", None)], "no combination of the sweep has a finite value on dev"


def refuse_stage(folder):
    run = xnli_run(folder, 0)
    (run / "finetune" / "checkpoints").mkdir(parents=True)
    return [run / "finetune"], f"{run / 'finetune'} is a stage of a run; give the run, {run}"


def refuse_damaged_sweep(folder):
    sweep(folder, "done", None)
    (folder / "sweep.json").write_text("[]")
    return [folder], f"{folder / 'sweep.json'} is damaged"


@pytest.mark.parametrize("make", [value for name, value in sorted(globals().items()) if name.startswith("refuse_")])
def test_a_directory_without_figures_is_named_with_the_reason(tmp_path, run, make):
    given, message = make(tmp_path / "bad")
    good = xnli_run(tmp_path / "good", 0, "--config.optimizer.layer_decay=0.7")
    status, shown, said = run(good, *given, "--output", tmp_path / "tables")
    assert status == 2
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert shown == ""
    assert not (tmp_path / "tables").exists()
