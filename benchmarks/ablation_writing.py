"""How good generated text is, and what restoring masked words gains from it; for `ablation_measures.py`."""

import functools
import types
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any

import jax
import numpy as np

from ernie_m_jax.data import layout
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.objectives import masking
from ernie_m_jax.predict import Written
from ernie_m_jax.task import IGNORE
from ernie_m_jax.tokenizer.base import shorten_pair

# The first word of the Unicode names of a language's letters; Latin for all others.
SCRIPTS = {
    "ja": {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"},
    "zh": {"CJK"},
    "ko": {"HANGUL"},
    "ru": {"CYRILLIC"},
    "hi": {"DEVANAGARI"},
    "ar": {"ARABIC"},
    "el": {"GREEK"},
    "he": {"HEBREW"},
}
ORDERS, BETA = 6, 2  # of chrF: n-grams up to 6 characters, recall counts twice as much (Popović 2015, 2016)
LENGTH = 128  # tokens of a row; what is longer is cut
MASKED = 0.15  # of a text's words


def f1(written: Iterable[Any], right: Iterable[Any]) -> float:
    """F1 in percent of two multisets."""
    ours, theirs = Counter(written), Counter(right)
    both = (ours & theirs).total()
    return 200 * both / (ours.total() + theirs.total()) if both else 0.0


def words_of(tokens: Iterable[str]) -> list[str]:
    """The tokens with a letter: a full stop more or less is no sign of a translation."""
    return [token for token in tokens if any(map(str.isalpha, token))]


def chrf(written: Sequence[str], right: Sequence[str]) -> float:
    """chrF2 in percent of a corpus, white space left out: sacrebleu's defaults."""
    totals = np.zeros((ORDERS, 3))  # n-grams written, right and both
    for ours, theirs in zip(written, right, strict=True):
        ours, theirs = "".join(ours.split()), "".join(theirs.split())
        for n in range(1, ORDERS + 1):
            counts = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (ours, theirs)]
            totals[n - 1] += counts[0].total(), counts[1].total(), (counts[0] & counts[1]).total()
    totals = totals[(totals[:, 0] > 0) & (totals[:, 1] > 0)]
    if not len(totals):
        return 0.0
    precision, recall = (float(np.mean(totals[:, 2] / totals[:, side])) for side in (0, 1))
    weight = BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall) if precision + recall else 0.0


def in_script(text: str, language: str) -> tuple[int, int]:
    """How many letters are of a script of the language, and how many there are."""
    names = [unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha()]
    scripts = SCRIPTS.get(language, {"LATIN"})
    return sum(name in scripts for name in names), len(names)


def quality(
    tokenizer: Any, sources: Sequence[str], written: Sequence[Written], translations: Sequence[str], target: str
) -> dict[str, float]:
    """What was written for the sources, against their translations; `ablation_measures.py` says what each is."""
    right = [words_of(tokenizer.tokens(tokenizer.encode_ids(text))) for text in translations]
    tokens = [found.tokens for found in written]
    own = [set(tokenizer.tokens(tokenizer.encode_ids(text))) for text in sources]
    letters = np.sum([in_script(found.text, target) for found in written], axis=0)
    return {
        "f1": mean(map(f1, map(words_of, tokens), right)),
        "f1_other": mean(map(f1, map(words_of, tokens), right[1:] + right[:1])),
        "chrf": chrf([found.text for found in written], translations),
        "script": 100 * float(letters[0] / max(letters[1], 1)),
        "copied": 100 * mean(token in of for words, of in zip(tokens, own, strict=True) for token in words),
    }


def losses(
    model: Any, sources: Sequence[str], written: Sequence[Written], translations: Sequence[str], codes: tuple[str, str]
) -> dict[str, float]:
    """Mean loss of the same masked words of the sources, given different texts beside them."""
    tokenizer = model.tokenizer
    numbers = {token: number for number, token in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}
    own = [[numbers[token] for token in found.tokens] for found in written]
    beside = {
        "own": own,
        "another": own[1:] + own[:1],
        "none": [[] for _ in sources],
        "translation": [tokenizer.encode_ids(text) for text in translations],
    }
    texts = [tokenizer.encode_ids(text)[: LENGTH // 2 - 3] for text in sources]
    return {name: _loss(model, texts, others, codes) for name, others in beside.items()}


def _loss(model: Any, texts: Sequence[list[int]], others: Sequence[list[int]], codes: tuple[str, str]) -> float:
    shape = (len(texts), LENGTH)
    names = ("ids", "positions", "segments", "roles", "languages", "predict_at", "predict_labels")
    batch = {name: np.zeros(shape, np.int32) for name in names}
    batch["ids"][:], batch["predict_at"][:], batch["predict_labels"][:] = model.config.pad_id, LENGTH, IGNORE
    data = types.SimpleNamespace(pair_positions=model.pair_positions)
    cfg: Any = types.SimpleNamespace(data=data, model=model.config, languages=model.languages)
    for row, (text, other) in enumerate(zip(texts, others, strict=True)):
        _fill(batch, row, text, other, model.tokenizer, cfg, codes)
    total, count = _scorer(model.encoder())(model.params, batch)
    return float(total / count)


def _fill(
    batch: dict[str, np.ndarray], row: int, text: list[int], other: list[int], tokenizer: Any, cfg: Any, codes: Any
) -> None:
    rng = np.random.default_rng(row)  # the same words of a text whatever stands beside it
    places = np.arange(1, len(text) + 1)
    if other:
        _, other = shorten_pair(list(text), list(other), LENGTH - 4)
        ids, boundary = layout.pair(tokenizer, text, other)
    else:
        ids = np.array([tokenizer.cls_id, *text, tokenizer.sep_id], np.int32)
        boundary = len(ids)
    words = masking.known(ids, places, tokenizer)
    if not len(words):
        return
    chosen = masking.choose(words, MASKED, rng)
    masked = masking.apply_replacements(ids, chosen, np.full(len(chosen), tokenizer.mask_id, np.int32))
    sides = (np.arange(len(ids)) >= boundary).astype(int)
    spoken = layout.languages_of(cfg, codes, sides)
    count = len(ids)
    batch["ids"][row, :count] = masked
    batch["positions"][row, :count] = layout.pair_positions(cfg, count, boundary)
    batch["segments"][row, :count] = 1
    batch["languages"][row, :count] = layout.language_ids(cfg, spoken, masked == tokenizer.mask_id)
    batch["predict_at"][row, : len(chosen)] = chosen
    batch["predict_labels"][row, : len(chosen)] = ids[chosen]


@functools.lru_cache(maxsize=4)
def _scorer(encoder: Any) -> Callable[[Any, dict[str, np.ndarray]], tuple[jax.Array, jax.Array]]:
    """The compiled (params, batch) -> sum of the losses and their number."""

    def run(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        inputs = Inputs(*(batch[name] for name in ("ids", "positions", "segments", "roles", "languages")))
        apply = functools.partial(encoder.apply, {"params": params})
        return masking.prediction_sums(apply, inputs, visibility.FULL, batch, MASKED * LENGTH, deterministic=True)[
            "loss"
        ]

    return jax.jit(run)
