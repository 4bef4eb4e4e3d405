"""Layer normalisation, as XLA compiles it and as one kernel: values and gradients against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model.fused_layer_norm import fused_layer_norm
from ernie_m_jax.model.layers import layer_norm

GPU = jax.default_backend() == "gpu"
# Vectors, width, terms; widths that are no power of two, numbers of vectors that no block divides.
SHAPES = [(128, 48, 2), (21, 32, 1), (1, 24, 2), (24, 24, 2), (6, 768, 2)]


def _expected(terms, scale, bias, grad, epsilon):
    total = sum(np.asarray(term, np.float64) for term in terms)
    scale, bias, grad = (np.asarray(x, np.float64) for x in (scale, bias, grad))
    inverse = 1 / np.sqrt(total.var(-1, keepdims=True) + epsilon)
    normal = (total - total.mean(-1, keepdims=True)) * inverse
    scaled = grad * scale
    d_total = inverse * (scaled - scaled.mean(-1, keepdims=True) - normal * (scaled * normal).mean(-1, keepdims=True))
    return normal * scale + bias, d_total, (grad * normal).sum(0), grad.sum(0)


def _kernel(terms, scale, bias, epsilon, dtype):
    return fused_layer_norm(terms, scale, bias, epsilon, dtype, not GPU)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", [layer_norm, _kernel])
def test_values_and_gradients_equal_numpy(shape, function):
    vectors, width, count = shape
    rng = np.random.default_rng(0)
    terms = tuple(jnp.asarray(rng.normal(1.0, 2.0, (vectors, width)), jnp.float32) for _ in range(count))
    scale, bias = (jnp.asarray(rng.standard_normal(width), jnp.float32) for _ in range(2))
    grad = jnp.asarray(rng.standard_normal((vectors, width)), jnp.float32)
    out, pull = jax.vjp(jax.jit(lambda *args: function(*args, 1e-5, "float32")), terms, scale, bias)
    d_terms, d_scale, d_bias = pull(grad)
    expected, d_total, d_scale_expected, d_bias_expected = _expected(terms, scale, bias, grad, 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for d_term in d_terms:
        np.testing.assert_allclose(d_term, d_total, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_scale, d_scale_expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(d_bias, d_bias_expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("function", [layer_norm, _kernel])
def test_terms_keep_their_dtype_and_are_added_in_fp32(function):
    big, small = jnp.full((4, 32), 256.0, jnp.bfloat16), jnp.tile(jnp.asarray([0.5, -0.5], jnp.bfloat16), (4, 16))
    scale, bias = jnp.ones(32), jnp.zeros(32)
    out, pull = jax.vjp(lambda terms: function(terms, scale, bias, 1e-5, "bfloat16"), (big, small))
    np.testing.assert_allclose(np.asarray(out, np.float32), np.tile([1.0, -1.0], (4, 16)), atol=1e-2)
    (gradients,) = pull(out)
    assert {out.dtype, *(gradient.dtype for gradient in gradients)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("width", [768, 1024])
def test_compiled_kernel_equals_numpy_in_16_bits(width):
    rng = np.random.default_rng(0)
    terms = tuple(jnp.asarray(rng.standard_normal((4096, width)), jnp.bfloat16) for _ in range(2))
    scale, bias = (jnp.asarray(rng.standard_normal(width), jnp.float32) for _ in range(2))
    grad = jnp.asarray(rng.standard_normal((4096, width)), jnp.bfloat16)
    out, pull = jax.vjp(jax.jit(lambda *args: _kernel(*args, 1e-5, "bfloat16")), terms, scale, bias)
    d_terms, *d_parameters = pull(grad)
    expected, d_total, *d_expected = _expected(terms, scale, bias, grad, 1e-5)
    pairs = [(out, expected), *((d_term, d_total) for d_term in d_terms), *zip(d_parameters, d_expected, strict=True)]
    for one, other in pairs:
        assert np.linalg.norm(np.asarray(one, np.float64) - other) < 1e-2 * np.linalg.norm(other)
