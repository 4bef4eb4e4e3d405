"""Tasks on sentence pairs in parts: the official arithmetic, what they require, how full their rows are."""

import contextlib
import itertools
import types

import numpy as np
import pytest

from configs.finetune import pawsx as pawsx_config
from configs.finetune import xnli as xnli_config
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.finetune import pawsx, scoring, sentence_pairs, xnli
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Group, Record
from tests.small_models import random_params
from tests.test_finite import PAIRS, pair_config

# XTREME's mock_test_data (github.com/google-research/xtreme, Apache-2.0), a label by its first letter: ten test labels,
# which are the same in every language, and what was predicted for them. Its evaluate.py averages the accuracies below.
MOCK = {
    "xnli": (
        "cenneccenc",
        {
            **{"ar": "encnccenee", "bg": "eecencennc", "de": "enceccencc", "el": "eccnecenec", "en": "ecnccceece"},
            **{"es": "eccecceecc", "fr": "ecceecencc", "hi": "ecnnncncec", "ru": "eennnceenc", "sw": "eneeeeecnn"},
            **{"th": "eecencecec", "tr": "eeccncnnee", "ur": "ecceecennc", "vi": "ecccncencc", "zh": "ecceccence"},
        },
        30.666666666666668,
    ),
    "pawsx": (
        "1001001101",
        {
            **{"de": "0011011011", "en": "0010011011", "es": "0011011011", "fr": "0011011001"},
            **{"ja": "0011001011", "ko": "0001000011", "zh": "0011011010"},
        },
        51.42857142857143,
    ),
}
CONFIGS = {"xnli": xnli_config, "pawsx": pawsx_config}


def bound(name, argument="size=tiny"):
    return tasks.bind(configs.resolve(CONFIGS[name].get_config(argument)), name)


@pytest.mark.parametrize("name", MOCK)
def test_the_score_is_that_of_xtremes_own_scorer(name):
    labels, predicted, average = MOCK[name]
    task = bound(name)
    names = task.cfg.model.labels
    by_letter = {label[0]: label for label in names}
    records = [Record(("a", "b"), ("en", "en"), {"label": by_letter[letter]}) for letter in labels]
    scores = {}
    for language, letters in predicted.items():
        numbers = [np.array([names.index(by_letter[letter])]) for letter in letters]
        found = [({"class_at/label": number, "class_at/probabilities": np.ones((1, 3))},) for number in numbers]
        scores[language] = task.score(records, found)
        assert set(scores[language]) == {"accuracy"}
        assert task.task.lines(task.cfg, task.keys, records, found) == [by_letter[letter] for letter in letters]
        expected = 10.0 * sum(one == other for one, other in zip(labels, letters, strict=True))
        assert scores[language]["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert np.mean([score["accuracy"] for score in scores.values()]) == pytest.approx(average, abs=1e-9)
    without = [*records[:-1], Record(("a", "b"), ("en", "en"))]
    assert task.score(without, found) == {}


def test_accuracy_is_a_plain_count():
    rng = np.random.default_rng(0)
    for count in (1, 7, 100):
        expected, predicted = (rng.choice(["a", "b", "c"], count).tolist() for _ in range(2))
        right = 0
        for place in range(count):
            if expected[place] == predicted[place]:
                right += 1
        assert scoring.accuracy(expected, predicted) == pytest.approx(100 * right / count, abs=1e-12)
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        scoring.accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nothing to score"):
        scoring.accuracy([], [])


# Rows


class Words:
    """As much of a tokenizer as a pair needs: a token per word."""

    cls_id, sep_id = 0, 2

    def encode_ids(self, text):
        return [5] * len(text.split())

    def join_pair(self, first, second):
        return [self.cls_id, *first, self.sep_id, self.sep_id, *second, self.sep_id]


# Word pieces of the two sentences, as log-normal (median, spread): MultiNLI's premises have a long tail.
LENGTHS = {"xnli": ((22, 0.65), (12, 0.4)), "pawsx": ((27, 0.25), (27, 0.25))}


def typical(name, count=3000):
    rng = np.random.default_rng(0)
    label = {"xnli": "neutral", "pawsx": "1"}[name]
    sizes = [np.clip(rng.lognormal(np.log(median), spread, count), 2, 300) for median, spread in LENGTHS[name]]
    texts = [tuple(" ".join(["x"] * int(size)) for size in pair) for pair in zip(*sizes, strict=True)]
    return [Record(pair, ("en", "en"), {"label": label}) for pair in texts]


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_of_training_data_are_well_filled(name):
    task = bound(name)
    assert task.cfg.data.sequence_length == task.keys.max_length == 256
    with contextlib.closing(loader.Loader(task, Words(), {"en": Group(typical(name), 1.0)})) as source:
        batches = list(itertools.islice(source_of(source), 20))
    fill = np.mean([batch["segments"] > 0 for batch in batches])
    assert fill >= 0.85
    pairs = sum(int(batch["segments"].max(axis=1).sum()) for batch in batches)
    assert pairs == sum(int((batch["class_labels"] >= 0).sum()) for batch in batches)
    for batch in batches:  # every pair begins with CLS, and its label stands there
        rows, places = np.nonzero(batch["class_labels"] >= 0)
        starts = batch["class_at"][rows, places]
        assert (batch["ids"][rows, starts] == Words.cls_id).all()
        assert (batch["positions"][rows, starts] == 0).all()


def source_of(source):
    while True:
        yield next(source)


@pytest.mark.parametrize(("name", "mode", "wanted"), [("xnli", "transfer", 32), ("xnli", "all", 128)])
def test_a_step_takes_about_as_many_pairs_as_the_original(name, mode, wanted):
    task = bound(name, f"size=tiny,mode={mode}")
    with contextlib.closing(loader.Loader(task, Words(), {"en": Group(typical(name), 1.0)})) as source:
        assert source.records_per_row() * task.cfg.train.batch_size == pytest.approx(wanted, rel=0.5)


def test_a_pair_that_is_too_long_is_cut_and_a_label_is_optional():
    task = bound("xnli")
    texts = (" ".join(["x"] * 300), " ".join(["y"] * 10))
    (example,) = task.examples(Record(texts, ("en", "fr"), {"label": "neutral"}), Words(), None)
    assert len(example["ids"]) == 256
    assert (example["ids"] == Words.sep_id).sum() == 3
    assert example["ids"].tolist().index(Words.sep_id) == 1 + 256 - 4 - 10  # the longer sentence alone is cut
    assert example["class_labels"].tolist() == [task.cfg.model.labels.index("neutral")]
    (example,) = task.examples(Record(texts, ("en", "fr")), Words(), None)
    assert example["class_labels"].tolist() == [tasks.IGNORE]


# What is required


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model__head": "token_classification"}, r"config\.model\.head is 'token_classification'; classifying pairs"),
        ({"model__labels": ("a", "b", "c")}, r"config\.model\.labels is .*contradiction, entailment, neutral"),
        ({"model__labels": ("a", "b")}, r"labels names 2 labels, config\.model\.num_labels is 3"),
        ({"max_length": 65}, r"config\.objectives\.xnli\.max_length 65 is above config\.data\.sequence_length 64"),
        (
            {"train_languages": ("en", "xx")},
            r"config\.objectives\.xnli\.train_languages: xx not among config\.languages",
        ),
        ({"languages": ("yy",)}, r"config\.objectives\.xnli\.languages: yy not among config\.languages"),
        ({"bad_rows": "drop"}, r"config\.objectives\.xnli\.bad_rows is 'drop'; allowed: error, skip"),
        ({"max_length": 3}, r"config\.objectives\.xnli\.max_length is 3; it must be at least 8"),
    ],
)
def test_what_does_not_fit_is_said_with_the_config(keys, message):
    own = {name: keys.pop(name) for name in [*keys] if name in PAIRS}
    with pytest.raises(configs.ConfigError, match=message):
        pair_config(PAIRS | own, **keys)


