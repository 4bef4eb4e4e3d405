"""The attention kernels for TPUs against numpy: values, gradients, dropout, odd shapes, and the exact absence of leaks.

They are interpreted here, operation by operation; tests/test_compile.py has libtpu compile them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import tpu_attention as kernels
from ernie_m_jax.model import visibility
from ernie_m_jax.model.tpu_attention import tpu_attention
from ernie_m_jax.objectives import btmlm, camlm
from tests.attention_reference import expected, inputs

# Rows, tokens, heads, width: four heads a program and padded tokens; two; one; two blocks of queries; one of 512.
SHAPES = [(2, 200, 4, 32), (1, 128, 4, 64), (1, 128, 1, 128), (1, 256, 2, 64), (1, 512, 2, 64)]
CASES = [
    pytest.param(
        shape,
        rate,
        table,
        marks=[] if shape in (SHAPES[0], SHAPES[3]) and (rate > 0.0) == (table is camlm.TABLE) else pytest.mark.slow,
    )
    for shape in SHAPES
    for rate in (0.0, 0.3)
    for table in (visibility.FULL, camlm.TABLE)
] + [pytest.param(SHAPES[0], 0.3, btmlm.GENERATION, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _two_blocks(monkeypatch, request):
    if request.node.callspec.params.get("shape", SHAPES[3]) == SHAPES[3]:
        monkeypatch.setattr(kernels, "_CELLS", kernels.LANES * 256)


def computed(arrays, segments, roles, table, seeds, rate, dtype):
    """Output and gradients of the kernels."""
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), table)
    run = functools.partial(tpu_attention, codes=codes, seeds=seeds, dropout_rate=rate, interpret=True)
    query, key, value, grad = (jnp.asarray(array, dtype) for array in arrays)
    out, pull = jax.vjp(jax.jit(run), query, key, value)
    return [np.array(array, np.float32) for array in (out, *pull(grad))]


@pytest.mark.parametrize(("shape", "rate", "table"), CASES)
def test_values_and_gradients_equal_numpy(shape, rate, table):
    arrays, segments, roles, seeds = inputs(shape, table)
    wanted, blind = expected(arrays, segments, roles, table, seeds, rate)
    found = computed(arrays, segments, roles, table, seeds, rate, jnp.float32)
    found[0][blind] = wanted[0][blind]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPES[0]])
def test_sixteen_bits(shape):
    arrays, segments, roles, seeds = inputs(shape, camlm.TABLE)
    arrays = [np.array(jnp.asarray(array, jnp.bfloat16), np.float32) for array in arrays]
    wanted, blind = expected(arrays, segments, roles, camlm.TABLE, seeds, 0.1)
    found = computed(arrays, segments, roles, camlm.TABLE, seeds, 0.1, jnp.bfloat16)
    found[0][blind] = wanted[0][blind]
    for one, other in zip(found, wanted, strict=True):
        assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(other)


@pytest.mark.parametrize("shape", [SHAPES[1]])
def test_from_a_query_that_sees_nothing_nothing_is_learned(shape):
    arrays, segments, roles, seeds = inputs(shape, camlm.TABLE)
    _, blind = expected([array.copy() for array in arrays], segments, roles, camlm.TABLE, seeds, 0.0)
    arrays[3][~blind] = 0.0
    assert blind.any()
    for array in computed(arrays, segments, roles, camlm.TABLE, seeds, 0.0, jnp.float32)[1:]:
        assert (array == 0.0).all()


@pytest.mark.parametrize(
    ("table", "rate"),
    [
        (camlm.TABLE, 0.3),
        *(pytest.param(table, 0.0, marks=pytest.mark.slow) for table in (visibility.FULL, btmlm.GENERATION)),
        pytest.param(btmlm.FROM_PSEUDO, 0.0, marks=pytest.mark.slow),
    ],
)
def test_nothing_leaks(table, rate):
    shape = SHAPES[3]
    (query, key, value, _), segments, roles, seeds = inputs(shape, table)
    mask = np.asarray(visibility.visible(segments, segments, roles, roles, table))[:, 0]
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), table)

    def output(key, value, position):
        out = tpu_attention(jnp.asarray(query), key, value, codes, seeds, rate, interpret=True)[:, position]
        return (out * jnp.arange(1.0, out.shape[-1] + 1)).sum()

    gradient = jax.jit(jax.grad(output, argnums=(0, 1)))
    checked = 0
    for position in range(0, shape[1], 19):
        seen = mask[:, position]
        if not seen.any(-1).all():
            continue
        checked += 1
        for array in gradient(jnp.asarray(key), jnp.asarray(value), position):
            size = np.abs(np.asarray(array)).max(axis=(2, 3))
            assert (size[~seen] == 0.0).all()
            assert (size[seen] > 0.0).mean() > (0.4 if rate else 0.999)
    assert checked > 5


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 16, 4, 24),
            "each device has 4 heads of 24, and it takes heads of 32, 64 or 128, together a multiple of 128",
        ),
        ((1, 16, 3, 64), "each device has 3 heads of 64"),
        ((1, 8192, 2, 64), "rows have 8192 tokens, and it takes up to 2048"),
    ],
)
def test_what_it_does_not_take_raises(shape, message):
    arrays, segments, roles, seeds = inputs(shape, visibility.FULL)
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), visibility.FULL)
    with pytest.raises(ValueError, match=message):
        tpu_attention(*map(jnp.asarray, arrays[:3]), codes, seeds, 0.0, interpret=True)
