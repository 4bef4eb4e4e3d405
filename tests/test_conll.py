"""CoNLL as a task: windows of words, tags at pieces, the loss, predictions in packed rows."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ernie_m_jax import task as tasks
from ernie_m_jax.data import finite
from ernie_m_jax.finetune import conll
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Record
from tests import conll_sentences
from tests.conll_sentences import drawn, examples_of, sentence, small_config

random = conll_sentences.random


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
