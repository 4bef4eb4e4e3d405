"""The official arithmetic of the tasks' scores, in plain Python: labels and answers in, percentages out."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


def accuracy(expected: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal labels, percent, as XTREME's scorer and the data sets' own papers count it.

    Raises:
      ValueError: there is nothing to score, or not as many predictions as labels.
    """
    if len(expected) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(expected)} labels")
    if not expected:
        raise ValueError("there is nothing to score: no labels")
    return 100.0 * sum(one == other for one, other in zip(expected, predicted, strict=True)) / len(expected)


class Chunk(NamedTuple):
    """A named entity: its type, its first tag's index and the index behind its last."""

    type: str
    start: int
    end: int


def conll_chunks(tags: Sequence[str]) -> Iterator[Chunk]:
    """The chunks of one sentence's tags ("O", "B-PER", "I-PER"), by the rules of conlleval (2004-01-26).

    A chunk begins at "B-", and at an "I-" behind "O" or behind another type; it ends before "O", before "B-" and before
    another type. So tags that are not valid IOB2 have chunks too. seqeval's default mode, which XTREME scores with,
    finds the same ones; its strict mode, and readers that drop an "I-" without its "B-", do not.
    """
    start, before = 0, "O"
    for index, tag in enumerate([*tags, "O"]):
        follows = before != "O" and tag.startswith("I-") and tag[2:] == before[2:]
        if before != "O" and not follows:
            yield Chunk(before[2:], start, index)
        if not follows:
            start = index
        before = tag


def chunk_f1(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the chunks of all sentences and types together, percent, as conlleval counts them.

    A predicted chunk is right where an expected one has the same words and type. What has no chunks to count is 0.

    Args:
      expected: each sentence's tags, read with `conll_chunks`.
      predicted: the same.

    Raises:
      ValueError: there is nothing to score, or a sentence has another number of tags in `predicted`.
    """
    if len(expected) != len(predicted):
        raise ValueError(f"predictions for {len(predicted)} sentences, tags for {len(expected)}")
    if not expected:
        raise ValueError("there is nothing to score: no sentences")
    right = known = found = 0
    for number, (ours, theirs) in enumerate(zip(predicted, expected, strict=True)):
        if len(ours) != len(theirs):
            raise ValueError(f"sentence {number}: {len(ours)} predictions for {len(theirs)} tags")
        wanted, chunks = set(conll_chunks(theirs)), set(conll_chunks(ours))
        right, known, found = right + len(wanted & chunks), known + len(wanted), found + len(chunks)
    precision, recall = 100.0 * right / max(found, 1), 100.0 * right / max(known, 1)
    f1 = 2.0 * precision * recall / (precision + recall) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
