"""CoNLL from files to the paper's table: windows, tags at pieces, loss, predictions, scores, training by command."""

import csv
import dataclasses
import itertools
import json
import re

import jax
import numpy as np
import pytest

from configs import base
from configs.finetune import conll as recipe
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import finite
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.finetune import conll
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Record
from ernie_m_jax.training import run
from tests.command import call
from tests.conftest import small_tree
from tests.small_models import random_params

TYPES = {"PER": "Property Expression", "ORG": "Module", "LOC": "Class File"}  # words of which the corpus has pieces
SMALL = {"head": "token_classification", "num_labels": 9, "labels": conll.LABELS, "mlm_head": "none"}


def small_config(folder="", paths=(), splits=("dev", "test"), batch_size=2, max_length=64, **keys):
    tree = small_tree(
        languages=("en", "de"),
        objectives={
            "conll": base.tagged_words(
                **dict.fromkeys(("train", "dev", "test"), str(folder)) | dict(paths), max_length=max_length, **keys
            ).to_dict()
        },
        stages={"one": base.stage(steps=4, weights={"conll": 1.0}, warmup_steps=0).to_dict()},
        evals={"conll": base.evaluation("task", objective="conll", splits=splits, batch_size=batch_size).to_dict()},
    )
    tree["model"].update(SMALL)
    return configs.resolve(tree)


def sentence(*tagged, language="en"):
    """`("word", "B-PER"), ...` as a record."""
    words, tags = zip(*tagged, strict=True)
    return Record((" ".join(words),), (language,), {"words": words, "tags": tags, "id": "x:1"})


def drawn(rng, count, language="en"):
    """Sentences whose entities are told by their words, of several pieces and types."""
    made = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.integers(1, 5)):
            words.append(str(rng.choice(["the", "is not", "of", "cannot be", "in"])).split()[0])
            tags.append("O")
            kind = str(rng.choice(list(TYPES)))
            for place, word in enumerate(TYPES[kind].split()):
                words.append(word)
                tags.append(f"{'I' if place else 'B'}-{kind}")
        made.append(sentence(*zip(words, tags, strict=True), language=language))
    return made


