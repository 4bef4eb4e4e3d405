"""The fused attention kernels against numpy: values, gradients, dropout, odd shapes, and the exact absence of leaks.

Without a GPU the kernels are interpreted, operation by operation; the gpu-marked tests compile them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import flash_attention as kernels
from ernie_m_jax.model import visibility
from ernie_m_jax.model.dropout import attention_kept
from ernie_m_jax.model.flash_attention import flash_attention
from ernie_m_jax.objectives import btmlm, camlm
from tests.attention_reference import expected, inputs

GPU = jax.default_backend() == "gpu"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")]
# Rows, tokens, heads, width; the last pads both axes of the kernels' blocks.
SHAPES = [(2, 64, 2, 16), (1, 42, 3, 24)]


def _fused(arrays, segments, roles, table, seeds, rate, dtype):
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), table)
    projected, grad = jnp.asarray(np.stack(arrays[:3], axis=2), dtype), jnp.asarray(arrays[3], dtype)
    run = functools.partial(flash_attention, codes=codes, seeds=seeds, dropout_rate=rate, interpret=not GPU)
    out, pull = jax.vjp(jax.jit(run), projected)
    return [np.asarray(out, np.float64), *np.moveaxis(np.asarray(pull(grad)[0], np.float64), 2, 0)]


# Interpreted kernels compile slowly: without `slow` a table and a rate each.
CASES = [
    pytest.param(shape, rate, table, marks=[] if (rate > 0.0) == (table is camlm.TABLE) else pytest.mark.slow)
    for shape in SHAPES
    for rate in (0.0, 0.3)
    for table in (visibility.FULL, camlm.TABLE)
] + [pytest.param(SHAPES[0], 0.3, btmlm.GENERATION, marks=pytest.mark.slow)]
ON_GPU_CASES = [
    pytest.param((2, 512, 12, 64), rate, table, marks=ON_GPU)
    for rate in (0.0, 0.3)
    for table in (visibility.FULL, camlm.TABLE, btmlm.GENERATION)
]


@pytest.mark.parametrize(("shape", "rate", "table"), [*CASES, *ON_GPU_CASES])
def test_values_and_gradients_equal_numpy(shape, rate, table):
    arrays, segments, roles, seeds = inputs(shape, table)
    if GPU:  # the kernels multiply in 16 bits there
        arrays = [np.array(jnp.asarray(x, jnp.bfloat16), np.float32) for x in arrays]
    wanted, blind = expected(arrays, segments, roles, table, seeds, rate)
    found = _fused(arrays, segments, roles, table, seeds, rate, jnp.bfloat16 if GPU else jnp.float32)
    found[0][blind] = wanted[0][blind]
    for one, other in zip(found, wanted, strict=True):
        if GPU:
            assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPES[0], pytest.param((1, 256, 2, 64), marks=ON_GPU)])
@pytest.mark.parametrize(
    ("table", "rate"),
    [
        (camlm.TABLE, 0.3),
        (visibility.FULL, 0.0),
        *(pytest.param(table, 0.0, marks=pytest.mark.slow) for table in (btmlm.GENERATION, btmlm.FROM_PSEUDO)),
    ],
)
def test_nothing_leaks(monkeypatch, shape, table, rate):
    if not GPU:  # several blocks of queries and keys, of which some are passed over
        monkeypatch.setattr(kernels, "FORWARD", kernels.Blocks(16, 16))
        monkeypatch.setattr(kernels, "BACKWARD", kernels.Blocks(16, 16))
    arrays, segments, roles, seeds = inputs(shape, table)
    mask = np.asarray(visibility.visible(segments, segments, roles, roles, table))[:, 0]
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), table)
    query, key, value, _ = (jnp.asarray(x, jnp.bfloat16 if GPU else jnp.float32) for x in arrays)

    def output(key, value, position):
        projected = jnp.stack([query, key, value], axis=2)
        out = flash_attention(projected, codes, seeds, rate, interpret=not GPU)[:, position]
        return (out.astype(jnp.float32) * jnp.arange(1.0, out.shape[-1] + 1)).sum()

    gradient = jax.jit(jax.grad(output, argnums=(0, 1)))
    for position in range(0, shape[1], 5):
        seen = mask[:, position]
        if not seen.any(-1).all():
            continue
        for array in gradient(key, value, position):
            size = np.abs(np.asarray(array, np.float32)).max(axis=(2, 3))
            assert (size[~seen] == 0.0).all()
        assert (size[seen] > 0.0).mean() > (0.5 if rate else 0.999)


def test_dropout_keeps_its_share_and_differs_by_row_head_and_place():
    seeds = jax.random.bits(jax.random.key(0), (4, 4), jnp.uint32)
    at = jnp.arange(256)
    keep = np.asarray(attention_kept(seeds[:, :, None, None], at[:, None], at[None], 0.1), np.float64)
    assert abs(keep.mean() - 0.9) < 1e-3
    # Rows, columns and neighbours are as unlike as chance makes them.
    for axis in (2, 3):
        assert abs(keep.mean(axis=axis) - 0.9).max() < 6 * (0.09 / 256) ** 0.5
        neighbours = np.corrcoef(keep.take(range(255), axis).ravel(), keep.take(range(1, 256), axis).ravel())[0, 1]
        assert abs(neighbours) < 5e-3
    flat = keep.reshape(16, -1)
    alike = np.corrcoef(flat) - np.eye(16)
    assert abs(alike).max() < 6 / 256


def test_too_wide_heads_raise():
    arrays, segments, roles, seeds = inputs((1, 16, 1, 160), visibility.FULL)
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), visibility.FULL)
    with pytest.raises(ValueError, match="heads of up to 128, got 160"):
        flash_attention(jnp.stack(arrays[:3], axis=2), codes, seeds, 0.0, interpret=True)
