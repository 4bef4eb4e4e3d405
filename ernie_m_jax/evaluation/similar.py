"""Sentence retrieval on a user's own sentences: which of the second ones is most like each first one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ernie_m_jax.data import given as givens
from ernie_m_jax.data.given import Given
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import retrieval

SIMILARITIES = ("cosine", "margin")
INPUTS = (("text", "query", "sentence1"), ("candidate", "sentence2"))


def check(given: Given) -> None:
    """Raises `DataError` where a part is no text, or not valid Unicode."""
    givens.check(given)
    for names in INPUTS:
        if not isinstance(given.row[names[0]], str):
            raise DataError(f"{given.place}: {names[0]} is {type(given.row[names[0]]).__name__}, not text")


def answers(
    encode: Callable[[list[str]], np.ndarray], given: Sequence[Given], similarity: str = "cosine"
) -> list[dict[str, Any]]:
    """For each row's first text the most similar one among all rows' second texts.

    Args:
      encode: texts to vectors, [N, H].
      given: the rows; see `INPUTS`.
      similarity: see `retrieval.nearest`.

    Returns:
      `found`, its `index` among the rows from 0, and the `cosine`; the row's `id` with them.

    Raises:
      DataError: a row that cannot be used, with its place.
      ValueError: no such similarity.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity is {similarity!r}; it must be one of {', '.join(SIMILARITIES)}")
    for one in given:
        check(one)
    sides = []
    for names in INPUTS:
        texts = [row[names[0]] for _, row in given]
        sides.append(retrieval.unit_vectors(encode(texts), names[0], len(texts)))
    found = retrieval.nearest(sides[0], sides[1], similarity)
    cosines = np.einsum("nh,nh->n", sides[0], sides[1][found])
    return [
        ({"id": row["id"]} if "id" in row else {})
        | {"found": given[index].row["candidate"], "index": int(index), "cosine": float(cosine)}
        for (_, row), index, cosine in zip(given, found, cosines, strict=True)
    ]
