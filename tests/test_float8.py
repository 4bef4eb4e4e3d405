"""Products in 8 bits against NumPy's with the same roundings, by ml_dtypes; and what they cost a model."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import batch as batches
from ernie_m_jax.model import ErnieM, Inputs, float8, kernels
from ernie_m_jax.objectives.camlm import TABLE
from ernie_m_jax.sharding import make_mesh
from tests.conftest import small_tree

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2


def rounded(x, dtype):
    """The array with the values that 8 bits have, by NumPy."""
    scale = np.float32(np.abs(x).max()) / np.float32(ml_dtypes.finfo(dtype).max)
    return (x / scale).astype(dtype).astype(np.float64) * scale


def arrays(*shapes, spread=1.0):
    """Normal arrays whose rows differ in size by `spread` orders of magnitude."""
    rng = np.random.default_rng(0)
    sizes = [10 ** (spread * rng.random((shape[0], *(1,) * (len(shape) - 1)))) for shape in shapes]
    return [(size * rng.normal(size=shape)).astype(np.float32) for size, shape in zip(sizes, shapes, strict=True)]


def test_the_product_and_its_gradients_are_those_of_rounded_operands():
    x, kernel, cotangent = arrays((24, 32), (32, 16), (24, 16))
    out, backward = jax.vjp(float8.matmul, x, kernel)
    d_x, d_kernel = backward(jnp.asarray(cotangent))
    x8, kernel8, gradient8 = rounded(x, E4M3), rounded(kernel, E4M3), rounded(cotangent, E5M2)
    for found, wanted in ((out, x8 @ kernel8), (d_x, gradient8 @ kernel8.T), (d_kernel, x8.T @ gradient8)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_roundings_are_as_coarse_as_8_bits():
    x, kernel = arrays((256, 512), (512, 64), spread=0)
    error = float8.matmul(x, kernel) - x @ kernel
    assert 0.01 < np.std(error) / np.std(x @ kernel) < 0.05  # 3 bits of mantissa: 2.6 % of a product's operands


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_are_kept(dtype):
    x, kernel = (jnp.asarray(array, dtype) for array in arrays((4, 6, 32), (32, 4, 8)))
    axes = (((2,), (0,)), ((), ()))
    out, backward = jax.vjp(lambda x, kernel: float8.dot_general(x, kernel, axes), x, kernel)
    assert (out.shape, out.dtype) == ((4, 6, 4, 8), dtype)
    assert [array.dtype for array in backward(out)] == [dtype, dtype]


def test_nothing_but_zeros_and_what_is_not_finite():
    zeros = jnp.zeros((8, 16))
    kernel = arrays((16, 8))[0]
    assert (float8.matmul(zeros, kernel) == 0).all()
    for strange in (np.nan, np.inf):
        assert not np.isfinite(float8.matmul(zeros.at[3, 3].set(strange), kernel)).all()


def test_gradients_too_small_to_scale_are_no_error():
    x, kernel = arrays((8, 16), (16, 8))
    for size in (5e-34, 1e-36, 1e-39):
        _, backward = jax.vjp(float8.matmul, x, kernel)
        assert all(np.isfinite(array).all() for array in backward(jnp.full((8, 8), size)))


def test_only_last_axes_with_first_ones():
    x, kernel = arrays((4, 8), (8, 8))
    with pytest.raises(ValueError, match="the last axes are contracted with the first ones"):
        float8.dot_general(x, kernel, (((0,), (0,)), ((), ())))


@pytest.mark.parametrize("scan", [True, False])
def test_a_model_computes_nearly_the_same_with_the_same_parameters(scan):
    config = configs.resolve(small_tree(compute__scan_layers=scan))
    batch = batches.synthetic(tasks.bind(config, "camlm").spec(), 4, config.model.vocab_size)
    inputs, table = Inputs.of(batch), TABLE
    plain, eighth = (ErnieM(config.model, dataclasses.replace(config.compute, float8=on)) for on in (False, True))
    params = jax.tree.map(lambda x: 5 * x, plain.init(jax.random.key(0), inputs, table)["params"])  # as if trained
    assert jax.tree.structure(params) == jax.tree.structure(eighth.init(jax.random.key(0), inputs, table)["params"])

    def vectors(model):
        return np.asarray(model.apply({"params": params}, inputs, table, method="encode"))

    error = np.std(vectors(eighth) - vectors(plain)) / np.std(vectors(plain))
    assert 0.01 < error < 0.1


def test_a_device_that_does_not_multiply_8_bits_is_named(monkeypatch):
    config = configs.resolve(small_tree(compute__float8=True))
    mesh = make_mesh(config.mesh)
    kernels.check(config.compute, config.model, mesh, 64)  # a CPU computes it, slowly, for trying it out
    monkeypatch.setattr(kernels, "_device", lambda mesh: types.SimpleNamespace(platform="tpu", device_kind="TPU v5e"))
    with pytest.raises(configs.ConfigError, match=r"config\.compute\.float8 is for NVIDIA GPUs from Hopper on, but"):
        kernels.check(config.compute, config.model, mesh, 64)
