"""Windows over a text that is longer than a row: tokens in, windows out; a window's logits in, its best answers out.

As BERT's code for SQuAD, which the original's is made of: a window begins every `stride` tokens; a token that is in
several counts as a start in the one where it has most context on its poorer side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Candidate(NamedTuple):
    """An answer: the sum of its start's and end's logits, its first character, and the one behind its last."""

    score: float
    start: int
    end: int


def cut(count: int, room: int, stride: int) -> list[range]:
    """The windows over `count` tokens, of at most `room`, a new one every `stride`; the last reaches the end."""
    last = max(0, count - room)
    step = min(stride, room)
    return [range(start, min(start + room, count)) for start in range(0, last + step, step)] if count else []


def max_context(spans: Sequence[range]) -> list[np.ndarray]:
    """For each window, which of its tokens have most context in it, bool[length]; the first window of equals."""
    count = spans[-1].stop if spans else 0
    best, owner = np.full(count, -np.inf), np.zeros(count, np.int64)
    for number, span in enumerate(spans):
        place = np.arange(len(span))
        score = np.minimum(place, place[::-1]) + 0.01 * len(span)
        part = slice(span.start, span.stop)
        better = score > best[part]
        best[part][better] = score[better]
        owner[part][better] = number
    return [owner[span.start : span.stop] == number for number, span in enumerate(spans)]


def tokens_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that share a character with text[start:end]; None where none does.

    Args:
      offsets: [start, end) characters of each token, [n, 2].
      start: first character.
      end: the one behind the last.
    """
    shared = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 0] < offsets[:, 1]))
    return (int(shared[0]), int(shared[-1])) if shared.size else None


def candidates(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offsets: np.ndarray,
    may_start: np.ndarray,
    n_best: int,
    max_answer: int,
) -> list[Candidate]:
    """The best answers in a window, the best first; among equals the one whose start, then whose end is more probable.

    Only tokens of the text are looked at: in BERT's code the question's take places among the `n_best`, too.

    Args:
      start_logits: of the window's tokens, [n].
      end_logits: the same.
      offsets: characters of the text that a token stands for, [n, 2]; negative for tokens that are not of the text.
      may_start: tokens at which an answer may begin, bool[n].
      n_best: as many starts, ends and answers.
      max_answer: tokens of the longest answer.
    """
    inside = offsets[:, 0] >= 0
    starts = _best(start_logits, inside & may_start, n_best)
    ends = _best(end_logits, inside, n_best)
    fits = (starts[:, None] <= ends) & (ends < starts[:, None] + max_answer)
    sums = start_logits[starts].astype(np.float64)[:, None] + end_logits[ends].astype(np.float64)
    scores = np.where(fits, sums, -np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")[: min(n_best, int(fits.sum()))]
    chosen = np.unravel_index(order, scores.shape) if order.size else ((), ())
    return [
        Candidate(float(scores[a, b]), int(offsets[starts[a], 0]), int(offsets[ends[b], 1]))
        for a, b in zip(*chosen, strict=True)
    ]


def _best(logits: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest logits among the allowed ones, the highest first, the first of equals."""
    indices = np.flatnonzero(allowed)
    return indices[np.argsort(-logits[indices], kind="stable")[:count]]
