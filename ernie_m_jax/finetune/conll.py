"""CoNLL-2002 (es, nl) and CoNLL-2003 (en, de): named entities (Tjong Kim Sang 2002, with De Meulder 2003).

    file --data.tagged--> Record(words, IOB2 tags) --examples--> CLS pieces of the words SEP, a tag at every piece
         --loss--> cross-entropy at every token  --predict, score--> chunk F1 over pieces and over words

As the original's code: each word is cut by itself; "B-" is at a word's first piece and "I-" at the others; CLS and SEP
have "O" and count in the loss; there is no dropout before the classifier. The original cuts a sentence that is longer
than a row off; here it becomes several windows, and every word is predicted in one of them.

`config.model.labels` says which types there are: with other labels than CoNLL's, the task learns other data.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between
from ernie_m_jax.data import layout, tagged
from ernie_m_jax.finetune import scoring, word_spans
from ernie_m_jax.finetune.data_keys import NO_DATA, DataKeys, LabelledData, label_names
from ernie_m_jax.model import visibility
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

LABELS = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for prefix in "BI"))


@dataclasses.dataclass(frozen=True)
class TagKeys(DataKeys):
    """Keys of the task; `configs/base.py` gives their meaning."""

    sentences_per_row: int = field(metadata=between(0))


def types(labels: Iterable[str]) -> tuple[str, ...]:
    """The types of entities that some labels are for, in their order: ("PER", ...) of ("O", "B-PER", "I-PER", ...)."""
    return tuple(dict.fromkeys(label[2:] for label in labels if label != "O"))


def is_iob2(labels: Sequence[str]) -> bool:
    """Whether labels are O, and B- and I- of each type."""
    kinds = types(labels)
    needed = ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
    return bool(kinds) and "" not in kinds and sorted(labels) == sorted(needed)


def read(
    path: str, split: str, languages: Sequence[str], labels: Sequence[str], bad_rows: str, config_key: str
) -> dict[str, tagged.Sentences]:
    """Opens the raw files of a split; see `task.Read`."""
    return tagged.open_tagged(path, split, languages, types(labels), bad_rows, config_key)


DATA = LabelledData("conll", read, LABELS)


def requires(cfg: Config, keys: TagKeys) -> Iterator[str]:
    """A head with IOB2 labels, room for a window, languages that the config knows."""
    model = cfg.model
    if model.head != "token_classification":
        yield f"config.model.head is {model.head!r}; tagging needs 'token_classification'"
    if not is_iob2(model.labels):
        yield (
            f"config.model.labels is {model.labels}; it must name O, and B- and I- of each type, in any order, such as "
            f"{', '.join(LABELS)}"
        )
    yield from keys.problems(cfg)


def words_of(record: Record) -> Sequence[str]:
    """The words of a sentence; those between white space where nothing else says it."""
    return record.fields.get("words") or record.texts[0].split()


def windows(pieces: Sequence[Sequence[int]], room: int) -> Iterator[list[int]]:
    """Divides a sentence: the numbers of the words in each window, as many as fit; words without pieces are in none."""
    held: list[int] = []
    left = room
    for number, ids in enumerate(pieces):
        if held and len(ids) > left:
            yield held
            held, left = [], room
        if ids:
            held.append(number)
            left -= len(ids)
    if held:
        yield held


def examples(record: Record, tokenizer: Any, cfg: Config, keys: TagKeys, rng: np.random.Generator) -> list[Example]:
    """A sentence's windows, of `max_length` tokens at most; a word of more pieces than a window has its first ones."""
    del rng
    room = keys.max_length - 2
    pieces = [tokenizer.encode_ids(word)[:room] for word in words_of(record)]
    return [_example(record, tokenizer, cfg, keys, pieces, numbers) for numbers in windows(pieces, room)]


