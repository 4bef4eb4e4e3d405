"""Zero-shot evaluation: sentence retrieval between every two languages of a parallel set, or within given pairs.

    source --aligned_sentences--> {language: texts} --encode--> vectors --retrieval--> RetrievalResult --> CSV, PNG
    source --paired_sentences--> {(a, b): texts of both} --encode--> vectors --of_vectors, merged--> the same

After Tatoeba in XTREME: cosine similarity, nearest neighbour, accuracy. `encode` is any function from texts to vectors;
the model's own is `encode.encode_texts`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

from ernie_m_jax.config import ConfigError, SourceConfig
from ernie_m_jax.data import records
from ernie_m_jax.data.records import DataError
from ernie_m_jax.reporting import files

TIE = (
    1e-12  # cosines closer than this are one value: far above float64 rounding, far below what float32 vectors resolve
)
NEIGHBOURS = 4  # of the margin, as in the paper that brought it in
QUERY_ROWS = 1024  # queries compared at a time; bounds the similarity matrix


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Retrieval accuracy between every two languages.

    Attributes:
      languages: the n language codes, in the order of the matrix.
      matrix: float64 [n, n], percent; row = language of the queries, column = language of the candidates; NaN on the
        diagonal and where a pair was not compared.
    """

    languages: tuple[str, ...]
    matrix: np.ndarray

    @property
    def average(self) -> float:
        """Mean over all ordered pairs of two languages, percent."""
        return float(np.nanmean(self.matrix))

    @property
    def per_language(self) -> dict[str, float]:
        """For each language the mean over both directions of all its pairs, percent."""
        both = (np.nanmean(self.matrix, axis=0) + np.nanmean(self.matrix, axis=1)) / 2
        return dict(zip(self.languages, both.tolist(), strict=True))

    @property
    def to_english(self) -> dict[str, float]:
        """For each other language the accuracy of finding the English translation, percent (the Tatoeba figure).

        Empty where English ("en") is not among the languages.
        """
        if "en" not in self.languages:
            return {}
        column = self.matrix[:, self.languages.index("en")].tolist()
        return {language: value for language, value in zip(self.languages, column, strict=True) if language != "en"}

    def write(self, directory: epath.PathLike, name: str = "retrieval") -> None:
        """Writes `<name>.csv` and `<name>.png`; see `write_retrieval`."""
        write_retrieval(directory, name, self)


def retrieval(
    encode: Callable[[list[str]], np.ndarray], sentences: Mapping[str, Sequence[str]], similarity: str = "cosine"
) -> RetrievalResult:
    """Searches each sentence's translation in every other language: the most similar vector.

    A query counts as right when the first of its nearest candidates is the sentence with its own index. So among equal
    candidates (a sentence that stands twice, or any tie) the first index wins, and a zero vector, as far from every
    candidate as from any other, finds index 0.

    Args:
      encode: texts to vectors, [N, H]; called once per language.
      sentences: the texts of each language; the same index is the same meaning.
      similarity: see `nearest`.

    Returns:
      The accuracies of all ordered pairs of languages.

    Raises:
      ValueError: fewer than two languages, no sentences, unequal counts, or vectors of a wrong shape or not finite.
    """
    languages = tuple(sentences)
    if len(languages) < 2:
        raise ValueError(f"retrieval needs at least 2 languages, got {list(languages)}")
    _check_counts({language: len(texts) for language, texts in sentences.items()})
    vectors = {
        language: unit_vectors(encode(list(texts)), language, len(texts)) for language, texts in sentences.items()
    }
    return of_vectors(vectors, similarity)


def of_vectors(vectors: Mapping[str, np.ndarray], similarity: str = "cosine") -> RetrievalResult:
    """As `retrieval`, of unit vectors float64 [N, H] for each language."""
    return of_found(tuple(vectors), searched(vectors, similarity))


Found = Mapping[tuple[str, str], np.ndarray]


def searched(vectors: Mapping[str, np.ndarray], similarity: str = "cosine") -> Found:
    """For every two languages, queries' and candidates', the index of each query's nearest candidate, int [N]."""
    return {
        (row, column): nearest(vectors[row], vectors[column], similarity)
        for row, column in itertools.permutations(vectors, 2)
    }


def of_found(languages: tuple[str, ...], found: Found) -> RetrievalResult:
    """The accuracies of what was found: right is the query's own index."""
    matrix = np.full((len(languages), len(languages)), np.nan)
    for (row, column), indices in found.items():
        right = np.mean(indices == np.arange(len(indices)))
        matrix[languages.index(row), languages.index(column)] = 100.0 * right
    return RetrievalResult(languages, matrix)


def merged(results: Sequence[RetrievalResult], languages: Sequence[str]) -> RetrievalResult:
    """Results of several sets as one, NaN where no set has both languages.

    Args:
      results: of sets that share no direction.
      languages: in the order that the result's are to have; those of no set are left out.
    """
    found = tuple(language for language in languages if any(language in result.languages for result in results))
    matrix = np.full((len(found), len(found)), np.nan)
    for result in results:
        places = [found.index(language) for language in result.languages]
        finite = np.isfinite(result.matrix)
        matrix[np.ix_(places, places)] = np.where(finite, result.matrix, matrix[np.ix_(places, places)])
    return RetrievalResult(found, matrix)


