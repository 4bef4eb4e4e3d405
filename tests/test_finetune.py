"""XNLI and PAWS-X from their official files to the paper's table, by the command as a user gives it."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import re
import shutil

import fsspec
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import ernie_m_jax
from configs.finetune import conll, xnli
from ernie_m_jax import config as configs
from ernie_m_jax import main, stores
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.convert.model import shapes
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import run
from tests import labelled_files
from tests.command import call
from tests.conftest import small_tree

TOKENIZERS = pathlib.Path(__file__).parent / "golden" / "tokenizer"
LANGUAGES = ("en", "de", "fr")
TRAIN, DEV, TEST = 60, 18, 24  # pairs per language
SMALL = (
    "--config.languages=en,de,fr",
    "--config.data.sequence_length=64",
    "--config.data.virtual_streams=2",
    "--config.data.packing_bins=4",
    "--config.train.batch_size=2",
    "--config.train.log_every=20",
    "--config.stages.finetune.epochs=9",
    "--config.stages.finetune.learning_rate=1e-2",
    "--config.evals.dev.every=20",
    "--config.model.hidden_dropout=0.0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data, and a pre-trained model of ours to start from."""
    path = tmp_path_factory.mktemp("finetune")
    labelled_files.write_xnli(path, LANGUAGES, TRAIN, DEV, TEST)
    labelled_files.write_pawsx(path, LANGUAGES, TRAIN, DEV, TEST)
    return path


@pytest.fixture(scope="module")
def pretrained(tokenizer_path, tmp_path_factory):
    """A run of pre-training of one step."""
    keys = {"stages__one__steps": 1, "stages__one__warmup_steps": 0, "stages__one__weights": {"mmlm": 1.0}}
    tiny = {"model__num_layers": 1, "compute__vocab_chunk": 0, "tokenizer__path": str(tokenizer_path)}
    workdir = tmp_path_factory.mktemp("pretrained")
    run.train(configs.resolve(small_tree(**keys, **tiny)), workdir)
    return workdir


def arguments(task, mode, folder, pretrained, workdir):
    data = {"xnli": ("XNLI-MT-1.0", "XNLI-1.0", "XNLI-1.0"), "pawsx": ("x-final",) * 3}[task]
    paths = dict(zip(("train", "dev", "test"), data, strict=True))
    languages = () if mode == "transfer" else (f"--config.objectives.{task}.train_languages=en,de,fr",)
    return (
        f"--config=configs/finetune/{task}.py:size=tiny,mode={mode},seed=1,init={pretrained}",
        f"--workdir={workdir}",
        f"--config.objectives.{task}.max_length=64",
        *(f"--config.objectives.{task}.{split}={folder / name}" for split, name in paths.items()),
        *languages,
        *SMALL,
    )


def command(*given):
    """Exit status, standard output and standard error of the command, in this process: it starts faster."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        flags.FLAGS.unparse_flags()
        try:
            main.main(main.parse(["main", *map(str, given)]))
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finetuned(folder, pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("xnli") / "run"
    given = arguments("xnli", "transfer", folder, pretrained, workdir)
    return workdir, given, call(*given).stdout


def written(path):
    rows = list(csv.reader(path.read_text().splitlines()))
    return {row[0]: dict(zip(rows[0][1:], map(float, row[1:]), strict=True)) for row in rows[1:]}


def check_predictions(stage, task, names, languages=LANGUAGES):
    """A line per record, in order: counted against the labels, they give the table's accuracies."""
    table = written(stage / f"{task}.csv")
    assert (stage / f"{task}.png").read_bytes().startswith(b"\x89PNG")
    for seed, (split, count) in enumerate({"dev": DEV, "test": TEST}.items(), 1):
        for language in languages:
            predicted = (stage / f"{task}-predictions" / f"{split}-{language}.tsv").read_text().splitlines()
            expected = labelled_files.labels(language, count, names, seed)
            assert len(predicted) == count
            assert set(predicted) <= set(names)
            right = sum(one == other for one, other in zip(predicted, expected, strict=True))
            assert table[f"{split} accuracy"][language] == pytest.approx(100 * right / count, abs=1e-9)
    return table