def write_columns(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ("".join(f"{w} x {t}\n" for w, t in zip(r.fields["words"], r.fields["tags"], strict=True)) for r in records)
    path.write_text("\n".join(lines), encoding="utf-8")


def examples_of(record, tokenizer, config):
    return tasks.bind(config, "conll").examples(record, tokenizer, np.random.default_rng(0))


def predicted(config, tokenizer, records, model, params):
    """What `predict` gives for each record, through packed rows."""
    bound = tasks.bind(config, "conll")
    rows = list(finite.rows(finite.examples(bound, tokenizer, [records]), bound.spec()))
    found = [{} for _ in records]
    arrays = jax.device_get(bound.predict(model, params, finite.stack(rows, bound.spec(), len(rows))))
    for number, row in enumerate(rows):
        for placed in row:
            found[placed.origin.record][placed.origin.example] = {
                name: finite.cut(placed, name.split("/")[0], values[number]) for name, values in arrays.items()
            }
    return [[one[number] for number in sorted(one)] for one in found]


# Examples


def test_a_tag_at_every_piece_and_o_at_the_ends(tokenizer):
    config = small_config()
    (example,) = examples_of(sentence(("Expression", "B-PER"), ("File", "I-PER"), ("of", "O")), tokenizer, config)
    pieces = [tokenizer.encode_ids(word) for word in ("Expression", "File", "of")]
    assert len(pieces[0]) > 1  # or nothing is shown
    ids = [tokenizer.cls_id, *itertools.chain(*pieces), tokenizer.sep_id]
    assert example["ids"].tolist() == ids
    expected = ["O", "B-PER", *["I-PER"] * (len(pieces[0]) - 1), *["I-PER"] * len(pieces[1]), *["O"] * len(pieces[2])]
    assert [conll.LABELS[label] for label in example["tag_labels"]] == [*expected, "O"]
    assert example["positions"].tolist() == list(range(len(ids)))
    assert example["first_at"].tolist() == [1, 1 + len(pieces[0]), 1 + len(pieces[0]) + len(pieces[1])]
    assert example["word_numbers"].tolist() == [0, 1, 2]


def test_without_tags_nothing_is_scored_and_words_stand_between_spaces(tokenizer):
    config = small_config()
    (example,) = examples_of(Record(("Class of",), ("en",)), tokenizer, config)
    assert set(example["tag_labels"].tolist()) == {-1}
    assert example["word_numbers"].tolist() == [0, 1]


@pytest.mark.parametrize("max_length", [8, 11, 64])
def test_windows_have_every_word_once_and_no_more_tokens_than_allowed(tokenizer, max_length):
    config = small_config(max_length=max_length)
    words = ["Expression", "a", "\u200b", "Module", "x" * 40, "of", "\u200b", *["Property"] * 30]
    assert tokenizer.encode_ids("\u200b") == []
    assert len(tokenizer.encode_ids("x" * 40)) > 9
    record = sentence(*((word, "B-ORG") for word in words))
    made = examples_of(record, tokenizer, config)
    numbers = [number for example in made for number in example["word_numbers"].tolist()]
    assert numbers == [number for number, word in enumerate(words) if word != "\u200b"]
    for example in made:
        assert len(example["ids"]) <= max_length
        assert (example["ids"][0], example["ids"][-1]) == (tokenizer.cls_id, tokenizer.sep_id)
        for number, at in zip(example["word_numbers"], example["first_at"], strict=True):
            assert example["ids"][at] == tokenizer.encode_ids(words[number])[0]
            assert conll.LABELS[example["tag_labels"][at]] == "B-ORG"
    # None could take the first word of the next.
    for before, after in itertools.pairwise(made):
        size = min(len(tokenizer.encode_ids(words[after["word_numbers"][0]])), max_length - 2)
        assert len(before["ids"]) + size > max_length


def test_a_sentence_without_pieces_gives_no_example_and_is_o(tokenizer):
    config = small_config()
    record = sentence(("\u200b", "B-PER"))
    assert examples_of(record, tokenizer, config) == []
    assert conll.word_tags(config, record, []) == ["O"]
    assert conll.lines(config, config.objectives["conll"], [record], [[]]) == ["O"]


def test_a_document_of_100000_words(tokenizer):
    made = examples_of(sentence(*[("Module", "O")] * 100_000), tokenizer, small_config())
    assert sum(len(example["word_numbers"]) for example in made) == 100_000


def test_rows_hold_no_more_sentences_than_asked_for(tokenizer):
    records = [sentence(("of", "O")) for _ in range(10)]
    for limit, expected in ((0, 1), (3, 4), (1, 10)):
        bound = tasks.bind(small_config(sentences_per_row=limit), "conll")
        rows = list(finite.rows(finite.examples(bound, tokenizer, [records]), bound.spec()))
        assert len(rows) == expected


# Loss and predictions


@pytest.fixture(scope="module")
def random(tokenizer):
    config = small_config()
    return config, ErnieM(config.model, config.compute), random_params(config.model)


@pytest.fixture(scope="module")
def alone(random):
    """Logits of one example, alone in its row."""
    _, model, params = random
    compiled = jax.jit(lambda batch: conll.logits(model, params, batch))

    def run_alone(example):
        count = len(example["ids"])
        row = {name: np.pad(example[name], (0, 64 - count)) for name in ("ids", "positions", "roles", "languages")}
        row["segments"] = (np.arange(64) < count).astype(np.int32)
        return np.asarray(compiled({name: value[None] for name, value in row.items()})[0, :count])

    return run_alone


def test_the_loss_is_the_cross_entropy_of_every_token(tokenizer, random, alone):
    config, model, params = random
    records = drawn(np.random.default_rng(1), 7)
    bound = tasks.bind(config, "conll")
    rows = list(finite.rows(finite.examples(bound, tokenizer, [records]), bound.spec()))
    assert any(len(row) > 1 for row in rows)
    sums = bound.loss(model, params, finite.stack(rows, bound.spec(), len(rows) + 1), jax.random.key(0))
    expected, right, count = 0.0, 0, 0
    for record in records:
        (example,) = examples_of(record, tokenizer, config)
        logits = alone(example).astype(np.float64)
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        labels = example["tag_labels"]
        expected -= log_probabilities[np.arange(len(labels)), labels].sum()
        right += int((logits.argmax(-1) == labels).sum())
        count += len(labels)
    total, weight = sums["loss"]
    assert (float(weight), float(sums["accuracy"][0])) == (count, right)
    assert float(total) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_dropout_is_in_the_encoder_alone(tokenizer, random):
    config, model, params = random
    (example,) = examples_of(drawn(np.random.default_rng(1), 1)[0], tokenizer, config)
    batch = {name: value[None] for name, value in example.items()} | {"segments": np.ones((1, len(example["ids"])))}
    key = jax.random.key(0)
    losses = [
        float(conll.loss(config, None, one, params, batch, key, deterministic)["loss"][0])
        for one in (model, ErnieM(dataclasses.replace(config.model, hidden_dropout=0.5), config.compute))
        for deterministic in (True, False)
    ]
    assert losses[0] == losses[1] == losses[2] != losses[3]


def test_predictions_are_those_of_the_sentence_alone(tokenizer, random, alone):
    config, model, params = random
    records = [*drawn(np.random.default_rng(2), 9), sentence(*[("Expression", "B-ORG")] * 60)]
    for record, windows in zip(records, predicted(config, tokenizer, records, model, params), strict=True):
        made = examples_of(record, tokenizer, config)
        assert len(made) == len(windows)
        expected = [alone(example).argmax(-1) for example in made]
        tags = [conll.LABELS[labels[at]] for labels, e in zip(expected, made, strict=True) for at in e["first_at"]]
        assert conll.word_tags(config, record, windows) == tags
        for window, labels, example in zip(windows, expected, made, strict=True):
            np.testing.assert_array_equal(window["tag_labels/predicted"], labels)
            np.testing.assert_array_equal(window["tag_labels/expected"], example["tag_labels"])


# Scores


def plain_chunks(tags):
    """Chunks by a rule of their own: split at every B-, O and change of type."""
    found, current = set(), None
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if current and (prefix in "BO" or kind != current[0]):
            found.add((*current, index))
            current = None
        if prefix != "O" and current is None:
            current = (kind, index)
    return found


def plain_f1(expected, predicted):
    pairs = [(plain_chunks(one), plain_chunks(other)) for one, other in zip(expected, predicted, strict=True)]
    right = sum(len(one & other) for one, other in pairs)
    known, found = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return 100 * right / found, 100 * right / known, 200 * right / (found + known)


def test_scores_equal_a_plain_reference(tokenizer):
    config = small_config(max_length=16)
    rng = np.random.default_rng(3)
    records = drawn(rng, 40)
    predictions, pieces, words = [], [], []
    for record in records:
        made = examples_of(record, tokenizer, config)
        windows = []
        for example in made:
            labels = np.where(rng.random(len(example["ids"])) < 0.8, example["tag_labels"], rng.integers(0, 9))
            windows.append(
                {
                    "tag_labels/expected": example["tag_labels"],
                    "tag_labels/predicted": labels,
                    "word_numbers/number": example["word_numbers"],
                    "word_numbers/predicted": labels[example["first_at"]],
                }
            )
        predictions.append(windows)
        both = []
        for which in ("expected", "predicted"):
            inner = [label for window in windows for label in window[f"tag_labels/{which}"][1:-1]]
            ends = windows[0][f"tag_labels/{which}"][0], windows[-1][f"tag_labels/{which}"][-1]
            both.append([conll.LABELS[label] for label in (ends[0], *inner, ends[1])])
        pieces.append(both)
        words.append([conll.LABELS[label] for window in windows for label in window["word_numbers/predicted"]])
    assert any(len(windows) > 1 for windows in predictions)
    scores = conll.score(config, config.objectives["conll"], records, predictions)
    assert list(scores) == ["piece_f1", "word_f1", "word_precision", "word_recall"]
    precision, recall, f1 = plain_f1([record.fields["tags"] for record in records], words)
    assert 0 < f1 < 100
    assert (scores["word_precision"], scores["word_recall"], scores["word_f1"]) == pytest.approx(
        (precision, recall, f1)
    )
    assert scores["piece_f1"] == pytest.approx(plain_f1(*zip(*pieces, strict=True))[2])
    assert scores["piece_f1"] != pytest.approx(f1)


def window(expected, predicted):
    """A window of a word per piece, from tags of CLS to SEP."""
    expected, predicted = (
        np.array([conll.LABELS.index(tag) for tag in side.split()]) for side in (expected, predicted)
    )
    return {
        "tag_labels/expected": expected,
        "tag_labels/predicted": predicted,
        "word_numbers/number": np.arange(len(expected) - 2),
        "word_numbers/predicted": predicted[1:-1],
    }


def test_a_chunk_that_runs_into_sep_is_wrong_by_piece_and_right_by_word():
    config = small_config()
    record = sentence(("a", "O"), ("b", "B-PER"))
    one = [window("O O B-PER O", "O O B-PER I-PER")]
    scores = conll.score(config, config.objectives["conll"], [record], [one])
    assert (scores["piece_f1"], scores["word_f1"]) == (0.0, 100.0)


def test_records_without_tags_have_no_score_but_lines():
    config = small_config()
    records = [Record(("a b",), ("en",), {"words": ("a", "b"), "id": "1"}), Record(("c",), ("en",), {"words": ("c",)})]
    predictions = [[window("O O O O", "O B-LOC I-LOC O")], [window("O O O", "O O O")]]
    keys = config.objectives["conll"]
    assert conll.score(config, keys, records, predictions) == {}
    assert conll.lines(config, keys, records, predictions) == ["B-LOC", "I-LOC", "", "O"]


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
