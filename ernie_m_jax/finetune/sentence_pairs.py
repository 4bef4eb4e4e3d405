"""Classifying pairs of sentences: what XNLI and PAWS-X share, and where a new task of this kind starts.

    file --data.labelled--> Record(two sentences, label) --examples--> CLS a SEP SEP b SEP, with a label at CLS
         --loss--> cross-entropy on the pooled first tokens            --predict, score--> labels, accuracy

Several pairs share a packed row. Each is a segment of its own, so none sees another, and its positions start at 0: the
numbers are those of a pair alone in its row.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ernie_m_jax.config import Config
from ernie_m_jax.data import labelled, layout, published
from ernie_m_jax.data.labelled_rows import TEXT_NAMES
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.finetune import scoring
from ernie_m_jax.finetune.data_keys import NO_DATA, DataKeys, LabelledData, label_names
from ernie_m_jax.model import visibility
from ernie_m_jax.model.dropout import dropout
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.reporting import paper_tables
from ernie_m_jax.task import (
    IGNORE,
    Batch,
    Example,
    Predicted,
    Record,
    Spec,
    Sums,
    Task,
    Use,
)
from ernie_m_jax.tokenizer.base import shorten_pair

SHORTEST = 12  # tokens of the shortest pair that rows are planned for, special ones included: bounds the pairs per row


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a data set.

    Attributes:
      names: as the model's config should name them, in any order.
      aliases: other spellings in the data set's files.
      paper: name of the paper's table; empty: it has none.
      languages: those of the published files.
      origin: where these can be had and where they belong, for messages.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    paper: str = ""
    languages: tuple[str, ...] = ()
    origin: str = ""

    def read(
        self, path: str, split: str, languages: Sequence[str], labels: Sequence[str], bad_rows: str, config_key: str
    ) -> dict[str, labelled.Pairs]:
        """Opens the raw files of a split; see `task.Read`."""
        key = published.key(config_key, "bad_rows")
        for alias, name in self.aliases.items():
            if name not in labels:
                flag = "config.model.labels" if config_key else "--labels"
                raise DataError(
                    f"{flag}: {name!r} is missing, for which the files also have {alias!r}; named are "
                    f"{', '.join(labels)}"
                )
        return labelled.open_pairs(
            path,
            split,
            tuple(languages),
            tuple(labels),
            self.aliases,
            bad_rows,
            config_key=key,
            origin=self.origin,
        )

    def requires(self, cfg: Config, keys: DataKeys) -> Iterator[str]:
        """A head with these labels, room for a pair, languages that the config knows."""
        model = cfg.model
        if model.head != "sequence_classification":
            yield f"config.model.head is {model.head!r}; classifying pairs needs 'sequence_classification'"
        if sorted(model.labels) != sorted(self.names):
            yield f"config.model.labels is {model.labels}; it must name these, in any order: {', '.join(self.names)}"
        yield from keys.problems(cfg)

    def paper_row(self, cfg: Config, keys: DataKeys) -> tuple[str, str] | None:
        """The paper's table and setting to print beside; None if trained on other languages than the paper's."""
        del cfg
        setting = paper_tables.setting(self.paper, keys.train_languages) if self.paper else None
        return None if setting is None else (self.paper, setting)

    def task(self) -> Task:
        """The task of these labels."""
        data = LabelledData(self.paper or "sentence_pairs", self.read, self.names)
        return Task(
            config=DataKeys,
            records=data.records,
            examples=examples,
            spec=spec,
            loss=loss,
            requires=self.requires,
            splits=data.splits,
            read=self.read,
            labels=self.names,
            languages=self.languages,
            predict=predict,
            score=score,
            lines=lines,
            submission=lambda cfg, keys: self.paper,
            use=USE,
            paper=self.paper_row,
        )


def examples(record: Record, tokenizer: Any, cfg: Config, keys: DataKeys, rng: np.random.Generator) -> list[Example]:
    """One example: the pair, cut to `max_length`, with the index of its label; IGNORE where it has none."""
    del rng
    first, second = (tokenizer.encode_ids(text) for text in record.texts)
    specials = len(tokenizer.join_pair([], []))
    ids, boundary = layout.pair(tokenizer, *shorten_pair(first, second, keys.max_length - specials))
    sides = (np.arange(len(ids)) >= boundary).astype(np.int32)
    languages = layout.languages_of(cfg, record.languages, sides)
    label = record.fields.get("label")
    example = {
        "ids": ids,
        "positions": layout.pair_positions(cfg, len(ids), boundary),
        "roles": np.zeros(len(ids), np.int32),
        "languages": layout.language_ids(cfg, languages, np.zeros(len(ids), bool)),
        "class_at": np.zeros(1, np.int32),
        "class_labels": np.array([IGNORE if label is None else cfg.model.labels.index(label)], np.int32),
    }
    if cfg.model.num_token_types > 1:
        example["token_types"] = sides
    return [example]


def spec(cfg: Config, keys: DataKeys) -> Spec:
    """A packed row."""
    del keys
    length = cfg.data.sequence_length
    names = ["ids", "segments", "positions", "roles", "languages"]
    if cfg.model.num_token_types > 1:
        names.append("token_types")
    row: Spec = dict.fromkeys(names, ((length,), np.int32))
    return row | dict.fromkeys(("class_at", "class_labels"), ((max(1, length // SHORTEST),), np.int32))


def logits(
    cfg: Config, model: Any, params: Any, batch: Batch, rng: jax.Array | None = None, deterministic: bool = True
) -> jax.Array:
    """Class logits, float32 `[B, P, labels]`, with dropout before the classifier too unless `deterministic`."""
    encode_rng, own = (None, None) if rng is None else jax.random.split(rng)
    hidden = model.apply(
        {"params": params},
        Inputs.of(batch),
        visibility.FULL,
        deterministic=deterministic,
        at=batch["class_at"],
        method="encode",
        rngs={} if encode_rng is None else {"dropout": encode_rng},
    )
    pooled = model.apply({"params": params}, hidden.reshape(-1, 1, hidden.shape[-1]), method="pool")
    pooled = dropout(pooled, 0.0 if deterministic else cfg.model.hidden_dropout, own)
    scores = model.apply({"params": params}, pooled, method="classify").astype(jnp.float32)
    return scores.reshape(*hidden.shape[:2], -1)


def loss(
    cfg: Config, keys: DataKeys, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
) -> Sums:
    """Cross-entropy (nats) and accuracy over the pairs."""
    del keys
    scores, labels = logits(cfg, model, params, batch, rng, deterministic), batch["class_labels"]
    known = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(labels, 0))
    weight = jnp.sum(known).astype(jnp.float32)
    return {
        "loss": (jnp.sum(jnp.where(known, losses, 0.0)), weight),
        "accuracy": (jnp.sum(known & (jnp.argmax(scores, axis=-1) == labels)).astype(jnp.float32), weight),
    }


def predict(cfg: Config, keys: DataKeys, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """For each pair the index of the most probable label, and every label's probability."""
    del keys
    scores = logits(cfg, model, params, batch)
    return {"class_at/label": jnp.argmax(scores, axis=-1), "class_at/probabilities": jax.nn.softmax(scores)}