def _example(
    record: Record, tokenizer: Any, cfg: Config, keys: TagKeys, pieces: Sequence[list[int]], numbers: Sequence[int]
) -> Example:
    own = [pieces[number] for number in numbers]
    ids = np.array([tokenizer.cls_id, *itertools.chain(*own), tokenizer.sep_id], np.int32)
    count = len(ids)
    labels = np.full(count, IGNORE, np.int32)
    if tags := record.fields.get("tags"):
        spread = itertools.chain.from_iterable(_spread(tags[number], len(pieces[number])) for number in numbers)
        labels[:] = [cfg.model.labels.index(tag) for tag in ("O", *spread, "O")]
    sides = np.zeros(count, np.int32)
    languages = layout.languages_of(cfg, record.languages, sides)
    example = {
        "ids": ids,
        "positions": np.arange(count, dtype=np.int32),
        "roles": sides,
        "languages": layout.language_ids(cfg, languages, np.zeros(count, bool)),
        "tag_labels": labels,
        "first_at": np.cumsum([1, *map(len, own[:-1])], dtype=np.int32),  # each word's first piece
        "word_numbers": np.array(numbers, np.int32),  # in the sentence
    }
    if keys.sentences_per_row:
        example["sentence_at"] = np.zeros(1, np.int32)
    if cfg.model.num_token_types > 1:
        example["token_types"] = sides
    return example


def _spread(tag: str, count: int) -> list[str]:
    """A word's tag at each of its pieces."""
    return [tag, *[tag.replace("B-", "I-", 1)] * (count - 1)]


def spec(cfg: Config, keys: TagKeys) -> Spec:
    """A packed row; `sentence_at` only bounds how many sentences share one."""
    names = ["ids", "segments", "positions", "roles", "languages", "tag_labels", "first_at", "word_numbers"]
    if cfg.model.num_token_types > 1:
        names.append("token_types")
    row: Spec = dict.fromkeys(names, ((cfg.data.sequence_length,), np.int32))
    return row | ({"sentence_at": ((keys.sentences_per_row,), np.int32)} if keys.sentences_per_row else {})


def logits(model: Any, params: Any, batch: Batch, rng: jax.Array | None = None) -> jax.Array:
    """Logits of the labels at every token, float32 `[B, L, labels]`; with the encoder's dropout if `rng` is given."""
    hidden = model.apply(
        {"params": params},
        Inputs.of(batch),
        visibility.FULL,
        deterministic=rng is None,
        method="encode",
        rngs={} if rng is None else {"dropout": rng},
    )
    return model.apply({"params": params}, hidden, method="classify").astype(jnp.float32)


def loss(
    cfg: Config, keys: TagKeys, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
) -> Sums:
    """Cross-entropy (nats) and accuracy over all tokens, CLS and SEP among them, padding not."""
    del cfg, keys
    scores, labels = logits(model, params, batch, None if deterministic else rng), batch["tag_labels"]
    known = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(labels, 0))
    weight = jnp.sum(known).astype(jnp.float32)
    return {
        "loss": (jnp.sum(jnp.where(known, losses, 0.0)), weight),
        "accuracy": (jnp.sum(known & (jnp.argmax(scores, axis=-1) == labels)).astype(jnp.float32), weight),
    }


