"""MLQA, answers to questions in 7 languages (Lewis et al. 2020): which words of the text answer the question?

    file --data.squad--> Record(question, text; its answers) --examples--> windows CLS question SEP part of the text SEP
         --loss--> cross-entropy of the answer's first and last token      --predict, score--> answers, F1, exact match

A text longer than a window is read in several (`windows.py`); one that lacks the answer points to its CLS. Windows
share packed rows, so a softmax is over the tokens of a window, not of a row. An answer is cut from the text itself, by
the characters that its tokens stand for, not put together from pieces.

Trained on SQuAD 1.1 in English, scored on MLQA; with `scoring` "squad" also on XQuAD (`data/squad.py` has the files).
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between, one_of
from ernie_m_jax.data import layout, published, squad
from ernie_m_jax.finetune import answer_scoring, windows
from ernie_m_jax.finetune.data_keys import NO_DATA, DataKeys, LabelledData
from ernie_m_jax.model import visibility
from ernie_m_jax.model.dropout import dropout
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.reporting import paper_tables
from ernie_m_jax.task import (
    Batch,
    Example,
    Predicted,
    Record,
    Spec,
    Sums,
    Task,
    Use,
)

SPECIALS = 3  # CLS and two separators: the original's code has one between question and text
SHORTEST = 24  # tokens of the shortest window that rows are planned for: bounds the windows per row


@dataclasses.dataclass(frozen=True)
class MlqaKeys(DataKeys):
    """Keys of the task; `configs/base.py` gives their meaning."""

    stride: int = field(metadata=between(1))
    max_question: int = field(metadata=between(1))
    max_answer: int = field(metadata=between(1))
    n_best: int = field(metadata=between(1))
    scoring: str = field(metadata=one_of(*answer_scoring.SCORINGS))


def read(
    path: str, split: str, languages: Sequence[str], labels: Sequence[str], bad_rows: str, config_key: str
) -> dict[str, squad.Questions]:
    """Opens the raw files of a split; see `task.Read`."""
    del labels
    return squad.open_questions(path, split, tuple(languages), bad_rows, published.key(config_key, "bad_rows"))


DATA = LabelledData("mlqa", read)


def requires(cfg: Config, keys: MlqaKeys) -> Iterator[str]:
    """The span head, room for a window, languages that the config and the scoring know, a tokenizer with offsets."""
    if cfg.model.head != "question_answering":
        yield f"config.model.head is {cfg.model.head!r}; answering questions needs 'question_answering'"
    if keys.max_length <= keys.max_question + SPECIALS:
        yield f"max_length {keys.max_length} has no room for a text beside max_question {keys.max_question}"
    yield from keys.problems(cfg)
    scored = keys.languages or cfg.languages
    if other := [code for code in scored if keys.scoring == "mlqa" and code not in answer_scoring.MLQA_LANGUAGES]:
        yield (
            f"languages: MLQA's script has no rules for {', '.join(other)}, only for "
            f"{', '.join(answer_scoring.MLQA_LANGUAGES)}; set scoring to 'squad'"
        )
    if cfg.tokenizer.style == "xlm":
        yield "config.tokenizer.style 'xlm' cannot say which characters a piece stands for; answers need that"


def examples(record: Record, tokenizer: Any, cfg: Config, keys: MlqaKeys, rng: np.random.Generator) -> list[Example]:
    """The windows over the text, each with the whole question; labels are those of the first answer, if it has any."""
    del rng
    question, context = record.texts
    asked = tokenizer.encode_ids(question)[: keys.max_question]
    encoding = tokenizer.encode(context)
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    answer = None
    for text, start in record.fields.get("answers", ())[:1]:
        answer = windows.tokens_of(offsets, start, start + len(text))
    spans = windows.cut(len(encoding.ids), keys.max_length - len(asked) - SPECIALS, keys.stride)
    begin = len(asked) + 2
    made = []
    for span, may_start in zip(spans, windows.max_context(spans), strict=True):
        part = slice(span.start, span.stop)
        ids = np.array([tokenizer.cls_id, *asked, tokenizer.sep_id, *encoding.ids[part], tokenizer.sep_id], np.int32)
        inside = slice(begin, begin + len(span))
        sides = (np.arange(len(ids)) >= begin).astype(np.int32)
        languages = layout.languages_of(cfg, record.languages, sides)
        labels = np.zeros((2, int("answers" in record.fields)), np.int32)  # CLS, where the window lacks the answer
        if answer and span.start <= answer[0] and answer[1] < span.stop:
            labels[:] = np.array(answer)[:, None] - span.start + begin
        one = {
            "ids": ids,
            "positions": layout.pair_positions(cfg, len(ids), begin),
            "roles": np.zeros(len(ids), np.int32),
            "languages": layout.language_ids(cfg, languages, np.zeros(len(ids), bool)),
            "start_at": labels[0],
            "end_at": labels[1],
            "offsets_host": np.full((len(ids), 2), -1, np.int32),
            "may_start_host": np.zeros(len(ids), bool),
        }
        one["offsets_host"][inside], one["may_start_host"][inside] = offsets[part], may_start
        if cfg.model.num_token_types > 1:
            one["token_types"] = sides
        made.append(one)
    return made


def spec(cfg: Config, keys: MlqaKeys) -> Spec:
    """A packed row."""
    del keys
    length = cfg.data.sequence_length
    names = ["ids", "segments", "positions", "roles", "languages"]
    if cfg.model.num_token_types > 1:
        names.append("token_types")
    row: Spec = dict.fromkeys(names, ((length,), np.int32))
    return row | dict.fromkeys(("start_at", "end_at"), ((max(1, length // SHORTEST),), np.int32))


def logits(
    cfg: Config, model: Any, params: Any, batch: Batch, rng: jax.Array | None = None, deterministic: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Start and end logits of every token, float32 `[B, L]`; dropout before the head too, unless `deterministic`."""
    encode_rng, own = (None, None) if rng is None else jax.random.split(rng)
    hidden = model.apply(
        {"params": params},
        Inputs.of(batch),
        visibility.FULL,
        deterministic=deterministic,
        method="encode",
        rngs={} if encode_rng is None else {"dropout": encode_rng},
    )
    hidden = dropout(hidden, 0.0 if deterministic else cfg.model.hidden_dropout, own)
    scores = model.apply({"params": params}, hidden, method="classify").astype(jnp.float32)
    return scores[..., 0], scores[..., 1]


