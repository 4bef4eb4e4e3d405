"""`mlqa` with more to learn from a window: which tokens of the text are in the question, the answer, its sentence?

A question has one label for some hundred tokens. From so few a small model does not learn within minutes to compare
tokens at all, which answering begins with; here every token of the text has three labels beside, a yes or no each.
Their logits are the first entries of the token's vector: the parameters are those of `mlqa`, which can use them.

The answers that are scored are those of the highest expected F1, not those of the most probable first and last token,
as in `mlqa`: a model that is not sure of an answer does better to give some more words around it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.xquad_cloze import sentence
from ernie_m_jax.config import Config
from ernie_m_jax.finetune import answer_scoring, mlqa
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.task import IGNORE, Batch, Example, Predicted, Record, Spec, Sums

LABELS = {"asked_labels": 4.0, "answer_labels": 1.0, "sentence_labels": 1.0}  # with weights: comparing comes first


def examples(
    record: Record, tokenizer: Any, cfg: Config, keys: mlqa.MlqaKeys, rng: np.random.Generator
) -> list[Example]:
    """The windows of `mlqa`, with the labels of each token of the text."""
    made = mlqa.examples(record, tokenizer, cfg, keys, rng)
    answers = record.fields.get("answers", ())[:1]
    for one in made:
        starts, inside = one["offsets_host"][:, 0], one["offsets_host"][:, 0] >= 0
        found = np.zeros((3, len(starts)), bool)
        found[0] = np.isin(one["ids"], one["ids"][1 : np.argmax(inside) - 1])
        for text, start in answers:
            first, last = sentence(record.texts[1], start)
            found[1] = (starts >= start) & (starts < start + len(text))
            found[2] = (starts >= first) & (starts < last)
        one |= dict(zip(LABELS, np.where(inside, found, IGNORE).astype(np.int32), strict=True))
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
    tokens = jnp.sum(batch["asked_labels"] != IGNORE).astype(jnp.float32)
    sums: Sums = {}
    total = span
    for channel, (name, weight) in enumerate(LABELS.items()):
        labels, logits = batch[name], hidden[..., channel].astype(jnp.float32)
        losses = jax.nn.softplus(jnp.where(labels == 1, -logits, logits))
        sums[name.removesuffix("_labels")] = (jnp.sum(jnp.where(labels == IGNORE, 0.0, losses)), tokens)
        total += weight * count * sums[name.removesuffix("_labels")][0] / jnp.maximum(tokens, 1.0)
    right = jnp.sum(start_right & end_right).astype(jnp.float32)
    return {"loss": (total, count), "accuracy": (right, count), "span": (span, count)} | sums


def best_span(starts: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """First and last of the tokens that are expected to have the highest F1 with the answer.

    An answer that is not known well is met better by some more words around it. F1 of a span S is
    2 |S and answer| / (|S| + |answer|); here with the expected overlap and the expected length.

    Args:
      starts: logits of the answer's first token, over the text's tokens in one window.
      ends: of its last token.
    """
    first, last = (np.exp(logits - logits.max()) for logits in (starts, ends))
    within = np.cumsum(first / first.sum()) * np.cumsum((last / last.sum())[::-1])[::-1]  # probability of each token
    before = np.concatenate([[0.0], np.cumsum(within)])
    lengths = np.arange(len(within)) - np.arange(len(within))[:, None] + 1
    overlap = np.where(lengths > 0, before[None, 1:] - before[:-1, None], -1.0)
    start, end = np.unravel_index(np.argmax(overlap / (np.maximum(lengths, 1) + within.sum())), lengths.shape)
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
