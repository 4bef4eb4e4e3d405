"""Windows over long texts: which tokens they hold, where each is looked at, and the best answers in them."""

import time

import numpy as np
import pytest

from ernie_m_jax.finetune import windows

CASES = [(1, 10, 4), (10, 10, 4), (11, 10, 4), (23, 10, 4), (24, 10, 10), (25, 10, 99), (40, 7, 1), (1000, 317, 128)]


@pytest.mark.parametrize(("count", "room", "stride"), CASES)
def test_every_token_is_in_a_window(count, room, stride):
    spans = windows.cut(count, room, stride)
    assert {token for span in spans for token in span} == set(range(count))
    assert all(len(span) <= room for span in spans)
    assert all(len(span) == room for span in spans[:-1])
    assert [span.start for span in spans] == [number * min(stride, room) for number in range(len(spans))]
    assert [span.stop for span in spans].index(count) == len(spans) - 1  # none behind the first that reaches the end


def test_nothing_has_no_windows():
    assert windows.cut(0, 10, 4) == []


def plain_max_context(spans, token):
    """The window in which a token has most context on its poorer side, as the code of BERT's SQuAD runs says it."""
    best_score = best = None
    for number, span in enumerate(spans):
        if token not in span:
            continue
        score = min(token - span.start, span.stop - 1 - token) + 0.01 * len(span)
        if best_score is None or score > best_score:
            best_score, best = score, number
    return best


@pytest.mark.parametrize(("count", "room", "stride"), CASES)
def test_each_token_counts_in_the_window_with_most_context(count, room, stride):
    spans = windows.cut(count, room, stride)
    found = windows.max_context(spans)
    for number, (span, own) in enumerate(zip(spans, found, strict=True)):
        assert own.tolist() == [plain_max_context(spans, token) == number for token in span]
    assert sum(own.sum() for own in found) == count


def test_a_text_of_a_hundred_thousand_words_takes_no_time():
    begun = time.perf_counter()
    spans = windows.cut(200_000, 317, 128)
    assert sum(own.sum() for own in windows.max_context(spans)) == 200_000
    assert time.perf_counter() - begun < 5


OFFSETS = np.array([(0, 2), (2, 2), (3, 6), (6, 7), (8, 12), (8, 12), (13, 15)])  # a token of no character, two of one


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 2), (0, 0)),
        ((3, 7), (2, 3)),
        ((4, 5), (2, 2)),  # within a token
        ((2, 8), (2, 3)),  # spaces at both ends
        ((1, 14), (0, 6)),
        ((8, 12), (4, 5)),
        ((2, 3), None),
        ((15, 17), None),
    ],
)
def test_the_tokens_of_an_answer_are_those_that_share_a_character_with_it(span, expected):
    assert windows.tokens_of(OFFSETS, *span) == expected


# Candidates


def brute_force(start, end, offsets, may_start, n_best, max_answer):
    """Every pair of a start and an end, by loops."""
    inside = [index for index in range(len(offsets)) if offsets[index][0] >= 0]
    starts = sorted((index for index in inside if may_start[index]), key=lambda index: -start[index])[:n_best]
    ends = sorted(inside, key=lambda index: -end[index])[:n_best]
    found = [
        (float(start[a]) + float(end[b]), int(offsets[a][0]), int(offsets[b][1]))
        for a in starts
        for b in ends
        if a <= b < a + max_answer
    ]
    return sorted(found, key=lambda one: -one[0])[:n_best]


@pytest.mark.parametrize(("n_best", "max_answer"), [(1, 1), (3, 5), (20, 100), (20, 4)])
def test_candidates_are_those_of_a_search_through_all_pairs(n_best, max_answer):
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(8, 60))
        offsets = np.full((count, 2), -1)
        inside = np.arange(5, count - 1)
        offsets[inside] = np.stack([inside * 3, inside * 3 + 2], 1)
        may_start = (rng.random(count) < 0.7) & (offsets[:, 0] >= 0)
        start, end = rng.normal(size=(2, count)).astype(np.float32)
        if rng.random() < 0.5:  # many equal scores
            start, end = start.round(), end.round()
        start[0] = end[0] = 50.0  # the first token, where windows without the answer point
        found = windows.candidates(start, end, offsets, may_start, n_best, max_answer)
        assert found == brute_force(start, end, offsets, may_start, n_best, max_answer)


def test_a_window_without_a_pair_has_no_candidate():
    offsets = np.array([(-1, -1), (0, 1), (2, 3)])
    none = np.zeros(3, bool)
    assert windows.candidates(np.zeros(3), np.zeros(3), offsets, none, 20, 100) == []
    ends_first = windows.candidates(
        np.array([0, -1, 9.0]), np.array([0, 9.0, -1]), offsets, np.array([False, True, True]), 1, 100
    )
    assert ends_first == []