def test_the_papers_dropout_is_not_that_of_pretraining(pretrained):
    for task in (xnli, conll):
        for size, dropout in (("base", 0.1), ("large", 0.1), ("tiny", 0.0)):
            model = task.get_config(f"size={size},init={pretrained}").model
            assert model.hidden_size == 32  # the run's
            if task is xnli or size != "tiny":
                assert (model.hidden_dropout, model.attention_dropout) == (dropout, dropout)


def test_a_run_behind_a_url_gives_its_architecture_and_tokenizer_as_a_folder_does(pretrained):
    behind, here = (xnli.get_config(f"size=tiny,init={place}") for place in (f"file://{pretrained}", pretrained))
    assert behind.model.hidden_size == 32
    assert (behind.model, behind.tokenizer.style, behind.data) == (here.model, here.tokenizer.style, here.data)
    assert behind.init.params == f"file://{pretrained}"
    assert (behind.tokenizer.path, here.tokenizer.path) == (f"file://{pretrained}/tokenizer", f"{pretrained}/tokenizer")
    nothing = xnli.get_config(f"size=tiny,init=file://{pretrained}/absent")  # as a folder that is not there
    assert nothing.model.hidden_size == xnli.get_config("size=tiny").model.hidden_size


def test_a_store_that_refuses_is_an_error_where_an_architecture_is_looked_for(monkeypatch):
    def refused(*_, **__):
        raise PermissionError("403: not yours")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", refused)
    with pytest.raises(stores.StoreError, match=r"memory://there/config\.json: PermissionError: 403: not yours"):
        xnli.get_config("size=tiny,init=memory://there")


@pytest.mark.slow
def test_the_model_answers_other_rows_and_xtremes_test_data(finetuned, folder, tmp_path):
    workdir, _, _ = finetuned
    evaluated = workdir / "finetune" / "xnli-predictions"
    for language in LANGUAGES:
        rows = labelled_files.pairs(language, TEST, labelled_files.NLI, 2)
        source, target = tmp_path / f"{language}.tsv", tmp_path / f"{language}.jsonl"
        source.write_text("".join(f"{first}\t{second}\n" for first, second, _ in rows))
        say = (f"--workdir={workdir}", "--mode=predict", f"--input={source}", f"--output={target}")
        assert command(*say)[0] == 0
        answers = [json.loads(line) for line in target.read_text().splitlines()]
        assert [one["label"] for one in answers] == (evaluated / f"test-{language}.tsv").read_text().splitlines()
        model = ernie_m_jax.load(workdir)
        assert model.objectives["xnli"]["max_length"] == 64
        again = model.predict([row[:2] for row in rows])
        assert [one["label"] for one in again] == [one["label"] for one in answers]
    status, shown, _ = command(f"--workdir={workdir}", "--mode=predict", f"--output={tmp_path / 'submission'}")
    assert (status, shown.splitlines()[-1]) == (0, str(tmp_path / "submission" / "xnli"))
    for language in LANGUAGES:
        written = tmp_path / "submission" / "xnli" / f"test-{language}.tsv"
        assert written.read_bytes() == (evaluated / f"test-{language}.tsv").read_bytes()
    assert len(list((tmp_path / "submission").rglob("*.*"))) == len(LANGUAGES)


def test_the_papers_rows_are_shown_with_ours_beneath(finetuned):
    workdir, _, shown = finetuned
    table = check_predictions(workdir / "finetune", "xnli", labelled_files.NLI)
    assert "xnli transfer: the paper's rows and ours" in shown
    (ours,) = re.findall(r"^ours.*$", shown, re.MULTILINE)
    for language in LANGUAGES:
        assert f" {table['test accuracy'][language]:.1f}" in ours
    mean = np.mean(list(table["test accuracy"].values()))
    assert ours.rstrip().endswith(f"{mean:.1f}")
    assert "ERNIE-M" in shown
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["evals"]["xnli"]["finetune"] == pytest.approx(mean)
    losses = summary["objectives"]["finetune"]["xnli"]
    assert losses["loss"] < 0.8 * losses["first_loss"]


def evaluations(stage):
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["dev/accuracy"] for line in lines if line.get("eval") == "dev"}


