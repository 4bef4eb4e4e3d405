"""Sentence retrieval as an entry of `config.evals`: parameters in, accuracy of each direction out."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_evals import RetrievalEval
from ernie_m_jax.evaluation import encode, retrieval
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.reporting import screen


class RetrievalEvaluator:
    """See `Evaluator`. A metric is "en>de", the accuracy of finding German texts by English ones, or "average"."""

    def __init__(self, name: str, keys: RetrievalEval, config: Config):
        """Reads the parallel set."""
        self.name, self._keys = name, keys
        where = f"evals.{name}.source"
        self._languages = config.languages
        self._pairs: Mapping[tuple[str, str], tuple[list[str], list[str]]] | None = None
        if retrieval.is_of_pairs(keys.source):
            self._pairs = retrieval.paired_sentences(keys.source, config.languages, where)
        else:
            self._sentences = retrieval.aligned_sentences(keys.source, config.languages, where)

    def run(self, model: Any, params: Any, tokenizer: Any) -> Outcome:
        """Encodes every text once and searches each direction."""
        keys = self._keys
        vectors = functools.partial(
            encode.encode_texts,
            model,
            params,
            tokenizer,
            layer=keys.layer,
            pooling=keys.pooling,
            max_length=keys.max_length,
            batch_size=keys.batch_size,
        )
        if self._pairs is not None:
            result = retrieval.retrieval_of_pairs(vectors, self._pairs, self._languages)
        else:
            result = retrieval.retrieval(vectors, self._sentences)
        metrics = {"average": result.average}
        for row, one in enumerate(result.languages):
            for column, other in enumerate(result.languages):
                if np.isfinite(result.matrix[row, column]):
                    metrics[f"{one}>{other}"] = float(result.matrix[row, column])
        return Outcome(metrics)

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The mean over all directions."""
        return metrics.get("average")

    def show(self, metrics: Mapping[str, float], title: str) -> list[Any]:
        """The accuracies as a matrix."""
        result = _result(metrics)
        return [screen.retrieval_table(result.languages, result.matrix / 100, title=f"{title}, %")]

    def write(self, directory: Path, stem: str, metrics: Mapping[str, float]) -> None:
        """Writes `<stem>.csv` and the heat map `<stem>.png`."""
        retrieval.write_retrieval(directory, stem, _result(metrics))


def _result(metrics: Mapping[str, float]) -> retrieval.RetrievalResult:
    """The matrix behind the metrics, which stand in its order."""
    directions = [name.split(">") for name in metrics if ">" in name]
    languages = tuple(dict.fromkeys(code for direction in directions for code in direction))
    matrix = np.full((len(languages), len(languages)), np.nan)
    for one, other in directions:
        matrix[languages.index(one), languages.index(other)] = metrics[f"{one}>{other}"]
    return retrieval.RetrievalResult(languages, matrix)
