"""The chunked vocabulary: loss, gradients, memory, argmax and sampling against the plain computation."""

import functools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import ErnieM, vocabulary
from ernie_m_jax.model.generation import vocabulary_argmax, vocabulary_sample
from ernie_m_jax.model.heads import tokens_at
from ernie_m_jax.model.loss import vocabulary_cross_entropy
from ernie_m_jax.model.vocabulary import without, words_axis
from ernie_m_jax.objectives import masking
from tests import small_encoder

N, V, H = 24, 103, 16
CHUNKS = [0, 32, 102]  # all at once, with a remainder of 7, with a remainder of 1


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    hidden, embedding = rng.normal(size=(N, H)), rng.normal(size=(V, H))
    labels = rng.integers(0, V, N)
    labels[:3] = (0, 96, V - 1)  # the first word, the first of a remainder, the last
    labels[5::7] = -1
    weights = rng.uniform(0.5, 2.0, N)
    as_f32 = (jnp.asarray(x, jnp.float32) for x in (hidden, embedding, rng.normal(size=V)))
    return (*as_f32, jnp.asarray(labels, jnp.int32), jnp.asarray(weights, jnp.float32))


@pytest.fixture(params=[1, 0], ids=["positions first", "words first"])
def axis(request):
    """Of the words in the logits."""
    return request.param


_jitted = jax.jit(vocabulary_cross_entropy, static_argnums=4, static_argnames="axis")
_argmax = jax.jit(vocabulary_argmax, static_argnums=3, static_argnames="axis")
_sample = jax.jit(vocabulary_sample, static_argnums=(3, 5), static_argnames="axis")


def _chunked(*arguments, axis=1):
    return _jitted(*arguments, axis=axis)


@jax.jit
def _plain(hidden, embedding, bias, labels):
    logits = (jnp.matmul(hidden, embedding.T, preferred_element_type=jnp.float32) + bias).astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return jnp.where(labels >= 0, -picked, 0.0), (labels >= 0) & (logits.argmax(axis=1) == labels)


