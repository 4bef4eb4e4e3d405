"""CoNLL's configs, which are the original's recipe, and runs of them from files to the paper's table."""

import csv
import json
import re

import numpy as np
import pytest

from configs import base
from configs.finetune import conll as recipe
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.finetune import conll
from ernie_m_jax.training import run
from tests import conll_sentences
from tests.command import call
from tests.conftest import small_tree
from tests.conll_sentences import drawn, plain_f1, small_config

random = conll_sentences.random


# Configs


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("mode", ["transfer", "all"])
def test_the_recipe_is_the_originals(size, mode):
    config = configs.resolve(recipe.get_config(f"size={size},mode={mode},seed=3"))
    task = tasks.bind(config, "conll")
    assert config.model.labels == conll.LABELS
    assert list(task.task.requires(config, task.keys)) == []
    assert task.task.paper(config, task.keys) == ("conll", mode)
    assert task.keys.train_languages == (("en", "nl", "es", "de") if mode == "all" else ("en",))
    assert (config.model.pooler, config.model.head, config.seed) == (False, "token_classification", 3)
    assert (config.optimizer.weight_decay, config.stages["finetune"].epochs) == (0.01, 10.0)
    if size in ("base", "large"):
        assert config.train.select == "dev/dev/piece_f1"
        assert (task.keys.max_length, config.train.batch_size * task.keys.sentences_per_row) == (512, 8)
        rate = {"transfer": 4e-4, "all": {"base": 3e-4, "large": 2e-4}[size]}[mode]
        assert config.stages["finetune"].learning_rate == rate
        assert config.optimizer.layer_decay == (0.9 if (size, mode) == ("large", "all") else 0.8)


def test_a_small_model_has_dropout_whatever_its_checkpoint_was_trained_with(tmp_path):
    model = base.model("tiny").to_dict() | {"hidden_dropout": 0.0, "attention_dropout": 0.0, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "tokenizer": {"style": "ernie"}}))
    config = recipe.get_config(f"size=tiny,init={tmp_path}")
    assert (config.model.vocab_size, config.optimizer.layer_decay) == (300, 1.0)
    assert min(config.model.hidden_dropout, config.model.attention_dropout) >= 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head": "sequence_classification", "pooler": True}, "needs 'token_classification'"),
        ({"labels": ("O", "B-PER", "I-ORG"), "num_labels": 3}, "it must name O, and B- and I- of each type"),
        ({"labels": ("O",), "num_labels": 1}, "it must name O"),
        ({"labels": (), "num_labels": 9}, "it must name O"),
    ],
)
def test_a_model_that_cannot_tag_is_refused(change, said):
    tree = recipe.get_config("size=tiny")
    tree.model.update(change)
    with pytest.raises(configs.ConfigError, match=said):
        configs.resolve(tree)


def test_other_training_languages_than_the_papers_have_no_row_there():
    tree = recipe.get_config("size=tiny,mode=all")
    for codes, expected in ((("es", "nl"), None), (("es",), None), (("de", "es", "nl", "en"), ("conll", "all"))):
        tree.objectives.conll.train_languages = codes
        config = configs.resolve(tree)
        assert conll.paper_row(config, config.objectives["conll"]) == expected


def test_other_types_are_other_data_without_a_row_in_the_paper():
    tree = recipe.get_config("size=tiny")
    tree.model.update(labels=("B-X", "I-X", "O"), num_labels=3)
    config = configs.resolve(tree)
    keys = config.objectives["conll"]
    assert (list(conll.requires(config, keys)), conll.paper_row(config, keys)) == ([], None)


# Runs


