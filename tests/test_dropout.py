"""Dropout by hashing: the statistics of its mask, its gradient, and the same mask on any mesh."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import dropout as module
from ernie_m_jax.model.dropout import Dropout, dropout, random_bits

SHAPE = (16, 64, 256)
SIZE = int(np.prod(SHAPE))

_drop_ones = jax.jit(lambda rng, rate: dropout(jnp.ones(SHAPE), rate, rng), static_argnums=1)


def _kept(seed: int, rate: float) -> np.ndarray:
    return np.asarray(_drop_ones(jax.random.key(seed), rate)) > 0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_mean_and_variance(rate):
    out = np.asarray(_drop_ones(jax.random.key(3), rate))
    assert set(np.unique(out)) == {0.0, np.float32(1 / (1 - rate))}
    # The mean of n Bernoulli draws has standard deviation sqrt(rate (1 - rate) / n); 4 of them.
    assert abs((out > 0).mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / SIZE)
    assert abs(out.mean() - 1) < 0.01
    assert abs(out.var() - rate / (1 - rate)) < 0.02 * rate / (1 - rate)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_positions_are_independent(seed):
    kept = _kept(seed, 0.1)
    bound = 4.5 / np.sqrt(SIZE)
    for axis in range(3):
        for distance in (1, 2, 8):
            near = np.take(kept, range(distance, kept.shape[axis]), axis)
            far = np.take(kept, range(kept.shape[axis] - distance), axis)
            assert abs(_correlation(near, far)) < bound * np.sqrt(SIZE / near.size)
    for axis in range(3):  # no row, column or batch entry is dropped more often than its size explains
        others = tuple(other for other in range(3) if other != axis)
        count = SIZE // kept.shape[axis]
        assert np.abs(kept.mean(axis=others) - 0.9).max() < 5 * np.sqrt(0.09 / count)


def test_seeds_are_independent():
    masks = [_kept(seed, 0.1) for seed in range(6)]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs(_correlation(first, second)) < 4.5 / np.sqrt(SIZE)
            # ... nor is one the other with its indices xor-ed, what a hash with a single seed word gives
            flat = first.ravel()[np.arange(SIZE) ^ 1]
            assert abs(_correlation(flat, second)) < 4.5 / np.sqrt(SIZE)


def test_every_bit_is_fair():
    bits = np.asarray(random_bits((1 << 16,), jax.random.key(5)))
    assert len(np.unique(bits)) > 0.999 * bits.size
    for bit in range(32):
        assert abs(((bits >> bit) & 1).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(bits.size)


def test_more_elements_than_a_counter_holds(monkeypatch):
    monkeypatch.setattr(module, "_UINT32", 1 << 9)  # leading axes overflow as they would beyond 2**32 elements
    bits = np.asarray(random_bits((64, 32, 16), jax.random.key(7)))
    assert len(np.unique(bits)) > 0.999 * bits.size
    halves = (bits >> 31).astype(float)
    assert abs(halves.mean() - 0.5) < 4 * 0.5 / np.sqrt(bits.size)
    assert abs(_correlation(halves[1:], halves[:-1])) < 4 / np.sqrt(bits.size)


def test_gradient_has_the_forward_mask():
    x = jax.random.normal(jax.random.key(0), (8, 32))
    out, gradient = jax.jit(lambda x: (dropout(x, 0.3, jax.random.key(1)), jax.grad(_sum_of_drop)(x)))(x)
    np.testing.assert_array_equal(np.asarray(out) != 0, np.asarray(gradient) != 0)
    np.testing.assert_allclose(out, x * gradient, rtol=1e-6)


def _sum_of_drop(x):
    return dropout(x, 0.3, jax.random.key(1)).sum()


@pytest.mark.parametrize(
    "make_key", [jax.random.key, jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")]
)
def test_any_kind_of_key_and_16_bit_values(make_key):
    out = dropout(jnp.ones((64, 64), jnp.bfloat16), 0.1, make_key(0))
    assert out.dtype == jnp.bfloat16
    assert 0.05 < float((out == 0).mean()) < 0.15


def test_module_is_the_identity_when_deterministic():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, deterministic=True), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, deterministic=False), x)
    first, second = (
        Dropout(0.5).apply({}, jnp.ones((32, 32)), deterministic=False, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert (np.asarray(first) != np.asarray(second)).any()


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1.0"):
        dropout(jnp.ones(3), 1.0, jax.random.key(0))
    with pytest.raises(ValueError, match="rng=None"):
        dropout(jnp.ones(3), 0.1, None)


_ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from ernie_m_jax.model.dropout import dropout
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
x, key = jnp.ones((8, 6, 16)), jax.random.key(0)
alone = jax.jit(lambda x: dropout(x, 0.4, key))(x)
for spec in (P("a", None, "b"), P(("a", "b")), P(None, "b", "a")):
    spread = jax.device_put(x, NamedSharding(mesh, spec))
    compiled = jax.jit(lambda x: dropout(x, 0.4, key)).lower(spread).compile()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all"))
    np.testing.assert_array_equal(compiled(spread), alone)
"""


def test_mask_does_not_depend_on_the_mesh():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_MESH], env=_environment() | flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
