"""Exact match and F1 of answers against results of the official scripts and a second, plain implementation.

The answers in `MOCK` are those of XTREME's mock test data (google-research/xtreme, mock_test_data, Apache-2.0), with
the scores that XTREME's scorer is known to give for all of it, averaged over the languages.
"""

import collections
import random
import re
import string
import sys
import unicodedata

import numpy as np
import pytest

from ernie_m_jax.finetune import answer_scoring

# Task -> language -> (the right answers, the predicted one) of each question.
MOCK = {
    "mlqa": {
        "ar": [(["الطرق الترابية"], "الطرق الترابية"), (["شمال شرق"], "شمال شرق")],
        "de": [(["3050 und 3350 Meter"], "3050 und 3350")],
        "en": [(["had sustained skin, liver, and respiratory injuries"], "had sustained skin,")],
        "es": [
            (
                ["unas estructuras en forma de abanico que seguían un patrón de hojas, lenguas y lóbulos"],
                "unas estructuras en",
            )
        ],
        "hi": [(["उत्तर पूर्व"], "उत्तर पूर्व")],
        "vi": [(["Đài Loan"], "Đài Loan"), (["Khách Gia"], "Khách Gia")],
        "zh": [(["电化电池"], "电化电池")],
    },
    "squad": {
        **{language: [(["308"], "308"), (["136"], "136")] for language in ("ar", "de", "el", "en", "hi", "ru", "vi")},
        "es": [
            (["308"], "308"),
            (["136"], "5 veces jugador de la Pro Bowl y que fue el líder, en activo, de capturas de la NFL con 136"),
        ],
        "th": [(["308"], "308"), (["136"], "อินเตอร์เซปสี่ครั้ง")],
        "tr": [(["308"], "308"), (["136"], "5")],
        "zh": [(["308"], "308分"), (["136 次"], "136 次擒杀")],
    },
}
KNOWN = {
    "mlqa": {"f1": 81.76870748299321, "exact_match": 57.142857142857146},
    "squad": {"f1": 79.9586776859504, "exact_match": 77.27272727272727},
}


@pytest.mark.parametrize("scoring", MOCK)
def test_xtremes_mock_data_has_its_known_scores(scoring):
    found = collections.defaultdict(list)
    for language, questions in MOCK[scoring].items():
        golds, predicted = zip(*questions, strict=True)
        for metric, value in answer_scoring.scores(golds, predicted, scoring, language).items():
            found[metric].append(value)
    means = {metric: np.mean(values) for metric, values in found.items()}
    assert means == {metric: pytest.approx(value, abs=1e-9, rel=0) for metric, value in KNOWN[scoring].items()}
    assert list(means) == ["f1", "exact_match"]  # the first is what a run is judged by


NORMALISED = [
    ("mlqa", "en", "The  “Cat” & an apple—a day!", "cat applea day"),
    ("mlqa", "en", "a-b", "ab"),  # punctuation goes first, so it does not end an article
    ("mlqa", "en", "$5 + 3€ ¿que?", "5 3€ que"),  # ASCII's symbols are punctuation, others are not
    ("mlqa", "es", "Los gatos de la Unión, unas", "gatos de unión"),
    ("mlqa", "de", "Der Hund EINES Mannes dem", "hund mannes"),
    ("mlqa", "vi", "Những cái của tôi là", "tôi"),
    ("mlqa", "hi", "राम। the ", "राम the"),
    ("mlqa", "ar", "الولد والبنت، الى", "ولد و بنت ى"),  # within words too
    ("mlqa", "zh", "在1998年，AI 大会《好》", "在 1998 年 ai 大 会 好"),
    ("mlqa", "zh", "㐀𠀀 龥龦", "㐀𠀀 龥 龦"),  # characters beyond U+9FA5 stand together
    ("squad", "de", "Der “Hund” the an", "der “hund”"),
    ("squad", "zh", "在1998年，AI 大会", "在1998年，ai 大会"),
    ("squad", "en", "\u00a0The\tend.\u3000", "end"),
]


@pytest.mark.parametrize(("scoring", "language", "text", "expected"), NORMALISED)
def test_normalisation(scoring, language, text, expected):
    assert " ".join(answer_scoring.tokens(text, scoring, language)) == expected