def test_the_best_checkpoint_is_kept_and_is_the_result(finetuned):
    stage = finetuned[0] / "finetune"
    dev = evaluations(stage)
    assert len(dev) > 2
    best = max(dev, key=lambda step: (dev[step], -step))
    assert json.loads((stage / "checkpoints" / "selected.json").read_text())["step"] == best
    assert best in {int(path.name) for path in (stage / "checkpoints").iterdir() if path.is_dir()}
    table = written(stage / "xnli.csv")
    assert np.mean(list(table["dev accuracy"].values())) == pytest.approx(dev[best])
    selected = json.loads((stage / "summary.json").read_text())["selected"]
    assert selected == {"step": best, "metric": "dev/dev/accuracy", "value": pytest.approx(dev[best])}


def test_epochs_become_steps_that_are_measured_once(finetuned):
    workdir, given, shown = finetuned
    ((epochs, records, steps, per_step),) = re.findall(
        r"^finetune: (\S+) epochs of (\d+) records are (\d+) steps of (\S+) records$", shown, re.MULTILINE
    )
    assert (epochs, records) == ("9", str(TRAIN))
    assert int(steps) == pytest.approx(9 * TRAIN / float(per_step), abs=1)
    stored = json.loads((workdir / "config.json").read_text())["config"]["stages"]["finetune"]
    assert stored["steps"] == int(steps)
    assert stored["warmup_steps"] == int(0.1 * int(steps))
    before = (workdir / "summary.json").read_bytes()
    status, said, _ = command(*given)
    assert status == 0
    assert "is complete" in said
    assert "epochs of" not in said
    assert (workdir / "summary.json").read_bytes() == before
    status, _, said = command(*given, "--config.stages.finetune.epochs=10")
    assert status == 2
    assert "config.stages.finetune.epochs: 9.0 there, 10.0 here" in said
    assert "steps" not in said.replace("stages", "")  # nobody gave any


def test_the_model_has_its_labels_wherever_it_goes(finetuned, tmp_path):
    workdir = finetuned[0]
    names = ["contradiction", "entailment", "neutral"]
    assert json.loads((workdir / "config.json").read_text())["config"]["model"]["labels"] == names
    model = ernie_m_jax.load(workdir)
    assert list(model.labels) == names
    ernie_m_jax.save(tmp_path / "saved", model, to="huggingface")
    stated = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert stated["id2label"] == {"0": names[0], "1": names[1], "2": names[2]}
    assert stated["label2id"] == {name: number for number, name in enumerate(names)}
    again = ernie_m_jax.load(tmp_path / "saved")
    assert list(again.labels) == names
    np.testing.assert_array_equal(again.params["head"]["kernel"], model.params["head"]["kernel"])


def test_the_work_directory_evaluates_the_selected_checkpoint_again(finetuned):
    workdir = finetuned[0]
    status, said, _ = command(f"--workdir={workdir}", "--mode=evaluate", "--config.evals.xnli.batch_size=3")
    assert status == 0
    best = json.loads((workdir / "finetune" / "checkpoints" / "selected.json").read_text())["step"]
    assert f"parameters of step {best} in" in said
    for file in (workdir / "finetune" / "xnli-predictions").iterdir():
        assert (workdir / "evaluation" / "xnli-predictions" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_pawsx_on_all_languages(folder, pretrained, tmp_path):
    given = (*arguments("pawsx", "all", folder, pretrained, tmp_path), "--config.stages.finetune.epochs=0.2")
    # A start that failed before its first checkpoint, of other data, says nothing about how long an epoch is.
    stale = json.loads(command(*given, "--mode=print")[1])
    stale["stages"]["finetune"]["steps"] = 999
    (tmp_path / "config.json").write_text(json.dumps({"config": stale}))
    status, shown, said = command(*given)
    assert status == 0, said
    assert f"finetune: 0.2 epochs of {3 * TRAIN} records are " in shown
    check_predictions(tmp_path / "finetune", "pawsx", labelled_files.PAWS)
    assert "the paper's rows" not in shown  # three languages are not the paper's seven
    assert ernie_m_jax.load(tmp_path).labels == labelled_files.PAWS
    stored = json.loads((tmp_path / "config.json").read_text())["config"]
    assert stored["model"]["labels"] == ["0", "1"]
    assert stored["stages"]["finetune"]["steps"] < 10


@pytest.mark.slow
def test_a_baseline_of_another_tokenizer_is_fine_tuned_too_but_not_pretrained(folder, tmp_path):
    words = Tokenizer.load(TOKENIZERS / "bert", "bert")
    keys = {"vocab_size": words.vocab_size, "num_token_types": 2, "language_embedding": "none", "num_languages": 0}
    model = dataclasses.replace(configs.resolve(small_tree()).model, **keys, pooler=True, mlm_head="none")
    rng = np.random.default_rng(0)
    params = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes(model).items()}
    ernie_m_jax.save(tmp_path / "bert", model, tree.nest(params), words)
    given = arguments("pawsx", "transfer", folder, tmp_path / "bert", tmp_path / "run")
    given = [*given, "--config.stages.finetune.epochs=0.2", "--config.evals.dev.every=0", "--config.train.select="]
    status, _, said = command(*given)
    assert status == 0, said
    check_predictions(tmp_path / "run" / "finetune", "pawsx", labelled_files.PAWS)
    assert len(ernie_m_jax.load(tmp_path / "run").predict([("a file", "the file")])) == 1
    config = [f"--config.{key}" for key in (f"tokenizer.path={tmp_path / 'bert'}", "tokenizer.style=bert")]
    status, _, said = command("--config=configs/quickstart.py", f"--workdir={tmp_path / 'pretrain'}", *config)
    assert status == 2
    assert "config.tokenizer.style 'bert' is for fine-tuning and using a model, not pre-training it" in said