def _distance(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def _value_and_gradients(function, problem):
    *arrays, labels, weights = problem

    def total(arrays):
        loss, correct = function(*arrays, labels)
        return (loss * weights).sum(), (loss, correct)

    (_, outputs), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(arrays)
    return outputs, gradients


@pytest.fixture(scope="module")
def plain(problem):
    return _value_and_gradients(_plain, problem)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradients_equal_the_plain_ones(axis, problem, plain, chunk):
    (loss, correct), gradients = _value_and_gradients(lambda *a: _chunked(*a, chunk, axis=axis), problem)
    (plain_loss, plain_correct), plain_gradients = plain
    assert loss.dtype == jnp.float32
    assert _distance(loss, plain_loss) < 1e-6
    np.testing.assert_array_equal(correct, plain_correct)
    for ours, expected in zip(gradients, plain_gradients, strict=True):
        assert _distance(ours, expected) < 1e-6


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("room", [3, 7, 8])  # too small for some group, enough for each, all
def test_positions_in_groups_give_the_same_whatever_is_computed_at_once(axis, problem, plain, room, keep):
    labels = problem[3]
    order = np.argsort(np.asarray(labels).reshape(3, 8) < 0, axis=1, kind="stable") + 8 * np.arange(3)[:, None]

    def grouped(hidden, embedding, bias, labels):
        scores = vocabulary_cross_entropy(hidden[order], embedding, bias, labels[order], 32, room, keep, axis=axis)
        back = np.argsort(order.ravel())
        return scores.loss.ravel()[back], scores.correct.ravel()[back]

    (loss, correct), gradients = _value_and_gradients(grouped, problem)
    (plain_loss, plain_correct), plain_gradients = plain
    assert _distance(loss, plain_loss) < 1e-6
    np.testing.assert_array_equal(correct, plain_correct)
    for ours, expected in zip(gradients, plain_gradients, strict=True):
        assert _distance(ours, expected) < 1e-6


@pytest.mark.parametrize("chunk", [1, V, 500])
def test_any_chunk_gives_the_plain_loss(axis, problem, plain, chunk):
    *arrays, labels, _ = problem
    loss, correct = _chunked(*arrays, labels, chunk, axis=axis)
    assert _distance(loss, plain[0][0]) < 1e-6
    np.testing.assert_array_equal(correct, plain[0][1])


def test_correct_finds_the_best_word(problem):
    hidden, embedding, bias, _, _ = problem
    logits = np.asarray(hidden) @ np.asarray(embedding).T + np.asarray(bias)
    best = logits.argmax(axis=1).astype(np.int32)
    assert np.asarray(_chunked(hidden, embedding, bias, best, 32).correct).all()
    assert not np.asarray(_chunked(hidden, embedding, bias, (best + 1) % V, 32).correct).any()


def test_not_scored_positions_give_nothing(axis, problem):
    hidden, embedding, bias, labels, _ = problem
    labels = np.where(np.arange(N) % 2 == 0, -1, np.abs(labels))
    loss, correct = map(np.asarray, _chunked(hidden, embedding, bias, labels, 32, axis=axis))
    assert (loss[::2] == 0).all()
    assert not correct[::2].any()
    assert (loss[1::2] > 0).all()
    total = jax.jit(jax.grad(lambda h, e, b, y: _chunked(h, e, b, y, 32, axis=axis).loss.sum(), argnums=(0, 1, 2)))
    gradient = total(hidden, embedding, bias, labels)
    assert (np.asarray(gradient[0])[::2] == 0).all()
    assert all((np.asarray(part) == 0).all() for part in total(hidden, embedding, bias, np.full_like(labels, -1)))
    # the table's gradient does not depend on what stands at a position that is not scored
    other = total(np.where((labels < 0)[:, None], np.float32(9), hidden), embedding, bias, labels)
    np.testing.assert_allclose(other[1], gradient[1], rtol=1e-6, atol=1e-6)


def test_large_logits_do_not_overflow(axis, problem):
    hidden, embedding, bias, labels, _ = problem
    loss, _ = _chunked(hidden * 1e3, embedding, bias - 1e4, labels, 32, axis=axis)
    plain, _ = _plain(hidden * 1e3, embedding, bias - 1e4, labels)
    np.testing.assert_allclose(loss, plain, rtol=1e-5, atol=1e-2)


def test_bf16_multiplies_in_bf16_and_sums_in_fp32(axis, problem):
    hidden, embedding, bias, labels, _ = problem
    # bf16 values in fp32 arrays: the plain loss in fp32 differs by the order of summation only
    rounded = hidden.astype(jnp.bfloat16)
    table = embedding.astype(jnp.bfloat16).astype(jnp.float32)
    scores = _chunked(rounded, table, bias, labels, 32, axis=axis)
    plain, _ = _plain(rounded.astype(jnp.float32), table, bias, labels)
    assert scores.loss.dtype == jnp.float32
    assert _distance(scores.loss, plain) < 1e-5
    gradient = jax.jit(jax.grad(lambda *a: _chunked(*a, labels, 32, axis=axis).loss.sum(), argnums=(0, 1)))(
        rounded, table, bias
    )
    plain_gradient = jax.jit(jax.grad(lambda *a: _plain(*a, labels)[0].sum(), argnums=(0, 1)))(
        rounded.astype(jnp.float32), table, bias
    )
    assert [x.dtype for x in gradient] == [jnp.bfloat16, jnp.float32]
    assert all(_distance(a, b) < 1e-2 for a, b in zip(gradient, plain_gradient, strict=True))


def test_no_logits_array_is_ever_held(axis):
    n, vocab, width, chunk = 512, 16 * 512 + 77, 32, 512
    shapes = ((n, width), (vocab, width), (vocab,))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)

    def peak(function):
        total = jax.value_and_grad(lambda h, e, b, y: function(h, e, b, y)[0].sum(), argnums=(0, 1, 2))
        return jax.jit(total).lower(*arrays, labels).compile().memory_analysis().temp_size_in_bytes

    ours, plain = peak(lambda *a: _chunked(*a, chunk, axis=axis)), peak(_plain)
    assert plain > n * vocab * 4
    assert ours < 0.25 * n * vocab * 4
    assert ours < 0.25 * plain


@pytest.mark.parametrize("chunk", [0, 32])
def test_argmax(axis, problem, chunk):
    hidden, embedding, bias, _, _ = problem
    ids, log_probs = _argmax(hidden, embedding, bias, chunk, axis=axis)
    plain = jax.nn.log_softmax(hidden @ embedding.T + bias)
    np.testing.assert_array_equal(ids, plain.argmax(axis=1))
    np.testing.assert_allclose(log_probs, plain.max(axis=1), rtol=1e-5, atol=1e-5)
    assert ids.dtype == jnp.int32