def nearest(queries: np.ndarray, candidates: np.ndarray, similarity: str = "cosine") -> np.ndarray:
    """Returns for each unit vector in `queries` [Q, H] the index of its nearest in `candidates` [C, H]: int [Q].

    "cosine" is the paper's. "margin" divides it by the mean cosine of both with their nearest neighbours on the other
    side (Artetxe and Schwenk 2019), so that vectors which are near to everything are not found by everything.
    Similarities within `TIE` of the best are ties, and the first index wins; without this the outcome between two equal
    candidates would depend on how the matrix product rounds at their places.
    """
    found = np.empty(len(queries), np.int64)
    near = (
        (_neighbourhood(queries, candidates), _neighbourhood(candidates, queries)) if similarity == "margin" else None
    )
    for start in range(0, len(queries), QUERY_ROWS):
        cosines = queries[start : start + QUERY_ROWS] @ candidates.T
        if near is not None:
            cosines /= (near[0][start : start + QUERY_ROWS, None] + near[1][None]) / 2
        best = cosines.max(axis=1, keepdims=True)
        found[start : start + QUERY_ROWS] = np.argmax(cosines >= best - TIE, axis=1)
    return found


def _neighbourhood(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean cosine of each vector with its `NEIGHBOURS` nearest among the others, float64 [N]."""
    means = np.empty(len(vectors))
    count = min(NEIGHBOURS, len(others))
    for start in range(0, len(vectors), QUERY_ROWS):
        cosines = vectors[start : start + QUERY_ROWS] @ others.T
        means[start : start + QUERY_ROWS] = np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1)
    return means


def aligned_sentences(
    source: SourceConfig, languages: Sequence[str], name: str = "retrieval.source"
) -> dict[str, list[str]]:
    """Reads a parallel set whose rows hold one meaning in all of `languages`.

    Read pair by pair, the first language with each other; the first language's texts must come out the same each time.

    Args:
      source: the set; `pairs` must be empty, since every language is compared with every other one.
      languages: the configured codes; `source.languages`, where there are any, selects from them.
      name: of the set in the config, for messages.

    Returns:
      The texts of each language, in the order of the languages; the same index is the same meaning.

    Raises:
      ConfigError: fewer than two languages, one named twice, or pairs.
      DataError: the source cannot be read, or its rows are not aligned over all languages.
    """
    wanted = tuple(source.languages or languages)
    if len(wanted) < 2 or len(set(wanted)) < len(wanted):
        raise ConfigError(f"{name} needs at least 2 languages, each once; got {list(wanted)}")
    if source.pairs:
        raise ConfigError(
            f"{name}.pairs is {list(source.pairs)}; it must be empty, for every language of "
            f"{name}.languages is compared with every other one"
        )
    first, *others = wanted
    pairs = {other: f"{first}-{other}" for other in others}
    source = dataclasses.replace(source, pairs=tuple(pairs.values()))
    opened = records.open_source(name, source, tuple(languages), "parallel")
    texts = {other: [opened[pair][i].texts for i in range(len(opened[pair]))] for other, pair in pairs.items()}
    try:
        _check_counts({pairs[other]: len(rows) for other, rows in texts.items()})
    except ValueError as error:
        raise DataError(f"{source.path}: {error}") from None
    aligned = {first: [text for text, _ in texts[others[0]]]}
    for other, rows in texts.items():
        for i, (text, _) in enumerate(rows):
            if text != aligned[first][i]:
                raise DataError(
                    f"{source.path}: sentence {i} of {pairs[other]} has {text!r} in {first!r}, but "
                    f"{pairs[others[0]]} has {aligned[first][i]!r}; all languages must be aligned row by row"
                )
        aligned[other] = [translation for _, translation in rows]
    return aligned


def is_of_pairs(source: SourceConfig) -> bool:
    """Whether a parallel set holds pairs of languages that are not aligned with each other: files or pairs say so."""
    return bool(source.pairs) or "{pair}" in source.path or source.format == "moses" or "{language}" in source.path


def paired_sentences(
    source: SourceConfig, languages: Sequence[str], name: str
) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """Reads a parallel set whose pairs stand for themselves, such as OPUS's or Tatoeba's.

    Args:
      source: the set; every pair of its languages is read, or those of `pairs`.
      languages: the configured codes.
      name: of the set in the config, for messages.

    Returns:
      The texts of both sides of each pair.

    Raises:
      DataError: the source cannot be read.
    """
    opened = records.open_source(name, source, tuple(languages), "parallel")
    found = {}
    for pair, sequence in opened.items():
        texts = [sequence[index].texts for index in range(len(sequence))]
        found[records.split_pair(pair, tuple(languages))] = ([one for one, _ in texts], [other for _, other in texts])
    return found


def write_retrieval(directory: epath.PathLike, name: str, result: RetrievalResult) -> None:
    """Writes `<name>.csv` (fractions, a row for each language of the queries) and `<name>.png` (heat map, percent)."""
    fractions = result.matrix / 100.0  # what `files` takes
    files.write_csv(epath.Path(directory) / f"{name}.csv", result.languages, fractions)
    title = f"Sentence retrieval, {name}: {result.average:.1f} %"
    files.heat_map(epath.Path(directory) / f"{name}.png", result.languages, fractions, title)


def _check_counts(counts: Mapping[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{language} {count}" for language, count in counts.items())
        raise ValueError(f"all languages must be aligned row by row, but the numbers of sentences differ: {listed}")
    if not all(counts.values()):
        raise ValueError(f"no sentences to compare in {', '.join(counts)}")


def unit_vectors(encoded: np.ndarray, language: str, count: int) -> np.ndarray:
    """One language's `count` vectors [N, H] as float64 of length 1; zero vectors stay zero.

    Raises:
      ValueError: another shape.
      DataError: numbers that are not finite.
    """
    vectors = np.asarray(encoded, np.float64)
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"encode returned shape {vectors.shape} for {count} {language!r} texts; expected [N, H]")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise records.DataError(f"{len(bad)} of {count} {language!r} vectors are not finite, first at index {bad[0]}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