def write_columns(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ("".join(f"{w} x {t}\n" for w, t in zip(r.fields["words"], r.fields["tags"], strict=True)) for r in records)
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("conll")
    rng = np.random.default_rng(5)
    for code, language in (("eng", "en"), ("deu", "de")):
        for suffix, count in (("train", 120), ("testa", 20), ("testb", 25)):
            write_columns(path / f"{code}.{suffix}", drawn(rng, count, language))
    return path


def table(path):
    rows = list(csv.reader(path.read_text().splitlines()))
    return {row[0]: dict(zip(rows[0][1:], map(float, row[1:]), strict=True)) for row in rows[1:]}


def read_columns(path):
    return [
        [line.split(" ") if " " in line else line.split("\t") for line in block.splitlines()]
        for block in path.read_text("utf-8").split("\n\n")
    ]


@pytest.mark.slow
def test_finetuning_by_command_learns_and_writes_what_it_scores(folder, tokenizer_path, tmp_path):
    pretrained = tmp_path / "pretrained"
    keys = {"stages__one__steps": 1, "stages__one__warmup_steps": 0, "stages__one__weights": {"mmlm": 1.0}}
    run.train(configs.resolve(small_tree(**keys, tokenizer__path=str(tokenizer_path))), pretrained)
    shown = call(
        f"--config=configs/finetune/conll.py:size=tiny,mode=transfer,seed=1,init={pretrained}",
        f"--workdir={tmp_path / 'run'}",
        *(f"--config.objectives.conll.{split}={folder}" for split in ("train", "dev", "test")),
        "--config.objectives.conll.languages=en,de",
        "--config.objectives.conll.max_length=64",
        "--config.data.sequence_length=64",
        "--config.data.packing_bins=4",
        "--config.train.log_every=20",
        "--config.stages.finetune.epochs=8",
        "--config.stages.finetune.learning_rate=1e-2",
        "--config.evals.dev.every=20",
    ).stdout
    stage = tmp_path / "run" / "finetune"
    scores = table(stage / "conll.csv")
    assert scores["test word_f1"]["en"] > 60
    for split, suffix in (("dev", "testa"), ("test", "testb")):
        for language, code in (("en", "eng"), ("de", "deu")):
            expected = read_columns(folder / f"{code}.{suffix}")
            written = read_columns(stage / "conll-predictions" / f"{split}-{language}.tsv")
            assert [len(one) for one in written] == [len(one) for one in expected]
            tags = [[[row[-1] for row in one] for one in side] for side in (expected, written)]
            found = [scores[f"{split} word_{name}"][language] for name in ("precision", "recall", "f1")]
            assert found == pytest.approx(plain_f1(*tags))
    assert "conll transfer: the paper's rows and ours" in shown
    (ours,) = re.findall(r"^ours \(2 of.*\n?.*$", shown, re.MULTILINE)
    for language in ("en", "de"):
        assert f"{scores['test piece_f1'][language]:.2f}" in ours
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    mean = np.mean([scores["test piece_f1"][language] for language in ("en", "de")])
    assert summary["evals"]["conll"]["finetune"] == pytest.approx(mean)


def test_an_evaluation_is_the_same_for_any_batch_size(folder, tokenizer, random):
    outcomes = []
    for rows in (1, 7):
        evaluator = Evaluations(small_config(folder, batch_size=rows)).evaluators["conll"]
        outcomes.append(evaluator.run(random[1], random[2], tokenizer))
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0].files) == {
        f"{split}-{language}.tsv" for split in ("dev", "test") for language in ("en", "de")
    }


def test_what_is_left_out_or_latin_1_is_said(folder, tmp_path, capsys):
    for name in ("eng.train", "deu.train"):
        (tmp_path / name).write_bytes("Grün x B-LOC\n\nbad\n".encode("latin-1"))
    config = small_config(tmp_path)
    with pytest.raises(DataError, match=r'eng.train:3: no tag.*set config.objectives.conll.bad_rows to "skip"'):
        conll.TASK.records(config, config.objectives["conll"], None)
    config = small_config(tmp_path, train_languages=("en", "de"), bad_rows="skip")
    groups = conll.TASK.records(config, config.objectives["conll"], None)
    assert {name: (len(group.records), group.weight) for name, group in groups.items()} == dict.fromkeys(
        ("en", "de"), (1, 0.5)
    )
    said = capsys.readouterr().out
    assert "conll train en: left out: one column 1" in said
    assert re.search(r"conll train de: \S*deu.train is not UTF-8; read as\s+latin-1", said)


def test_a_file_without_tags_is_predicted_all_the_same(folder, tokenizer, random, tmp_path):
    (tmp_path / "test-en.tsv").write_text("Class\nof\n\nModule\n")
    (tmp_path / "test-de.tsv").write_text("Class\n")
    config = small_config(folder, paths={"dev": "", "test": str(tmp_path)}, splits=("test",))
    outcome = Evaluations(config).evaluators["conll"].run(random[1], random[2], tokenizer)
    assert outcome.metrics == {}
    written = outcome.files["test-en.tsv"]
    assert [line in config.model.labels for line in written] == [True, True, False, True]
    assert written[2] == ""