def span_losses(scores: jax.Array, at: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy of tokens, each within its own window.

    Args:
      scores: a logit per token, float32 `[B, L]`.
      at: the right token of each window, int32 `[B, P]`; L where there is none.
      segments: the window of each token, int32 `[B, L]`.

    Returns:
      For each window, `[B, P]`: the loss in nats, whether its highest logit is the right one's, whether there is one.
    """
    length = scores.shape[-1]
    known, at = at < length, jnp.minimum(at, length - 1)
    window = jnp.take_along_axis(segments, at, axis=1)
    own_bpl = jnp.where(segments[:, None, :] == window[:, :, None], scores[:, None, :], -jnp.inf)
    losses = jax.nn.logsumexp(own_bpl, axis=-1) - jnp.take_along_axis(scores, at, axis=1)
    return jnp.where(known, losses, 0.0), known & (jnp.argmax(own_bpl, axis=-1) == at), known


def loss(
    cfg: Config, keys: MlqaKeys, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
) -> Sums:
    """Mean of the start's and the end's cross-entropy (nats) over the windows; how many have both right."""
    del keys
    starts, ends = logits(cfg, model, params, batch, rng, deterministic)
    start_losses, start_right, known = span_losses(starts, batch["start_at"], batch["segments"])
    end_losses, end_right, _ = span_losses(ends, batch["end_at"], batch["segments"])
    weight = jnp.sum(known).astype(jnp.float32)
    return {
        "loss": (jnp.sum(start_losses + end_losses) / 2, weight),
        "accuracy": (jnp.sum(start_right & end_right).astype(jnp.float32), weight),
    }


def predict(cfg: Config, keys: MlqaKeys, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """Start and end logits of every token."""
    del keys
    starts, ends = logits(cfg, model, params, batch)
    return {"ids/start": starts, "ids/end": ends}


def n_best(keys: MlqaKeys, prediction: Predicted) -> list[windows.Candidate]:
    """The best answers to one question over all its windows, the best first."""
    found = [
        candidate
        for one in prediction
        for candidate in windows.candidates(
            one["ids/start"], one["ids/end"], one["offsets_host"], one["may_start_host"], keys.n_best, keys.max_answer
        )
    ]
    return sorted(found, key=lambda candidate: -candidate.score)[: keys.n_best]


def answers(keys: MlqaKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> list[str]:
    """The best answer to each question, cut from its text; empty where no window has one."""
    found = []
    for record, prediction in zip(records, predictions, strict=True):
        best = n_best(keys, prediction)[:1]
        found.append("".join(record.texts[1][one.start : one.end] for one in best).strip())
    return found


def score(cfg: Config, keys: MlqaKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> dict[str, float]:
    """F1 and exact match in percent; nothing where the records have no answers."""
    del cfg
    if not all("answers" in record.fields for record in records):
        return {}
    golds = [[text for text, _ in record.fields["answers"]] for record in records]
    return answer_scoring.scores(golds, answers(keys, records, predictions), keys.scoring, records[0].languages[1])


def lines(cfg: Config, keys: MlqaKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> list[str]:
    """JSON of the answer by question, as MLQA's and SQuAD's scripts and XTREME take it."""
    del cfg
    names = [record.fields["id"] for record in records]
    found = dict(zip(names, answers(keys, records, predictions), strict=True))
    return json.dumps(found, ensure_ascii=False, indent=1).split("\n")


def given(keys: MlqaKeys, row: Mapping[str, Any], language: str) -> Record:
    """A user's question on a text."""
    return Record((keys.text(row, "question").strip(), keys.text(row, "context")), (language, language))


def said(
    cfg: Config, keys: MlqaKeys, records: Sequence[Record], predictions: Sequence[Predicted]
) -> list[dict[str, Any]]:
    """Each question's `answer` with its characters in the text, and the `n_best` with shares of 1 among themselves."""
    del cfg
    found = []
    for record, prediction in zip(records, predictions, strict=True):
        best = n_best(keys, prediction)
        scores = np.array([one.score for one in best])
        shares = np.exp(scores - scores.max(initial=-np.inf)) if best else scores
        listed = [
            {
                "text": record.texts[1][one.start : one.end],
                "start": one.start,
                "end": one.end,
                "probability": float(share / shares.sum()),
            }
            for one, share in zip(best, shares, strict=True)
        ]
        first = listed[0] if listed else {"text": "", "start": 0, "end": 0}
        found.append({"answer": first["text"], "start": first["start"], "end": first["end"], "n_best": listed})
    return found


def paper(cfg: Config, keys: MlqaKeys) -> tuple[str, str] | None:
    """The paper's table, where what is measured can be compared with it."""
    del cfg
    setting = paper_tables.setting("mlqa", keys.train_languages)
    return ("mlqa", setting) if keys.scoring == "mlqa" and setting is not None else None


TASK = Task(
    config=MlqaKeys,
    records=DATA.records,
    examples=examples,
    spec=spec,
    loss=loss,
    requires=requires,
    splits=DATA.splits,
    read=read,
    languages=("en", "es", "de", "ar", "hi", "vi", "zh"),
    predict=predict,
    score=score,
    lines=lines,
    lines_suffix=".json",
    submission=lambda cfg, keys: "mlqa" if keys.scoring == "mlqa" else "xquad",
    use=Use(
        inputs=(("question",), ("context", "text", "passage")),
        record=given,
        answers=said,
        keys={"max_length": 384, "stride": 128, "max_question": 64, "max_answer": 100, "n_best": 20},
        fixed={**NO_DATA, "scoring": "squad"},
    ),
    paper=paper,
    figure=("f1", "exact_match"),
)