# A test split without labels


def test_a_split_without_labels_is_predicted_and_not_scored(tokenizer, tmp_path, capsys):
    for language, count in (("en", 3), ("de", 2)):
        rows = "".join(f"sentence {number}\tother\n" for number in range(count))
        (tmp_path / f"test-{language}.tsv").write_text(rows)
    evaluation = {"kind": "task", "every": 0, "start": False, "batch_size": 2, "objective": "xnli", "splits": ("test",)}
    config = pair_config(PAIRS | {"test": str(tmp_path), "languages": ("en", "de")}, evals={"mine": evaluation})
    evaluations = Evaluations(config)
    model, params = ErnieM(config.model, config.compute), random_params(config.model)
    outcome = evaluations.run("mine", model, params, tokenizer, tmp_path / "stage", "mine")
    assert outcome.metrics == {}
    assert evaluations.headline("mine", {}) is None
    assert len((tmp_path / "stage" / "mine-predictions" / "test-en.tsv").read_text().splitlines()) == 3
    assert len((tmp_path / "stage" / "mine-predictions" / "test-de.tsv").read_text().splitlines()) == 2
    assert not list((tmp_path / "stage").glob("mine.*"))
    assert "no labels" in capsys.readouterr().out


def test_a_split_that_has_no_path_is_named():
    evaluation = {"kind": "task", "every": 0, "start": False, "batch_size": 2, "objective": "xnli", "splits": ("dev",)}
    config = pair_config(PAIRS, evals={"mine": evaluation})
    with pytest.raises(
        configs.ConfigError, match=r"mine\.splits names 'dev'; config\.objectives\.xnli has no split wi"
    ):
        Evaluations(config)


def test_the_tasks_name_their_papers_rows():
    def paper(task, codes):
        return task.paper(None, types.SimpleNamespace(train_languages=tuple(codes)))

    for name, task in (("xnli", xnli.TASK), ("pawsx", pawsx.TASK)):
        assert paper(task, ["en"]) == (name, "transfer")
        assert paper(task, task.languages) == (name, "all")
        assert paper(task, reversed(task.languages)) == (name, "all")
        for codes in (["de"], ["en", "de"], task.languages[1:], (*task.languages, "xx"), ()):
            assert paper(task, codes) is None  # the paper has no such setting


def test_labels_of_ones_own_have_no_row_in_the_paper():
    task = sentence_pairs.Labels(("no", "yes")).task()
    for codes in (["en"], ["de"]):
        assert task.paper(None, types.SimpleNamespace(train_languages=tuple(codes))) is None
    assert task.submission(None, None) == ""
    assert task.labels == ("no", "yes")
