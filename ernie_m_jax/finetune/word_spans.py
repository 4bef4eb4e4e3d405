"""The words of a text that nobody has cut into words, as tagged data has them: punctuation stands alone."""

import re
import unicodedata
from collections.abc import Iterator

Span = tuple[int, int]  # first character, and the one behind the last


def spans(text: str) -> list[Span]:
    """Words between white space, with the punctuation before and behind them as words of their own.

    What stands within a word stays: "U.S.," is "U.S", ".", ",". Languages without spaces have to be cut before.
    """
    return [span for found in re.finditer(r"\S+", text) for span in _cut(text, *found.span())]


def _cut(text: str, start: int, end: int) -> Iterator[Span]:
    first, last = start, end
    while first < last and _is_punctuation(text[first]):
        first += 1
    while last > first and _is_punctuation(text[last - 1]):
        last -= 1
    yield from ((place, place + 1) for place in range(start, first))
    if first < last:
        yield first, last
    yield from ((place, place + 1) for place in range(last, end))


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
