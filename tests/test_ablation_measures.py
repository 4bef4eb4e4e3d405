"""The study's measures: values that are known, and a model that is no run's."""

import pathlib
import sys

import numpy as np
import pytest

from benchmarks import ablation_corpus
from ernie_m_jax.predict import Written

sys.path.insert(0, str(pathlib.Path(ablation_corpus.__file__).parent))
import ablation_measures
import ablation_writing


def test_f1_counts_each_token_as_often_as_it_stands_there():
    assert ablation_writing.f1(["a", "a", "b"], ["a", "b", "c"]) == pytest.approx(200 * 2 / 6)
    assert ablation_writing.f1(["a"], ["b"]) == 0.0
    assert ablation_writing.f1([], []) == 0.0


def test_chrf_is_sacrebleus():
    # Recorded: sacrebleu.corpus_chrf(written, [right]).score, sacrebleu 2.6.0.
    written = ["The cat sat on a mat.", "無効な キーです", "völlig anders"]
    right = ["The cat is sitting on the mat.", "キーが無効です", "ganz und gar nicht"]
    assert ablation_writing.chrf(written, right) == pytest.approx(22.654377, abs=1e-4)
    assert ablation_writing.chrf(written[:1], right[:1]) == pytest.approx(28.538577, abs=1e-4)
    assert ablation_writing.chrf(right, right) == pytest.approx(100)
    assert ablation_writing.chrf([""], ["a"]) == 0.0


def test_letters_are_counted_by_the_scripts_of_the_language():
    assert ablation_writing.in_script("Wi-Fi を設定!", "ja") == (3, 7)
    assert ablation_writing.in_script("設定", "ko") == (0, 2)
    assert ablation_writing.in_script("größe 12", "de") == (5, 5)


def test_the_writing_is_compared_with_its_own_translation_and_another(tokenizer):
    right = ["a class name", "the type of a value"]
    found = [Written(text, tuple(tokenizer.tokens(tokenizer.encode_ids(text))), ()) for text in right]
    scores = ablation_writing.quality(tokenizer, right, found, right, "en")
    assert scores["f1"] == scores["chrf"] == scores["script"] == scores["copied"] == 100.0
    assert scores["f1_other"] < 100.0


def test_centred_vectors_are_found_where_each_language_lies_elsewhere():
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(1, 30, 8))
    vectors = {"en": meaning + 9 * rng.normal(size=8), "de": meaning + 9 * rng.normal(size=8)}
    found = ablation_measures.of_layers(vectors)
    assert found["centred_cosine"] == [100.0]
    assert found["cosine"][0] < 50.0