def predict(cfg: Config, keys: TagKeys, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """The most probable label of every token and of every word's first piece, beside what they are compared with."""
    del cfg, keys
    found = jnp.argmax(logits(model, params, batch), axis=-1).astype(jnp.int32)
    return {
        "tag_labels/expected": batch["tag_labels"],
        "tag_labels/predicted": found,
        "word_numbers/number": batch["word_numbers"],
        "word_numbers/predicted": jnp.take_along_axis(found, batch["first_at"], axis=1, mode="clip"),
    }


def word_tags(cfg: Config, record: Record, windows: Predicted) -> list[str]:
    """The predicted tag of each word: its first piece's; O of a word without pieces. They may be invalid IOB2."""
    tags, names = ["O"] * len(words_of(record)), label_names(cfg.model)
    for window in windows:
        for number, label in zip(window["word_numbers/number"], window["word_numbers/predicted"], strict=True):
            tags[int(number)] = names[int(label)]
    return tags


def piece_tags(cfg: Config, windows: Predicted, which: str) -> list[str]:
    """The "expected" or "predicted" tags of a sentence's tokens, from CLS to SEP, without those between its windows."""
    parts = [window[f"tag_labels/{which}"].tolist() for window in windows]
    inner = itertools.chain.from_iterable(part[1:-1] for part in parts)
    found = [parts[0][0], *inner, parts[-1][-1]] if parts else []
    return [cfg.model.labels[label] for label in found]


def score(cfg: Config, keys: TagKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> dict[str, float]:
    """Chunk F1 over pieces, which the paper publishes, and conlleval's over words; nothing where tags are missing.

    `piece_f1` counts as the original does, whose chunks are found among a sentence's pieces, CLS and SEP included: an
    entity is right only if all of its pieces are. `word_f1` is of each word's first piece, with its precision and
    recall: what others report.
    """
    del keys
    if not all("tags" in record.fields for record in records):
        return {}
    pieces = [[piece_tags(cfg, one, which) for one in predictions] for which in ("expected", "predicted")]
    words = [word_tags(cfg, record, one) for record, one in zip(records, predictions, strict=True)]
    by_word = scoring.chunk_f1([record.fields["tags"] for record in records], words)
    return {
        "piece_f1": scoring.chunk_f1(*pieces)["f1"],
        "word_f1": by_word["f1"],
        "word_precision": by_word["precision"],
        "word_recall": by_word["recall"],
    }


def lines(cfg: Config, keys: TagKeys, records: Sequence[Record], predictions: Sequence[Predicted]) -> list[str]:
    """Each word's predicted tag per line, and an empty line between sentences, as XTREME takes it."""
    del keys
    written: list[str] = []
    for record, one in zip(records, predictions, strict=True):
        written += ["", *word_tags(cfg, record, one)]
    return written[1:]


def paper_row(cfg: Config, keys: TagKeys) -> tuple[str, str] | None:
    """The paper's table and setting to print beside; None with other labels or training languages than there."""
    setting = paper_tables.setting("conll", keys.train_languages)
    return None if setting is None or sorted(cfg.model.labels) != sorted(LABELS) else ("conll", setting)


def submission(cfg: Config, keys: TagKeys) -> str:
    """XTREME's name for the three types that it has, WikiAnn's."""
    del keys
    return "panx" if set(types(cfg.model.labels)) == {"PER", "ORG", "LOC"} else "conll"


def given(keys: TagKeys, row: Mapping[str, Any], language: str) -> Record:
    """A user's sentence: a text, which is cut into words, or a list of words."""
    value = row["text"]
    if isinstance(value, str):
        text = keys.text(row, "text")
        spans = word_spans.spans(text)
    elif isinstance(value, list | tuple) and value and all(isinstance(word, str) and word.strip() for word in value):
        text, ends = " ".join(value), np.cumsum([len(word) + 1 for word in value]).tolist()
        spans = [(end - len(word) - 1, end - 1) for word, end in zip(value, ends, strict=True)]
    else:
        raise ValueError("text is neither a text nor a list of words")
    cut = tuple(text[start:end] for start, end in spans)
    return Record((text,), (language,), {"words": cut, "spans": spans})


def answers(
    cfg: Config, keys: TagKeys, records: Sequence[Record], predictions: Sequence[Predicted]
) -> list[dict[str, Any]]:
    """Each sentence's `words`, their `tags`, and its `entities` with type, text and characters in the text.

    There are no entities where the labels are not IOB2.
    """
    del keys
    found = []
    entities_too = is_iob2(cfg.model.labels)
    for record, one in zip(records, predictions, strict=True):
        tags, spans = word_tags(cfg, record, one), record.fields["spans"]
        said: dict[str, Any] = {"words": list(record.fields["words"]), "tags": tags}
        entities = [
            {"type": chunk.type, "start": spans[chunk.start][0], "end": spans[chunk.end - 1][1]}
            for chunk in (scoring.conll_chunks(tags) if entities_too else ())
        ]
        named = [entity | {"text": record.texts[0][entity["start"] : entity["end"]]} for entity in entities]
        found.append(said | ({"entities": named} if entities_too else {}))
    return found


TASK = Task(
    config=TagKeys,
    records=DATA.records,
    examples=examples,
    spec=spec,
    loss=loss,
    requires=requires,
    splits=DATA.splits,
    read=read,
    labels=LABELS,
    languages=tuple(tagged.CODES),
    predict=predict,
    score=score,
    lines=lines,
    submission=submission,
    use=Use(
        inputs=(("text", "words", "tokens"),),
        record=given,
        answers=answers,
        keys={"max_length": 512, "sentences_per_row": 0},
        fixed=NO_DATA,
    ),
    paper=paper_row,
)