def test_argmax_takes_the_first_of_equals(axis):
    bias = np.zeros(400, np.float32)
    bias[[150, 270, 399]] = 1.0
    for chunk in (0, 64, 300):
        generated = _argmax(np.ones((3, 4), np.float32), np.zeros((400, 4), np.float32), bias, chunk, axis=axis)
        np.testing.assert_array_equal(generated.ids, 150)


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 16), (0.7, 0)])
def test_samples_follow_the_softmax(axis, temperature, chunk):
    draws, words = 20_000, 50
    bias = jnp.asarray(np.random.default_rng(1).normal(size=words), jnp.float32)
    arrays = (jnp.zeros((draws, 2)), jnp.zeros((words, 2)), bias)
    ids, log_probs = _sample(*arrays, chunk, jax.random.key(2), temperature, axis=axis)
    expected = draws * np.asarray(jax.nn.softmax(bias / temperature))
    observed = np.bincount(np.asarray(ids), minlength=words)
    # chi-square with 49 degrees of freedom: mean 49, standard deviation 9.9
    assert ((observed - expected) ** 2 / expected).sum() < 49 + 4 * 9.9
    np.testing.assert_allclose(log_probs, jax.nn.log_softmax(bias)[ids], rtol=1e-5, atol=1e-5)
    again, _ = _sample(*arrays, chunk, jax.random.key(2), temperature, axis=axis)
    other, _ = _sample(*arrays, chunk, jax.random.key(3), temperature, axis=axis)
    np.testing.assert_array_equal(ids, again)
    agreement = (np.asarray(ids) == np.asarray(other)).mean()
    assert abs(agreement - ((expected / draws) ** 2).sum()) < 0.02  # that of independent draws


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_samples_do_not_depend_on_the_chunk_or_the_layout(axis, problem, temperature):
    hidden, embedding, bias, _, _ = problem
    whole = _sample(hidden, embedding, bias, 0, jax.random.key(5), temperature)
    for chunk in (1, 32, 50, 102):
        ids, log_probs = _sample(hidden, embedding, bias, chunk, jax.random.key(5), temperature, axis=axis)
        np.testing.assert_array_equal(ids, whole.ids)
        np.testing.assert_allclose(log_probs, whole.log_probs, rtol=1e-5, atol=1e-5)


def test_rows_of_noise_are_independent():
    """The same logits in every row: how often two rows draw the same word is the softmax's own collision rate."""
    rows, words = 4000, 40
    bias = jnp.asarray(np.random.default_rng(3).normal(size=words), jnp.float32)
    ids = np.asarray(_sample(jnp.zeros((rows, 2)), jnp.zeros((words, 2)), bias, 7, jax.random.key(1), 1.0).ids)
    chance = float((jax.nn.softmax(bias) ** 2).sum())
    assert np.mean(ids[1:] == ids[:-1]) == pytest.approx(chance, abs=0.02)
    assert np.mean(ids[64:] == ids[:-64]) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("chunk", [0, 4, 32, 102])
def test_words_that_must_not_be_written_have_no_probability(axis, problem, chunk):
    hidden, embedding, bias, _, _ = problem
    never = (0, 1, 2, 3, V - 1)  # with chunks of 4 the first holds nothing else, with 102 the last
    raised = bias.at[jnp.asarray(never)].add(50.0)  # else no test: they would always win
    logits = np.array(hidden @ embedding.T + bias)
    logits[:, list(never)] = -np.inf
    expected = jax.nn.log_softmax(logits)
    ids, log_probs = _argmax(hidden, embedding, without(raised, never), chunk, axis=axis)
    np.testing.assert_array_equal(ids, expected.argmax(axis=1))
    np.testing.assert_allclose(log_probs, expected.max(axis=1), rtol=1e-5, atol=1e-5)
    ids, log_probs = _sample(hidden, embedding, without(raised, never), chunk, jax.random.key(0), 3.0, axis=axis)
    assert not np.isin(ids, never).any()
    np.testing.assert_allclose(log_probs, expected[np.arange(N), ids], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "axis"), [("cpu", 0), ("gpu", 1), ("tpu", 1)])
def test_words_come_first_in_logits_on_a_cpu_alone(platform, axis):
    devices = np.array([[types.SimpleNamespace(platform=platform)]])
    assert words_axis(types.SimpleNamespace(devices=devices)) == axis


