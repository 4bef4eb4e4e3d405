"""Zero-shot transfer of the study: a classifier that sees one language alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import ablation_corpus  # noqa: F401 - puts the benchmarks' folder on the path
from benchmarks.ablation_measures import ablation_transfer

CODES = ("en", "de", "fr")
rng = np.random.default_rng(0)
CENTRES = 4 * rng.normal(size=(3, 8))


def tables(sizes):
    made = {}
    for part, size in sizes.items():
        labels = rng.integers(0, 3, size)
        texts = {code: [f"{code} {label} {part} {n}" for n, label in enumerate(labels)] for code in CODES}
        made[part] = {"label": [f"group{label}" for label in labels], **texts}
    return made


def encode(texts):
    """Layer 0 is noise; in layer 1 a text lies near its label's centre, in French near another label's."""
    found = []
    for text in texts:
        code, label, *_ = text.split()
        found.append(CENTRES[(int(label) + (code == "fr")) % 3] + rng.normal(size=8))
    return np.stack([rng.normal(size=(len(texts), 8)), np.array(found)])


def test_what_the_languages_share_is_transferred_and_nothing_else():
    found = ablation_transfer.transfer(encode, tables({"train": 200, "dev": 100, "test": 100}))
    assert found["layer"] == 1
    assert found["first"] > 95
    assert 40 < found["others"] < 60  # German as English, French never
    assert 20 < found["commonest"] < 50


def test_a_label_that_training_lacks_is_never_right():
    made = tables({"train": 100, "dev": 50, "test": 50})
    made["test"]["label"] = ["another"] * 50
    found = ablation_transfer.transfer(encode, made)
    assert found["first"] == found["others"] == 0


def test_the_classifier_minimises_the_penalised_cross_entropy():
    vectors, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    weights = ablation_transfer.fitted(vectors, labels, 3, 0.1)

    def loss(weights):
        logits = jnp.asarray(vectors) @ weights[:-1] + weights[-1]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()
        return nats + 0.05 * (weights[:-1] ** 2).sum()

    assert np.abs(jax.grad(loss)(jnp.asarray(weights, jnp.float32))).max() < 1e-3
    others = [weights + 0.05 * rng.normal(size=weights.shape) for _ in range(5)]
    assert all(loss(other) > loss(weights) for other in others)
    right = np.mean(np.argmax(vectors @ weights[:-1] + weights[-1], axis=1) == labels)
    assert ablation_transfer.accuracy(weights, vectors, labels) == pytest.approx(100 * right)