def test_the_best_of_several_answers_counts():
    found = answer_scoring.scores([["a red cat", "black dog", "big black dog"]], ["the black dog"], "mlqa", "en")
    assert found == {"f1": 100.0, "exact_match": 100.0}
    found = answer_scoring.scores([["red cat", "big black dog"], ["x"]], ["black dog", "y"], "squad", "en")
    assert found == {"f1": pytest.approx(40.0), "exact_match": 0.0}


def test_repeated_words_count_as_often_as_they_stand():
    found = answer_scoring.scores([["x x y"]], ["x x x z"], "mlqa", "de")
    assert found["f1"] == pytest.approx(100 * 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


def test_answers_that_are_nothing_but_punctuation():
    # As the official scripts: equal, so an exact match, but without a word in common.
    assert answer_scoring.scores([["..."]], ["!"], "mlqa", "en") == {"f1": 0.0, "exact_match": 100.0}


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        answer_scoring.scores([["a"], ["b"]], ["a"], "mlqa", "en")
    with pytest.raises(ValueError, match="nothing to score"):
        answer_scoring.scores([], [], "mlqa", "en")
    with pytest.raises(ValueError, match=r"no rules for 'ru'; it has ar, de, en, es, hi, vi, zh"):
        answer_scoring.scores([["a"]], ["a"], "mlqa", "ru")
    assert answer_scoring.scores([["a"]], ["a"], "squad", "ru")["f1"] == 0.0  # an English article


# A second implementation, a character at a time and without regular expressions.

ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
}
PUNCTUATION = {chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")}
WORD = re.compile(r"\w")


def plain_tokens(text, scoring, language):
    marks = set(string.punctuation) | (PUNCTUATION if scoring == "mlqa" else set())
    text = "".join(character for character in text.lower() if character not in marks)
    if scoring == "squad":
        language = "en"
    words, run = [], ""
    for character in [*text, None]:
        if character is not None and WORD.match(character):
            run += character
            continue
        words += [" " if run in ARTICLES.get(language, "").split() else run, character or ""]
        run = ""
    text = "".join(words)
    if language == "ar":
        text = " ".join(text.split("ال"))
    if language == "zh":
        text = "".join(f" {character} " if "\u4e00" <= character <= "\u9fa5" else character for character in text)
    return text.split()


def plain_f1(predicted, gold):
    left, common = list(gold), 0
    for token in predicted:
        if token in left:
            left.remove(token)
            common += 1
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


def plain_scores(golds, predicted, scoring, language):
    f1 = exact = 0.0
    for right, answer in zip(golds, predicted, strict=True):
        tokens = plain_tokens(answer, scoring, language)
        others = [plain_tokens(gold, scoring, language) for gold in right]
        f1 += max(plain_f1(tokens, other) for other in others)
        exact += any(tokens == other for other in others)
    return {"f1": 100 * f1 / len(golds), "exact_match": 100 * exact / len(golds)}


def perturbed(text, rng):
    """The text with a few characters changed as models and annotators change them."""
    characters = list(text)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(characters) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del characters[place:]
        elif kind == 1:
            characters.insert(
                place, rng.choice([" the ", " los ", "ال", "Der ", "，", "。", '"', "$", "-", "\u3000", "a"])
            )
        elif kind == 2:
            characters[place : place + 1] = []
        elif kind == 3:
            characters = list("".join(characters).swapcase())
        else:
            characters[:place] = []
    return "".join(characters)


@pytest.mark.parametrize("scoring", MOCK)
@pytest.mark.parametrize("language", ["ar", "de", "en", "es", "hi", "vi", "zh"])
def test_perturbed_answers_score_as_by_the_second_implementation(scoring, language):
    rng = random.Random(language)
    sources = [gold for questions in MOCK["mlqa"].values() for golds, _ in questions for gold in golds]
    sources += [text for _, _, text, _ in NORMALISED]
    golds = [[perturbed(text, rng) for _ in range(1 + rng.randrange(3))] for text in sources * 20]
    predicted = [perturbed(text, rng) for text in sources * 20]
    expected = plain_scores(golds, predicted, scoring, language)
    assert 5 < expected["exact_match"] < expected["f1"] < 95
    found = answer_scoring.scores(golds, predicted, scoring, language)
    assert found == {metric: pytest.approx(value, abs=1e-9) for metric, value in expected.items()}
