"""Aligned texts as translated pairs and monolingual text without hidden pairs, for `ablation_corpus.py`."""

import random
from collections.abc import Mapping, Sequence

Texts = Mapping[str, str]  # a text in each language
# Where a text stands -> the text. The last part of a place counts within the whole that the others name: a verse within
# a chapter, a string within a component.
Rows = Mapping[tuple, Texts]


def split(rows: Rows, languages: Sequence[str], share: float, seed: int) -> tuple[list[Texts], dict[str, list[tuple]]]:
    """Training rows as pairs, and by language as monolingual text.

    Args:
      rows: all that is not held out.
      languages: of the corpus.
      share: of the rows that become pairs.
      seed: of which rows and wholes go where; the same for every share.

    Returns:
      The rows of the pairs, and the places of each language's text; every whole's belong to one language.
    """
    rng = random.Random(seed)
    left = list(rows)
    shuffled = rng.sample(left, len(left))
    paired = set(shuffled[: round(share * len(left))])
    wholes = sorted({place[:-1] for place in left})
    owner = {whole: languages[at % len(languages)] for at, whole in enumerate(rng.sample(wholes, len(wholes)))}
    text: dict[str, list[tuple]] = {language: [] for language in languages}
    for place in left:
        if place not in paired:
            text[owner[place[:-1]]].append(place)
    return [rows[place] for place in left if place in paired], text