def test_the_model_gives_the_same_either_way(monkeypatch):
    hidden = np.random.default_rng(0).normal(size=(5, small_encoder.CONFIG.hidden_size)).astype(np.float32)
    model = ErnieM(small_encoder.CONFIG, small_encoder.UNROLLED)
    labels = np.arange(5, dtype=np.int32)
    shapes = []
    monkeypatch.setattr(vocabulary, "biased", recorded(vocabulary.biased, shapes))

    def found():
        call = functools.partial(model.apply, {"params": small_encoder.small_params()[0]}, hidden)
        drawn = call(jax.random.key(0), 1.0, method="generate")
        return call(method="predict"), *call(labels, method="score"), *call(None, 0.0, method="generate"), *drawn

    ours, chunk = found(), small_encoder.UNROLLED.vocab_chunk
    assert {shape for shape in shapes if 1 not in shape} == {(chunk, 5), (small_encoder.CONFIG.vocab_size % chunk, 5)}
    monkeypatch.setattr(vocabulary, "words_axis", lambda mesh: 1)
    for one, other in zip(ours, found(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def recorded(function, shapes):
    def call(products, *rest):
        shapes.append(products.shape)
        return function(products, *rest)

    return call


def test_bad_arguments_raise(problem):
    hidden, embedding, bias, labels, _ = problem
    with pytest.raises(ValueError, match=r"\[V, H\], got \(24, 16\) and \(103, 15\)"):
        _chunked(hidden, embedding[:, 1:], bias, labels, 32)
    with pytest.raises(ValueError, match="labels must be"):
        _chunked(hidden, embedding, bias, labels[1:], 32)
    with pytest.raises(ValueError, match="bias must be"):
        vocabulary_argmax(hidden, embedding, bias[1:], 32)
    with pytest.raises(ValueError, match="got -1"):
        vocabulary_sample(hidden, embedding, bias, 32, jax.random.key(0), -1.0)


def test_kept_logits_in_16_bits_are_close(axis, problem, plain):
    def kept(hidden, *rest):
        return vocabulary_cross_entropy(hidden.astype(jnp.bfloat16), *rest, 32, keep=True, axis=axis)

    loss, _ = _value_and_gradients(kept, problem)[0]
    assert _distance(loss, plain[0][0]) < 1e-2


# Labels of six rows with room for 100 predictions: about what is expected, far more in some group, none at all.
@pytest.mark.parametrize("used", [(40,) * 6, (5, 5, 100, 5, 5, 5), (0,) * 6])
def test_predictions_are_scored_whatever_number_a_row_has(used):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(6, 128, H)), jnp.float32)
    at = jnp.asarray(np.sort(rng.permuted(np.tile(np.arange(128), (6, 1)), axis=1)[:, :100]), jnp.int32)
    labels = rng.integers(0, V, (6, 100))
    labels[np.arange(100) >= np.asarray(used)[:, None]] = -1
    table, bias = jnp.asarray(rng.normal(size=(V, H)), jnp.float32), jnp.asarray(rng.normal(size=V), jnp.float32)

    class Encoder(NamedTuple):
        hidden: jax.Array

        def encode(self, inputs, table, deterministic, at):
            assert (inputs, table, deterministic) == ("inputs", "table", False)
            return tokens_at(self.hidden, at)

        def score(self, picked, labels, room):
            assert room < labels.shape[1]  # groups are not computed whole
            return vocabulary_cross_entropy(picked, table, bias, labels, 32, room)

    def sums(hidden):
        batch = {"predict_at": at, "predict_labels": jnp.asarray(labels)}
        found = masking.prediction_sums(
            lambda method: method(Encoder(hidden)), "inputs", "table", batch, 40.0, deterministic=False
        )
        return found["loss"][0], found

    def expected(hidden):
        picked = jnp.take_along_axis(hidden, at[:, :, None], axis=1).reshape(-1, H)
        loss, correct = _plain(picked, table, bias, jnp.asarray(labels).reshape(-1))
        return loss.sum(), {"loss": (loss.sum(), (labels >= 0).sum()), "accuracy": (correct.sum(), (labels >= 0).sum())}

    (_, found), gradient = jax.value_and_grad(sums, has_aux=True)(hidden)
    (_, wanted), plain_gradient = jax.value_and_grad(expected, has_aux=True)(hidden)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-4, atol=1e-5)
