"""Sentence retrieval on a user's own sentences: which of the second ones is most like each first one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ernie_m_jax.data.given import Given
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import retrieval

INPUTS = (("text", "query", "sentence1"), ("candidate", "sentence2"))


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
      DataError: a row's part is no text, with its place.
    """
    sides = []
    for names in INPUTS:
        for place, row in given:
            if not isinstance(row[names[0]], str):
                raise DataError(f"{place}: {names[0]} is {type(row[names[0]]).__name__}, not text")
        texts = [row[names[0]] for _, row in given]
        sides.append(retrieval.unit_vectors(encode(texts), names[0], len(texts)))
    found = retrieval.nearest(sides[0], sides[1], similarity)
    cosines = np.einsum("nh,nh->n", sides[0], sides[1][found])
    return [
        ({"id": row["id"]} if "id" in row else {})
        | {"found": given[index].row["candidate"], "index": int(index), "cosine": float(cosine)}
        for (_, row), index, cosine in zip(given, found, cosines, strict=True)
    ]