def spoil(task, kind, data):
    """Spoils a row; returns the line that the message must name."""
    path = data / ("XNLI-1.0/xnli.test.tsv" if task == "xnli" else "x-final/de/dev_2k.tsv")
    lines = path.read_bytes().split(b"\n")
    cells = lines[3].split(b"\t")
    label, second = (1, 7) if task == "xnli" else (3, 2)
    if kind == "label":
        cells[label] = b"perhaps"
    elif kind == "sentence":
        cells[second] = b"  "
    elif kind == "columns":
        cells = cells[:2]
    else:
        cells[second] = b"\xff\xfe"
    lines[3] = b"\t".join(cells)
    path.write_bytes(b"\n".join(lines))
    return f"{path}:4: "


BAD = {
    "label": "label 'perhaps' is not allowed; allowed are: ",
    "sentence": "sentence 2 is empty",
    "columns": "2 cells, the header has ",
    "bytes": "invalid UTF-8",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("task", ["xnli", "pawsx"])
def test_a_bad_row_is_named_by_file_and_line(task, kind, folder, pretrained, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    place = spoil(task, kind, tmp_path / "data")
    given = arguments(task, "transfer", tmp_path / "data", pretrained, tmp_path / "run")
    status, _, said = command(*given)
    assert status == 2
    assert said.startswith(f"error: {place}{BAD[kind]}")
    assert f'set config.objectives.{task}.bad_rows to "skip"' in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_rows_that_are_skipped_are_counted_on_the_screen(folder, pretrained, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    spoil("xnli", "sentence", tmp_path / "data")
    given = arguments("xnli", "transfer", tmp_path / "data", pretrained, tmp_path / "run")
    status, shown, said = command(*given, "--mode=evaluate", "--config.objectives.xnli.bad_rows=skip")
    assert status == 0, said
    assert "xnli test en: left out: empty sentence 1\n" in shown
    predicted = tmp_path / "run" / "evaluation" / "xnli-predictions"
    assert len((predicted / "test-en.tsv").read_text().splitlines()) == TEST - 1
    assert len((predicted / "test-de.tsv").read_text().splitlines()) == TEST


@pytest.mark.slow
@pytest.mark.parametrize(("task", "mode"), [("xnli", "all"), ("pawsx", "transfer")])
def test_the_other_modes(task, mode, folder, pretrained, tmp_path):
    shown = call(*arguments(task, mode, folder, pretrained, tmp_path)).stdout
    check_predictions(tmp_path / "finetune", task, getattr(labelled_files, {"xnli": "NLI", "pawsx": "PAWS"}[task]))
    assert (f"{task} transfer: the paper's rows and ours" in shown) == (mode == "transfer")
    assert f" {TRAIN * (3 if mode == 'all' else 1)} records are " in shown
