"""The official scores of answers to questions, in plain Python: texts in, percentages out.

"mlqa" is MLQA's evaluation script, version 1: articles of the answer's language, punctuation of Unicode, Chinese cut
into characters. "squad" is SQuAD 1.1's, with which XQuAD is scored too: English articles and ASCII punctuation,
whatever the language. Both: of a question's right answers the one that fits best, mean over the questions.
"""

import collections
import re
import string
import unicodedata
from collections.abc import Sequence

# Articles as MLQA's script has them; Hindi and Chinese have none. The Arabic one goes wherever it stands.
_ARTICLES = {
    "ar": re.compile("ال"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "en": re.compile(r"\b(a|an|the)\b"),
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "hi": None,
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "zh": None,
}
_CHINESE = re.compile("([\u4e00-\u9fa5])")
MLQA_LANGUAGES = tuple(_ARTICLES)
SCORINGS = ("mlqa", "squad")


class _Removed(dict[int, str | None]):
    """For `str.translate`: ASCII's punctuation and symbols dropped, and with `unicode` all of Unicode's punctuation."""

    def __init__(self, unicode: bool):
        super().__init__(dict.fromkeys(map(ord, string.punctuation)))
        self._unicode = unicode

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        dropped = self._unicode and unicodedata.category(character).startswith("P")
        self[code] = None if dropped else character
        return self[code]


_PUNCTUATION = {"mlqa": _Removed(unicode=True), "squad": _Removed(unicode=False)}


def tokens(text: str, scoring: str, language: str) -> list[str]:
    """What of an answer is compared: its words in lower case, without punctuation and articles.

    Args:
      text: the answer.
      scoring: one of `SCORINGS`.
      language: of the answer; for "mlqa" one of `MLQA_LANGUAGES`, for "squad" it does not matter.
    """
    text = text.lower().translate(_PUNCTUATION[scoring])
    articles = _ARTICLES[language if scoring == "mlqa" else "en"]
    text = text if articles is None else articles.sub(" ", text)
    if scoring == "mlqa" and language == "zh":
        text = _CHINESE.sub(r" \1 ", text)
    return text.split()


def scores(golds: Sequence[Sequence[str]], predicted: Sequence[str], scoring: str, language: str) -> dict[str, float]:
    """F1 over words and exact match, percent.

    Args:
      golds: each question's right answers.
      predicted: the answer to each question.
      scoring: one of `SCORINGS`.
      language: of the answers.

    Raises:
      ValueError: there is nothing to score, not as many answers as questions, or a language that MLQA does not have.
    """
    if len(golds) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(golds)} questions")
    if not golds:
        raise ValueError("there is nothing to score: no questions")
    if scoring == "mlqa" and language not in _ARTICLES:
        raise ValueError(f"MLQA's script has no rules for {language!r}; it has {', '.join(MLQA_LANGUAGES)}")
    f1 = exact = 0.0
    for right, answer in zip(golds, predicted, strict=True):
        found = tokens(answer, scoring, language)
        others = [tokens(gold, scoring, language) for gold in right]
        f1 += max(_f1(found, other) for other in others)
        exact += any(found == other for other in others)
    return {"f1": 100.0 * f1 / len(golds), "exact_match": 100.0 * exact / len(golds)}


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    same = sum((collections.Counter(predicted) & collections.Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)
