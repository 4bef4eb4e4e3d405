"""CoNLL's task on a small model, sentences for it, and the F1 of tags by a rule of its own."""

import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.finetune import conll
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Record
from tests.conftest import small_tree
from tests.small_models import random_params

TYPES = {"PER": "Property Expression", "ORG": "Module", "LOC": "Class File"}  # words of which the corpus has pieces
SMALL = {"head": "token_classification", "num_labels": 9, "labels": conll.LABELS, "mlm_head": "none"}


def small_config(folder="", paths=(), splits=("dev", "test"), batch_size=2, max_length=64, **keys):
    tree = small_tree(
        languages=("en", "de"),
        objectives={
            "conll": base.tagged_words(
                **dict.fromkeys(("train", "dev", "test"), str(folder)) | dict(paths), max_length=max_length, **keys
            ).to_dict()
        },
        stages={"one": base.stage(steps=4, weights={"conll": 1.0}, warmup_steps=0).to_dict()},
        evals={"conll": base.evaluation("task", objective="conll", splits=splits, batch_size=batch_size).to_dict()},
    )
    tree["model"].update(SMALL)
    return configs.resolve(tree)


def sentence(*tagged, language="en"):
    """`("word", "B-PER"), ...` as a record."""
    words, tags = zip(*tagged, strict=True)
    return Record((" ".join(words),), (language,), {"words": words, "tags": tags, "id": "x:1"})


def drawn(rng, count, language="en"):
    """Sentences whose entities are told by their words, of several pieces and types."""
    made = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.integers(1, 5)):
            words.append(str(rng.choice(["the", "is not", "of", "cannot be", "in"])).split()[0])
            tags.append("O")
            kind = str(rng.choice(list(TYPES)))
            for place, word in enumerate(TYPES[kind].split()):
                words.append(word)
                tags.append(f"{'I' if place else 'B'}-{kind}")
        made.append(sentence(*zip(words, tags, strict=True), language=language))
    return made


def examples_of(record, tokenizer, config):
    return tasks.bind(config, "conll").examples(record, tokenizer, np.random.default_rng(0))


@pytest.fixture(scope="module")
def random(tokenizer):
    config = small_config()
    return config, ErnieM(config.model, config.compute), random_params(config.model)


def plain_chunks(tags):
    """Chunks by a rule of their own: split at every B-, O and change of type."""
    found, current = set(), None
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if current and (prefix in "BO" or kind != current[0]):
            found.add((*current, index))
            current = None
        if prefix != "O" and current is None:
            current = (kind, index)
    return found


def plain_f1(expected, predicted):
    pairs = [(plain_chunks(one), plain_chunks(other)) for one, other in zip(expected, predicted, strict=True)]
    right = sum(len(one & other) for one, other in pairs)
    known, found = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return 100 * right / found, 100 * right / known, 200 * right / (found + known)
