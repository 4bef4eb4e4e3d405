"""The official arithmetic of the tasks' scores, in plain Python: labels and answers in, percentages out."""

from collections.abc import Sequence


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
