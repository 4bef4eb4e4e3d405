"""A task as a user would write it in a module of their own: is a token's id even, and is a text of two-letter words?

It has what the package's own pair tasks have not: windows, so 0, 1 or several examples per record; predictions for
tokens, and for examples; a sum of its own in the tables.
"""

import dataclasses
from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ernie_m_jax.config_fields import between
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.model.heads import tokens_at
from ernie_m_jax.task import IGNORE, Group, Record, Task, TaskKeys

SPECIALS = 2
TEXTS = {"short": "an ox is up", "long": "every yellow dog", "blank": "  "}


@dataclasses.dataclass(frozen=True)
class Keys(TaskKeys):
    window: int = field(metadata=between(4, 512))
    records: int = field(metadata=between(1))


def made(language, count, start):
    """Texts of 0 to 5 repetitions, so of 0 to several windows."""
    rows = []
    for number in range(start, start + count):
        kind = ("short", "long", "blank")[number % 3]
        fields = {"id": f"{language}{number}", "short": kind == "short"}
        rows.append(Record((" ".join([TEXTS[kind]] * (1 + number % 5)),), (language,), fields))
    return rows


def records(cfg, keys, sources):
    del sources
    return {language: Group(made(language, keys.records, 0), 1.0) for language in cfg.languages[:2]}


def splits(cfg, keys):
    del keys
    return {split: {language: made(language, 11, start) for language in cfg.languages[:2]} for split, start in SPLITS}


SPLITS = (("dev", 100), ("test", 200))


def examples(record, tokenizer, cfg, keys, rng):
    del cfg, rng
    ids, room, found = tokenizer.encode_ids(record.texts[0]), keys.window - SPECIALS, []
    for begin in range(0, len(ids), room):
        part = ids[begin : begin + room]
        words = np.array([tokenizer.cls_id, *part, tokenizer.sep_id], np.int32)
        zeros = np.zeros(len(words), np.int32)
        tags = np.array([IGNORE, *(number % 2 == 0 for number in part), IGNORE], np.int32)
        found.append(
            {"ids": words, "positions": np.arange(len(words), dtype=np.int32), "roles": zeros, "languages": zeros}
            | {"tag_labels": tags, "text_at": zeros[:1], "text_labels": np.array([record.fields["short"]], np.int32)}
        )
    return found


def spec(cfg, keys):
    length = cfg.data.sequence_length
    row = dict.fromkeys(("ids", "segments", "positions", "roles", "languages", "tag_labels"), ((length,), np.int32))
    return row | dict.fromkeys(("text_at", "text_labels"), ((max(1, length // keys.window * 2),), np.int32))


def logits(model, params, batch, rng, deterministic):
    rngs = {} if rng is None else {"dropout": rng}
    tables = (Inputs.of(batch), visibility.FULL)
    hidden = model.apply({"params": params}, *tables, method="encode", deterministic=deterministic, rngs=rngs)
    texts = tokens_at(hidden, batch["text_at"])
    return [model.apply({"params": params}, part, method="classify").astype(jnp.float32) for part in (hidden, texts)]


def loss(cfg, keys, model, params, batch, rng, deterministic=False):
    del cfg, keys
    sums = {}
    scores = dict(zip(("tag", "text"), logits(model, params, batch, rng, deterministic), strict=True))
    total = weight = 0.0
    for name, values in scores.items():
        labels = batch[f"{name}_labels"]
        known = labels != IGNORE
        losses = optax.softmax_cross_entropy_with_integer_labels(values, jnp.maximum(labels, 0))
        count = jnp.sum(known).astype(jnp.float32)
        total, weight = total + jnp.sum(jnp.where(known, losses, 0.0)), weight + count
        right = known & (jnp.argmax(values, axis=-1) == labels)
        sums[f"{name}_right"] = (jnp.sum(right).astype(jnp.float32), count)
    return {"loss": (total, weight)} | sums


def requires(cfg, keys):
    if cfg.model.head != "token_classification":
        yield f"config.model.head is {cfg.model.head!r}; tagging needs 'token_classification'"
    if keys.window > cfg.data.sequence_length:
        yield f"window {keys.window} is above config.data.sequence_length {cfg.data.sequence_length}"


def predict(cfg, keys, model, params, batch):
    del cfg, keys
    tags, texts = logits(model, params, batch, None, True)
    return {"ids/tag": jnp.argmax(tags, axis=-1), "ids/even": jax.nn.softmax(tags)[..., 1], "text_at/text": texts}


def score(cfg, keys, records, predictions):
    """How many records with text have the right label by the sum over their windows; how many records have any."""
    del cfg, keys
    known = [(record, parts) for record, parts in zip(records, predictions, strict=True) if parts]
    right = [
        bool(np.argmax(sum(part["text_at/text"][0] for part in parts))) == record.fields["short"]
        for record, parts in known
    ]
    return {"right": 100.0 * sum(right) / len(right), "filled": 100.0 * len(known) / len(records)}


def lines(cfg, keys, records, predictions):
    del cfg, keys
    return [
        "\t".join([record.fields["id"], *("".join(map(str, part["ids/tag"])) for part in parts)])
        for record, parts in zip(records, predictions, strict=True)
    ]


TASK = Task(
    config=Keys,
    records=records,
    examples=examples,
    spec=spec,
    loss=loss,
    requires=requires,
    columns={"tag_right": "tagged"},
    splits=splits,
    predict=predict,
    score=score,
    lines=lines,
)
