"""Chunk F1 by conlleval's rules, on valid and invalid tags, and XTREME's known scores."""

import pathlib

import pytest

from ernie_m_jax.finetune import scoring

XTREME = pathlib.Path(__file__).parent / "golden" / "files" / "xtreme_panx.tsv"
LETTERS = {".": "O", "P": "B-PER", "p": "I-PER", "O": "B-ORG", "o": "I-ORG", "L": "B-LOC", "l": "I-LOC"}


def tags(letters):
    """`Pp.` -> B-PER I-PER O."""
    return [LETTERS[letter] for letter in letters]


def chunks(letters):
    return [f"{chunk.type} {chunk.start}-{chunk.end}" for chunk in scoring.conll_chunks(tags(letters))]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("", []),
        ("...", []),
        ("Pp.", ["PER 0-2"]),
        ("PP", ["PER 0-1", "PER 1-2"]),
        ("..L", ["LOC 2-3"]),
        ("PpOo", ["PER 0-2", "ORG 2-4"]),
        # not valid IOB2:
        ("pp.", ["PER 0-2"]),
        (".p.p", ["PER 1-2", "PER 3-4"]),
        ("Po", ["PER 0-1", "ORG 1-2"]),
        ("Ppop", ["PER 0-2", "ORG 2-3", "PER 3-4"]),
        ("pP", ["PER 0-1", "PER 1-2"]),
    ],
)
def test_chunks_of_valid_and_invalid_tags(letters, expected):
    assert chunks(letters) == expected


# Counted by hand, and by conlleval itself (2004-01-26): expected, predicted, right, predicted and expected chunks.
COUNTED = [
    ("Pp.L", "Pp.L", 2, 2, 2),
    ("Pp.L", "pp.l", 2, 2, 2),  # an I- that begins a chunk counts as the B- would
    ("Ppp", "PpO", 0, 2, 1),  # the end must fit
    ("Ppp", "PPp", 0, 2, 1),  # and the beginning
    ("Pp.", "Oo.", 0, 1, 1),  # and the type
    ("Pp/p.", "Pp/p.", 2, 2, 2),  # a chunk ends with its sentence
    ("PpPp", "Pppp", 0, 1, 2),
    ("Ppo", "PpO", 2, 2, 2),
    ("...", "P..", 0, 1, 0),
    ("P..", "...", 0, 0, 1),
    ("...", "...", 0, 0, 0),
]


@pytest.mark.parametrize(("expected", "predicted", "right", "found", "known"), COUNTED)
def test_precision_recall_and_f1_of_counted_chunks(expected, predicted, right, found, known):
    scores = scoring.chunk_f1(*([tags(part) for part in side.split("/")] for side in (expected, predicted)))
    assert list(scores) == ["precision", "recall", "f1"]
    assert scores["precision"] == pytest.approx(100 * right / found if found else 0)
    assert scores["recall"] == pytest.approx(100 * right / known if known else 0)
    assert scores["f1"] == pytest.approx(200 * right / (found + known) if right else 0)


def test_all_sentences_and_types_count_together_and_small_shares_stay_exact():
    expected = [["B-A-B"], *[["B-PER"]] * 999]
    predicted = [["I-A-B"], *[["B-LOC"]] * 999]
    assert scoring.chunk_f1(expected, predicted) == pytest.approx({"precision": 0.1, "recall": 0.1, "f1": 0.1})


@pytest.mark.parametrize(
    ("expected", "predicted", "message"),
    [
        ([], [], "nothing to score"),
        ([["O"]], [], "predictions for 0 sentences, tags for 1"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], "sentence 1: 2 predictions for 1 tags"),
    ],
)
def test_what_cannot_be_compared_is_refused(expected, predicted, message):
    with pytest.raises(ValueError, match=message):
        scoring.chunk_f1(expected, predicted)


def test_xtreme_mock_files_have_their_known_averages():
    rows = [line.split("\t") for line in XTREME.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(rows) == 40
    scores = [
        scoring.chunk_f1(*([tags(part) for part in side.split("/")] for side in (labels, predictions)))
        for _, labels, predictions in rows
    ]
    averages = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    known = {"precision": 54.729166666666664, "recall": 62.750000000000014, "f1": 57.50793650793652}
    assert averages == pytest.approx(known, rel=0, abs=1e-9)
