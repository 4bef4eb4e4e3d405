"""CoNLL's scores, by piece and by word, and the lines of its file of predictions."""

import numpy as np
import pytest

from ernie_m_jax.finetune import conll
from ernie_m_jax.task import Record
from tests.conll_sentences import drawn, examples_of, plain_f1, sentence, small_config


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
