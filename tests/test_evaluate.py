import csv
import dataclasses
import itertools
import re

import numpy as np
import pytest

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.evaluation import retrieval


def lookup(vectors):
    """An `encode` that reads each text's vector from a table."""
    return lambda texts: np.array([vectors[text] for text in texts], np.float32)


def reference(vectors_by_language):
    """Accuracy in percent by loops: cosine of every query with every candidate, first best index."""
    languages = list(vectors_by_language)
    matrix = np.full((len(languages), len(languages)), np.nan)
    for (i, a), (j, b) in itertools.permutations(enumerate(languages), 2):
        right = 0
        for index, query in enumerate(vectors_by_language[a]):
            cosines = [
                np.dot(query, other) / (np.linalg.norm(query) * np.linalg.norm(other))
                for other in vectors_by_language[b]
            ]
            right += int(np.argmax(cosines)) == index
        matrix[i, j] = 100.0 * right / len(vectors_by_language[a])
    return matrix


def run(vectors_by_language):
    table, sentences = {}, {}
    for language, vectors in vectors_by_language.items():
        sentences[language] = [f"{language}{i}" for i in range(len(vectors))]
        table.update(zip(sentences[language], vectors, strict=True))
    return retrieval.retrieval(lookup(table), sentences)


def test_hand_made_vectors_give_the_known_accuracy_in_each_direction():
    # de 0 and de 1 both point to en 0, so one of two German queries is right; both English ones find their own.
    result = run({"en": [[1.0, 0.0], [0.0, 1.0]], "de": [[5.0, 0.0], [0.8, 0.7]]})
    assert result.languages == ("en", "de")
    np.testing.assert_array_equal(result.matrix, [[np.nan, 100.0], [50.0, np.nan]])
    assert result.average == 75.0
    assert result.per_language == {"en": 75.0, "de": 75.0}
    assert result.to_english == {"de": 50.0}


def test_all_ordered_pairs_agree_with_a_loop_over_cosines():
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(40, 6))
    noise = {"en": 0.1, "de": 0.8, "fr": 1.2, "sw": 3.0}
    vectors = {
        k: (meaning + s * rng.normal(size=meaning.shape)) * rng.uniform(0.1, 9, (40, 1)) for k, s in noise.items()
    }
    result = run(vectors)
    expected = reference(vectors)
    assert not np.allclose(expected, expected.T, equal_nan=True)  # or a swapped direction would go unseen
    np.testing.assert_allclose(result.matrix, expected, atol=1e-9)
    off_diagonal = [expected[i, j] for i, j in itertools.permutations(range(4), 2)]
    assert result.average == pytest.approx(np.mean(off_diagonal))
    sw = [expected[3, j] for j in range(3)] + [expected[j, 3] for j in range(3)]
    assert result.per_language["sw"] == pytest.approx(np.mean(sw))
    assert result.to_english == {k: pytest.approx(expected[i, 0]) for i, k in enumerate(noise) if k != "en"}


def test_permuted_candidates_count_only_where_the_permutation_leaves_them():
    vectors = np.eye(6)
    result = run({"de": vectors, "fr": vectors[[0, 2, 1, 3, 5, 4]]})
    np.testing.assert_allclose(result.matrix, [[np.nan, 100 / 3], [100 / 3, np.nan]])
    assert result.to_english == {}


def test_among_equal_candidates_the_first_index_wins():
    # The same candidate three times: one of three identical queries is right.
    result = run({"en": [[1.0, 2.0, 3.0]] * 3, "de": [[1.0, 2.0, 3.0]] * 3})
    np.testing.assert_allclose(result.matrix, [[np.nan, 100 / 3], [100 / 3, np.nan]])


def test_equal_candidates_tie_whatever_their_place_in_the_matrix_product():
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(retrieval.QUERY_ROWS + 37, 53))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    candidates = np.concatenate([queries[:301]] * 3)  # every candidate again 301 and 602 places on
    expected = np.argmax(queries @ queries[:301].T, axis=1)
    np.testing.assert_array_equal(retrieval.nearest(queries, candidates), expected)


def test_a_zero_vector_finds_index_0():
    result = run({"en": [[1.0, 0.0], [0.0, 0.0]], "de": [[1.0, 0.0], [0.0, 1.0]]})
    # en 1 is zero, finds de 0: wrong. de 1 is orthogonal to en 0 and to the zero vector: a tie that index 0 wins.
    np.testing.assert_array_equal(result.matrix, [[np.nan, 50.0], [50.0, np.nan]])


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ({"en": ["a"]}, "at least 2 languages"),
        ({"en": ["a", "b"], "de": ["c"]}, "differ: en 2, de 1"),
        ({"en": [], "de": []}, "no sentences"),
    ],
)
def test_sentences_that_cannot_be_compared_are_refused(sentences, message):
    with pytest.raises(ValueError, match=message):
        retrieval.retrieval(lambda texts: np.ones((len(texts), 2)), sentences)