def predicted_labels(cfg: Config, predictions: Sequence[Predicted]) -> list[str]:
    """The predicted label of each record, by name."""
    return [cfg.model.labels[int(example["class_at/label"][0])] for (example,) in predictions]


def score(cfg: Config, keys: DataKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> dict[str, float]:
    """Accuracy in percent; nothing where the records have no labels."""
    del keys
    if not all("label" in record.fields for record in records):
        return {}
    expected = [record.fields["label"] for record in records]
    return {"accuracy": scoring.accuracy(expected, predicted_labels(cfg, predictions))}


def lines(cfg: Config, keys: DataKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> list[str]:
    """A label per line, as XTREME takes it."""
    del keys, records
    return predicted_labels(cfg, predictions)


def given(keys: DataKeys, row: Mapping[str, Any], language: str) -> Record:
    """A user's pair."""
    texts = tuple(keys.text(row, names[0]).strip() for names in TEXT_NAMES)
    return Record(texts, (language, language))


def answers(
    cfg: Config, keys: DataKeys, records: Sequence[Record], predictions: Sequence[Predicted]
) -> list[dict[str, Any]]:
    """Each pair's `label`, and the `probabilities` of all labels by name."""
    del keys, records
    shares = [example["class_at/probabilities"][0].tolist() for (example,) in predictions]
    names = label_names(cfg.model)
    found = [dict(zip(names, share, strict=True)) for share in shares]
    return [{"label": max(one, key=lambda name: one[name]), "probabilities": one} for one in found]


USE = Use(inputs=TEXT_NAMES, record=given, answers=answers, keys={"max_length": 256}, fixed=NO_DATA)
