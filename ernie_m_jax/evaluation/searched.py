"""Sentence retrieval as an entry of `config.evals`: parameters in, accuracy of each direction out."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_evals import RetrievalEval
from ernie_m_jax.evaluation import encode, retrieval
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.reporting import files, paper_tables, screen

ENGLISH = ("en", "eng")  # as XTREME and LASER name it


class RetrievalEvaluator:
    """See `Evaluator`. A metric is "en>de", the accuracy of finding German texts by English ones, or a mean.

    "average" is the mean over all directions, "to_en" that of finding English (Tatoeba's figure), "from_en" the other
    way; with `every_layer` also "layer7/average" and the like.
    """

    def __init__(self, name: str, keys: RetrievalEval, config: Config):
        """Reads the parallel set."""
        self.name, self._keys, self._languages = name, keys, config.languages
        self.submission = "tatoeba" if keys.paper else ""
        where = f"evals.{name}.source"
        # Sets within which every language is searched for every other's sentences.
        self._sets: list[Mapping[str, Sequence[str]]] = []
        if retrieval.is_of_pairs(keys.source):
            pairs = retrieval.paired_sentences(keys.source, config.languages, where)
            self._sets = [dict(zip(pair, texts, strict=True)) for pair, texts in pairs.items()]
        else:
            self._sets = [retrieval.aligned_sentences(keys.source, config.languages, where)]

    def run(self, model: Any, params: Any, tokenizer: Any) -> Outcome:
        """Encodes every text once and searches each direction."""
        keys = self._keys
        vectors = functools.partial(
            encode.encode_texts,
            model,
            params,
            tokenizer,
            layer=None if keys.every_layer else keys.layer,
            pooling=keys.pooling,
            max_length=keys.max_length,
            batch_size=keys.batch_size,
        )
        count = model.config.num_layers + 1 if keys.every_layer else 1
        chosen = range(count)[keys.layer] if keys.every_layer else 0
        found: list[list[retrieval.RetrievalResult]] = [[] for _ in range(count)]
        predicted: dict[str, Sequence[str]] = {}  # the index of the English sentence that each one finds
        for sentences in self._sets:
            encoded = {}
            for code, texts in sentences.items():
                encoded[code] = np.reshape(vectors(list(texts)), (count, len(texts), -1))
            for layer, results in enumerate(found):
                unit = {
                    code: retrieval.unit_vectors(all_[layer], code, all_.shape[1]) for code, all_ in encoded.items()
                }
                directions = retrieval.searched(unit, keys.similarity)
                results.append(retrieval.of_found(tuple(unit), directions))
                if layer == chosen and self.submission:
                    predicted |= {
                        f"test-{code}.tsv": [str(index) for index in indices]
                        for (code, other), indices in directions.items()
                        if other in ENGLISH
                    }
        merged = [retrieval.merged(results, self._languages) for results in found]
        metrics = _metrics(merged[chosen])
        if keys.every_layer:
            for layer, result in enumerate(merged):
                means = {name: value for name, value in _metrics(result).items() if ">" not in name}
                metrics |= {f"layer{layer}/{name}": value for name, value in means.items()}
        return Outcome(metrics, predicted)

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The mean over all directions."""
        return metrics.get("average")

    def show(self, metrics: Mapping[str, float], title: str) -> list[Any]:
        """The accuracies as a matrix, and those of every layer where they were asked for."""
        result = result_of(self._languages, metrics)
        tables: list[Any] = [screen.retrieval_table(result.languages, result.matrix / 100, title=f"{title}, %")]
        if layers := by_layer(metrics):
            tables.append(screen.language_table(layers, title=f"{title}: mean by layer, %", mean=False))
            tables.append(f"{title}: {_best_layer(layers, self._keys.layer)}")
        if (found := paper_figures(self._keys, self._languages, metrics)) is not None:
            paper, ours = found
            tables.append(paper_tables.table(*paper, {"ours": ours}, title="tatoeba: the paper's rows and ours"))
        return tables

    def write(self, directory: Path, stem: str, metrics: Mapping[str, float]) -> None:
        """Writes `<stem>.csv` and the heat map `<stem>.png`; `<stem>-layers.csv` of every layer."""
        retrieval.write_retrieval(directory, stem, result_of(self._languages, metrics))
        if layers := by_layer(metrics):
            files.write_rows(directory / f"{stem}-layers.csv", layers)


def result_of(languages: Sequence[str], metrics: Mapping[str, float]) -> retrieval.RetrievalResult:
    """The matrix behind the metrics, the languages in the order of the config's."""
    directions = [name.split(">") for name in metrics if name.count(">") == 1]
    found = {code for direction in directions for code in direction}
    languages = tuple(code for code in languages if code in found)
    matrix = np.full((len(languages), len(languages)), np.nan)
    for one, other in directions:
        matrix[languages.index(one), languages.index(other)] = metrics[f"{one}>{other}"]
    return retrieval.RetrievalResult(languages, matrix)


def paper_figures(
    keys: RetrievalEval, languages: Sequence[str], metrics: Mapping[str, float]
) -> tuple[tuple[str, str], dict[str, float]] | None:
    """The paper's table with its setting, and by language the accuracy of finding English; None of other sets."""
    if not keys.paper or len(languages) > 37:  # its 36 and English
        return None
    directions = {tuple(name.split(">")): value for name, value in metrics.items() if name.count(">") == 1}
    return ("tatoeba", "transfer"), {one: value for (one, other), value in directions.items() if other in ENGLISH}


def _metrics(result: retrieval.RetrievalResult) -> dict[str, float]:
    metrics = {"average": result.average}
    named = [code for code in ENGLISH if code in result.languages]
    if named:
        english = result.languages.index(named[0])
        metrics["to_en"] = float(np.nanmean(result.matrix[:, english]))
        metrics["from_en"] = float(np.nanmean(result.matrix[english]))
    for row, column in np.argwhere(np.isfinite(result.matrix)):
        metrics[f"{result.languages[row]}>{result.languages[column]}"] = float(result.matrix[row, column])
    return metrics


def _best_layer(layers: Mapping[str, Mapping[str, float]], configured: int) -> str:
    """Which layer is best at finding English, or at all where there is none, beside the configured one."""
    name = "to_en" if "to_en" in layers else "average"
    values = layers[name]
    best = max(values, key=lambda layer: values[layer])  # the first of equals
    own = list(values)[configured]
    return f"{name} is best at layer {best}, {values[best]:.1f} %; the configured layer {own} has {values[own]:.1f} %"


def by_layer(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Mean -> layer -> value."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        layer, _, mean = name.partition("/")
        if mean:
            rows.setdefault(mean, {})[layer.removeprefix("layer")] = value
    return rows