def test_vectors_that_are_not_finite_or_too_few_are_refused():
    sentences = {"en": ["a", "b"], "de": ["c", "d"]}
    with pytest.raises(ValueError, match="1 of 2 'en' vectors are not finite, first at index 1"):
        retrieval.retrieval(lambda texts: np.array([[1.0], [np.nan]]), sentences)
    with pytest.raises(ValueError, match=re.escape("shape (1, 3) for 2 'en' texts")):
        retrieval.retrieval(lambda texts: np.ones((1, 3)), sentences)


def write_table(path, header, rows):
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    return SourceConfig(path=str(path), format="tsv", languages=(), pairs=(), columns=(), split="")


ROWS = [("one", "eins", "un"), ("two", "zwei", "deux"), ("two", "zwei Stück", "une paire"), ("three", "drei", "trois")]


def test_aligned_sentences_reads_all_languages_of_a_wide_table(tmp_path):
    source = write_table(tmp_path / "wide.tsv", ("en", "de", "fr"), ROWS)
    aligned = retrieval.aligned_sentences(source, ("de", "fr", "en"))
    assert list(aligned) == ["de", "fr", "en"]
    assert aligned == {
        "en": ["one", "two", "two", "three"],
        "de": ["eins", "zwei", "zwei Stück", "drei"],
        "fr": ["un", "deux", "une paire", "trois"],
    }


def test_the_source_selects_from_the_configured_languages(tmp_path):
    source = write_table(tmp_path / "wide.tsv", ("en", "de", "fr"), ROWS)
    source = dataclasses.replace(source, languages=("fr", "en"))
    assert list(retrieval.aligned_sentences(source, ("en", "de", "fr"))) == ["fr", "en"]
    with pytest.raises(retrieval.DataError, match=r"fr not among the configured ones: en, de"):
        retrieval.aligned_sentences(source, ("en", "de"))


def test_aligned_sentences_refuses_too_few_languages_and_pairs(tmp_path):
    source = write_table(tmp_path / "wide.tsv", ("en", "de", "fr"), ROWS)
    for languages in (("en",), ("en", "de", "en")):
        with pytest.raises(retrieval.ConfigError, match="at least 2 languages, each once"):
            retrieval.aligned_sentences(source, languages)
    with pytest.raises(retrieval.ConfigError, match=r"retrieval.source.pairs is \['en-de'\]; it must be empty"):
        retrieval.aligned_sentences(dataclasses.replace(source, pairs=("en-de",)), ("en", "de"))


def test_a_row_without_one_of_the_languages_is_refused(tmp_path):
    source = write_table(tmp_path / "wide.tsv", ("en", "de", "fr"), [*ROWS, ("four", "vier", "")])
    with pytest.raises(retrieval.DataError, match=r"wide.tsv: .* numbers of sentences differ: en-de 5, en-fr 4"):
        retrieval.aligned_sentences(source, ("en", "de", "fr"))


def test_aligned_sentences_refuses_rows_that_do_not_match(monkeypatch):
    def pretend(pairs):
        found = {
            pair: [retrieval.records.Record(row, tuple(pair.split("-"))) for row in rows]
            for pair, rows in pairs.items()
        }
        monkeypatch.setattr(retrieval.records, "open_source", lambda *_: found)

    source = SourceConfig(path="x.tsv", format="tsv", languages=(), pairs=(), columns=(), split="")
    pretend({"en-de": [("a", "A"), ("b", "B")], "en-fr": [("a", "A")]})
    with pytest.raises(ValueError, match=re.escape("x.tsv: all languages must be aligned") + ".*en-de 2, en-fr 1"):
        retrieval.aligned_sentences(source, ("en", "de", "fr"))
    pretend({"en-de": [("a", "A"), ("b", "B")], "en-fr": [("a", "A"), ("c", "C")]})
    with pytest.raises(ValueError, match="sentence 1 of en-fr has 'c' in 'en', but en-de has 'b'"):
        retrieval.aligned_sentences(source, ("en", "de", "fr"))


def test_write_retrieval_leaves_a_table_and_a_picture(tmp_path):
    matrix = np.array([[np.nan, 100.0, 100 / 3], [50.0, np.nan, 0.0], [25.0, 12.5, np.nan]])
    retrieval.write_retrieval(tmp_path / "new", "step_10", retrieval.RetrievalResult(("en", "de", "fr"), matrix))
    rows = list(csv.reader((tmp_path / "new" / "step_10.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0][1:] == ["en", "de", "fr"]
    assert [row[0] for row in rows[1:4]] == ["en", "de", "fr"]
    read = [[float(cell) if cell else np.nan for cell in row[1:4]] for row in rows[1:4]]
    np.testing.assert_allclose(read, matrix / 100)
    assert (tmp_path / "new" / "step_10.png").read_bytes().startswith(b"\x89PNG")
