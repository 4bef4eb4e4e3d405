"""Attention's softmax: NumPy's values and gradients in an order that suits CPUs, and others' programs as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import attention as attention_module
from ernie_m_jax.model.attention import attention
from ernie_m_jax.model.softmax import softmax
from tests import attention_reference


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (2, 3, 7), (2, 12), (2, 24), (5, 128), (2, 0)])
def test_values_and_gradients_equal_numpy(shape):
    rng = np.random.default_rng(0)
    logits, cotangent = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    logits[0] = np.finfo(np.float32).min  # a row that sees nothing
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    probs = weights / weights.sum(axis=-1, keepdims=True)
    gradient = probs * (cotangent - (probs * cotangent).sum(axis=-1, keepdims=True))
    for function in (softmax, jax.jit(softmax)):
        out, backward = jax.vjp(function, logits)
        np.testing.assert_allclose(out, probs, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(backward(cotangent)[0], gradient, atol=1e-6)


def test_what_is_not_a_number_stays_so_in_its_row_alone():
    logits = np.zeros((3, 16), np.float32)
    logits[0, 5], logits[1, 5] = np.nan, np.inf
    out = jax.jit(softmax)(logits)
    assert np.isnan(out[:2]).all()
    np.testing.assert_array_equal(out[2], np.full(16, 1 / 16))


def test_other_platforms_reduce_whole_rows():
    """Nothing is halved, and no choice has more than one way; XLA removes these, which is seen of a CPU's program."""
    both = jax.jit(lambda logits, cotangent: jax.vjp(softmax, logits)[1](cotangent))
    traced = both.trace(*[jax.ShapeDtypeStruct((64, 128), jnp.float32)] * 2)
    assert "stablehlo.slice" in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("tpu", "cuda"):
        assert "stablehlo.slice" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "conditional" not in traced.lower().compile().as_text()


def test_attention_in_16_bits_is_as_exact_as_with_jax_own_softmax(monkeypatch):
    """Where keys and values have means. Divided after the product with the values, gradients were 30 times worse."""
    rng = np.random.default_rng(0)
    given = [jnp.asarray(rng.standard_normal((1, 64, 2, 32)) + mean, jnp.bfloat16) for mean in (0.0, 3.0, 3.0, 3.0)]
    mask = np.ones((1, 1, 64, 64), bool)
    wanted = attention_reference.plain(
        *[np.asarray(array, np.float32) for array in given[:3]],
        mask,
        np.ones((), bool),
        0.0,
        given[3].astype(np.float32),
    )

    def errors() -> np.ndarray:
        out, backward = jax.vjp(jax.jit(lambda *arrays: attention(*arrays, mask, backend="xla")), *given[:3])
        pairs = zip((out, *backward(given[3])), wanted, strict=True)
        return np.array([np.linalg.norm(np.asarray(got, np.float64) - expected) for got, expected in pairs])

    ours = errors()
    monkeypatch.setattr(attention_module, "softmax", jax.nn.softmax)
    np.testing.assert_array_less(ours, 1.02 * errors())
