"""Zero-shot transfer to a labelled task, for `ablation_measures.py`: learned in English, tried in the other languages.

A linear classifier on a text's frozen vector, the mean of its tokens' after one layer, tells to which group of messages
it belongs. It sees English alone; what it gets right in another language, the vectors of the two languages share. After
which layer, development's other languages say.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

PENALTIES = (1e-3, 1e-2, 1e-1)  # on the squared weights; the best in English of development
Encode = Callable[[Sequence[str]], np.ndarray]  # texts -> [layers + 1, N, H]


def fitted(vectors: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Weights [H + 1, classes] of a multinomial logistic regression; the last row is the bias."""
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
    wanted = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(inputs.shape[1], classes)
        logits = inputs @ weights
        slope = inputs.T @ (scipy.special.softmax(logits, axis=1) - wanted) / len(inputs)
        slope[:-1] += penalty * weights[:-1]
        nats = scipy.special.logsumexp(logits, axis=1) - (logits * wanted).sum(axis=1)
        return float(nats.mean() + penalty / 2 * (weights[:-1] ** 2).sum()), slope.ravel()

    start = np.zeros(inputs.shape[1] * classes)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return found.x.reshape(-1, classes)


def accuracy(weights: np.ndarray, vectors: np.ndarray, labels: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(np.argmax(vectors @ weights[:-1] + weights[-1], axis=1) == labels))


def transfer(encode: Encode, tables: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """What is right in the test, after the layer that is best in development's other languages.

    Args:
      encode: gives the vectors of texts.
      tables: "train", "dev" and "test": a column "label" and one per language; train needs the first language alone.

    Returns:
      Percent in the `first` language and in the `others`, their mean; the `layer`; and what the commonest label gives.
    """
    names = sorted(set(tables["train"]["label"]))
    labels = {part: np.array([names.index(label) if label in names else -1 for label in table["label"]])
              for part, table in tables.items()}  # fmt: skip
    first, *others = (name for name in tables["dev"] if name != "label")
    train = encode(tables["train"][first])
    held_out = {part: {code: encode(tables[part][code]) for code in (first, *others)} for part in ("dev", "test")}
    best: dict[str, Any] = {"dev": -1.0}
    for layer, vectors in enumerate(train):
        middle, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6

        def score(weights: np.ndarray, part: str, code: str, layer=layer, middle=middle, spread=spread) -> float:
            return accuracy(weights, (held_out[part][code][layer] - middle) / spread, labels[part])

        fits = [fitted((vectors - middle) / spread, labels["train"], len(names), penalty) for penalty in PENALTIES]
        weights = max(fits, key=lambda fit: score(fit, "dev", first))
        dev = mean(score(weights, "dev", code) for code in others)
        if dev > best["dev"]:
            found = {code: score(weights, "test", code) for code in (first, *others)}
            best = {"layer": layer, "dev": dev, "first": found[first], "others": mean(found[code] for code in others)}
    commonest = np.bincount(labels["train"]).argmax()
    return {**best, "commonest": 100 * float(np.mean(labels["test"] == commonest))}
