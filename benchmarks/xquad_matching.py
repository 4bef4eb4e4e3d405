"""`mlqa` for a model that learns from little: it is told which words of the text are in the question.

Answering begins with comparing words, which a small model does not learn from some hundred questions. Here the type of
a token says it, as the exact match feature of DrQA does (Chen et al. 2017, https://arxiv.org/abs/1704.00051): 0 for
the question, 1 for the text, 2 for words of the text that the question has too.

A question has one label for some hundred tokens. Here every token of the text has two beside, a yes or no each: is it
in the answer, in its sentence? Their logits are the first entries of the token's vector.

The answers that are scored are those of the highest expected F1, not those of the most probable first and last token,
as in `mlqa`: a model that is not sure of an answer does better to give some more words around it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.xquad_cloze import WORD, sentence
from ernie_m_jax.config import Config
from ernie_m_jax.finetune import answer_scoring, mlqa
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.task import IGNORE, Batch, Example, Predicted, Record, Spec, Sums

LONGEST = 30  # tokens of an answer
CONSIDERED = 100  # most probable answers
LABELS = ("answer_labels", "sentence_labels")


def examples(
    record: Record, tokenizer: Any, cfg: Config, keys: mlqa.MlqaKeys, rng: np.random.Generator
) -> list[Example]:
    """The windows of `mlqa`, with the types and labels of each token of the text."""
    made = mlqa.examples(record, tokenizer, cfg, keys, rng)
    answers = record.fields.get("answers", ())[:1]
    asked = {one[0].casefold() for one in WORD.finditer(record.texts[0])}
    same = np.zeros(len(record.texts[1]) + 1, bool)  # characters of words that the question has too
    for one in WORD.finditer(record.texts[1]):
        same[one.start() : one.end()] = one[0].casefold() in asked
    for window in made:
        starts, inside = window["offsets_host"][:, 0], window["offsets_host"][:, 0] >= 0
        found = np.zeros((len(LABELS), len(starts)), bool)
        for text, start in answers:
            first, last = sentence(record.texts[1], start)
            found[0] = (starts >= start) & (starts < start + len(text))
            found[1] = (starts >= first) & (starts < last)
        window["token_types"] = window["token_types"] + (inside & same[starts]).astype(np.int32)
        window |= dict(zip(LABELS, np.where(inside, found, IGNORE).astype(np.int32), strict=True))
    return made


def spec(cfg: Config, keys: mlqa.MlqaKeys) -> Spec:
    """A packed row of `mlqa` with the labels."""
    row = mlqa.spec(cfg, keys)
    return row | dict.fromkeys(LABELS, row["ids"])


def loss(
    cfg: Config,
    keys: mlqa.MlqaKeys,
    model: Any,
    params: Any,
    batch: Batch,
    rng: jax.Array,
    deterministic: bool = False,
) -> Sums:
    """The loss of `mlqa`, without dropout, plus the labels' weighted mean cross-entropies, in nats."""
    del keys, rng, deterministic
    hidden = model.apply({"params": params}, Inputs.of(batch), visibility.FULL, method="encode")
    scores = model.apply({"params": params}, hidden, method="classify").astype(jnp.float32)
    starts, start_right, known = mlqa.span_losses(scores[..., 0], batch["start_at"], batch["segments"])
    ends, end_right, _ = mlqa.span_losses(scores[..., 1], batch["end_at"], batch["segments"])
    count = jnp.sum(known).astype(jnp.float32)
    span = jnp.sum(starts + ends) / 2
    tokens = jnp.sum(batch[LABELS[0]] != IGNORE).astype(jnp.float32)
    sums: Sums = {}
    total = span
    for channel, name in enumerate(LABELS):
        labels, logits = batch[name], hidden[..., channel].astype(jnp.float32)
        losses = jax.nn.softplus(jnp.where(labels == 1, -logits, logits))
        sums[name.removesuffix("_labels")] = (jnp.sum(jnp.where(labels == IGNORE, 0.0, losses)), tokens)
        total += count * sums[name.removesuffix("_labels")][0] / jnp.maximum(tokens, 1.0)
    right = jnp.sum(start_right & end_right).astype(jnp.float32)
    return {"loss": (total, count), "accuracy": (right, count), "span": (span, count)} | sums


def best_span(starts: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """First and last of the tokens that are expected to have the highest F1 with the answer.

    An answer that is not known well is met better by some more words around it. The expectation is over the most
    probable answers of at most LONGEST tokens; first and last token are independent but for that.

    Args:
      starts: logits of the answer's first token, over the text's tokens in one window.
      ends: of its last token.
    """
    logits = starts[:, None] + ends[None, :]
    span = np.arange(len(ends)) - np.arange(len(starts))[:, None]  # last minus first
    logits = np.where((span >= 0) & (span < LONGEST), logits, -np.inf)
    likely = np.argsort(logits, axis=None)[::-1][:CONSIDERED]
    first, last = np.unravel_index(likely, logits.shape)
    share = np.exp(logits[first, last] - logits.max())
    given = np.argwhere((span >= 0) & (span < 2 * LONGEST) & np.isin(np.arange(len(starts)), first)[:, None])
    overlap = np.minimum(given[:, 1:], last) - np.maximum(given[:, :1], first) + 1
    lengths = (given[:, 1:] - given[:, :1] + 1) + (last - first + 1)
    expected = (2 * np.maximum(overlap, 0) / lengths) @ (share / share.sum())
    start, end = given[np.argmax(expected)]
    return int(start), int(end)


def answers(records: Sequence[Record], predictions: Sequence[Predicted]) -> list[str]:
    """The best span of the window whose best start and end have the highest logits."""
    found = []
    for record, windows in zip(records, predictions, strict=True):
        texts = []
        for one in windows:
            inside = one["offsets_host"][:, 0] >= 0
            starts, ends, offsets = one["ids/start"][inside], one["ids/end"][inside], one["offsets_host"][inside]
            start, end = best_span(starts, ends)
            texts.append((float(starts.max() + ends.max()), record.texts[1][offsets[start, 0] : offsets[end, 1]]))
        found.append(max(texts, default=(0.0, ""))[1].strip())
    return found


def score(
    cfg: Config, keys: mlqa.MlqaKeys, records: Sequence[Record], predictions: Sequence[Predicted]
) -> dict[str, float]:
    """F1 and exact match in percent of `answers`."""
    del cfg
    golds = [[text for text, _ in record.fields["answers"]] for record in records]
    return answer_scoring.scores(golds, answers(records, predictions), keys.scoring, records[0].languages[1])


TASK = dataclasses.replace(mlqa.TASK, examples=examples, spec=spec, loss=loss, score=score)
