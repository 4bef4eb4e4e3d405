"""Visibility and attention: the tables' information flow, the mask, the numbers and the exact absence of leaks."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from ernie_m_jax.config import ComputeConfig, ConfigError, ModelConfig
from ernie_m_jax.model import kernels, visibility
from ernie_m_jax.model.attention import attention, fused_attention
from ernie_m_jax.objectives import btmlm, camlm
from tests import attention_reference

MODEL = base.model("base").to_dict()
B, L, HEADS, WIDTH = 2, 12, 2, 8
SEGMENTS = np.array([[1] * 7 + [2] * 4 + [0], [1] * 3 + [2] * 3 + [3] * 3 + [0] * 3], np.int32)
ROLES = np.array([[0, 0, 1, 1, 2, 3, 3, 0, 1, 2, 3, 0], [0, 1, 2, 0, 1, 3, 2, 1, 0, 0, 0, 0]], np.int32)
_attention = jax.jit(attention, static_argnames=("backend", "dropout_rate"))
# Each way of computing attention: backend, dropout rate (a rate so small that nothing is dropped takes the array path).
PATHS = [("xla", 0.0), ("xla", 1e-9)]


def _mask(table=camlm.TABLE, segments=SEGMENTS, roles=ROLES):
    expected = np.zeros((len(segments), 1, segments.shape[1], segments.shape[1]), bool)
    for row, query, key in np.ndindex(len(segments), segments.shape[1], segments.shape[1]):
        pair = roles[row, query], roles[row, key]
        known = all(0 <= role < len(table) for role in pair)
        expected[row, 0, query, key] = segments[row, query] == segments[row, key] and known and table[pair]
    return expected


@pytest.mark.parametrize("table", [visibility.FULL, btmlm.GENERATION, camlm.TABLE])
def test_visible_is_segment_and_table(table):
    roles = ROLES % len(table)
    mask = jax.jit(lambda s, r: visibility.visible(s, s, r, r, table))(SEGMENTS, roles)
    assert mask.shape == (B, 1, L, L)
    np.testing.assert_array_equal(mask, _mask(table, roles=roles))
    assert mask.any(axis=-1).all()


def test_visible_between_different_queries_and_keys():
    queries = slice(2, 7)
    mask = visibility.visible(SEGMENTS[:, queries], SEGMENTS, ROLES[:, queries], ROLES, camlm.TABLE)
    np.testing.assert_array_equal(mask, _mask()[:, :, queries])


def test_a_role_outside_the_table_sees_and_is_seen_by_nothing():
    roles = np.where(ROLES == 1, 4, np.where(ROLES == 2, -1, ROLES))
    mask = np.asarray(visibility.visible(SEGMENTS, SEGMENTS, roles, roles, camlm.TABLE))
    np.testing.assert_array_equal(mask, _mask(roles=roles))
    assert not mask[:, 0][roles == 4].any()


def test_a_table_of_32_roles():
    table = np.random.default_rng(0).random((32, 32)) < 0.5
    roles = np.arange(32, dtype=np.int32)[None]
    mask = visibility.visible(np.ones_like(roles), np.ones_like(roles), roles, roles, table)
    np.testing.assert_array_equal(mask[0, 0], table)


@pytest.mark.parametrize(
    "table", [np.ones((2, 3), bool), np.ones((2, 2)), np.ones((33, 33), bool), np.ones((0, 0), bool)]
)
def test_a_bad_table_raises(table):
    with pytest.raises(ValueError, match="table"):
        visibility.visible(SEGMENTS, SEGMENTS, ROLES, ROLES, table)


def _reached(table, layers=12):
    """Which roles' inputs can reach a role's output through the layers and their residual connections."""
    step = (table | np.eye(len(table), dtype=bool)).astype(int)
    return np.linalg.matrix_power(step, layers) > 0


def test_camlm_lets_no_word_reach_its_own_slot():
    reached = _reached(camlm.TABLE)
    source_word, target_word, source_slot, target_slot = range(4)
    assert set(np.flatnonzero(reached[source_slot])) == {target_word, source_slot}
    assert set(np.flatnonzero(reached[target_slot])) == {source_word, target_slot}
    assert set(np.flatnonzero(reached[source_word])) == {source_word}
    assert set(np.flatnonzero(reached[target_word])) == {target_word}


def test_generation_lets_no_placeholder_reach_the_source():
    reached = _reached(btmlm.GENERATION)
    assert set(np.flatnonzero(reached[btmlm.SOURCE])) == {btmlm.SOURCE}
    assert reached[btmlm.PLACEHOLDER].all()


def _projections(dtype=jnp.float32, length=L, width=WIDTH):
    return [jax.random.normal(key, (B, length, HEADS, width), dtype) for key in jax.random.split(jax.random.key(0), 3)]


def _plain(query, key, value, mask):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    weights = np.where(mask, np.exp(logits - logits.max(axis=-1, keepdims=True)), 0.0)
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(axis=-1, keepdims=True), value)


@pytest.mark.parametrize(("backend", "rate"), PATHS)
def test_attention_equals_numpy(backend, rate):
    arrays = _projections()
    out = _attention(*arrays, _mask(), backend=backend, dropout_rate=rate, dropout_rng=jax.random.key(1))
    np.testing.assert_allclose(out, _plain(*arrays, _mask()), rtol=1e-5, atol=1e-5)


def test_attention_dropout_drops_probabilities():
    query, key, _ = _projections()
    rate, mask = 0.5, np.ones((B, 1, L, L), bool)
    value = jnp.broadcast_to(jnp.eye(L)[None, :, None, :], (B, L, HEADS, L))  # the output is the probabilities
    query, key = (jnp.concatenate([x, jnp.zeros((*x.shape[:3], L - WIDTH))], axis=-1) for x in (query, key))
    kept, dropped = (
        np.asarray(_attention(query, key, value, mask, backend="xla", dropout_rate=r, dropout_rng=jax.random.key(1)))
        for r in (0.0, rate)
    )
    assert 0.4 < (dropped == 0).mean() < 0.6
    np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, kept / (1 - rate)), rtol=1e-5)


def _leaks(arrays, mask, **options):
    """Largest gradient of any query's output with respect to a key or value that it must not see, and must see."""

    def output(query, key, value, position):
        out = attention(query, key, value, mask, **options)
        return (out[:, position].astype(jnp.float32) * jnp.arange(1.0, out.shape[-1] + 1)).sum()

    gradient = jax.jit(jax.vmap(jax.grad(output, argnums=(1, 2)), in_axes=(None, None, None, 0)))
    length = arrays[0].shape[1]
    by_key, by_value = gradient(*arrays, jnp.arange(length))  # [query position, B, L, heads, head_dim]
    seen = np.transpose(np.asarray(mask)[:, 0], (1, 0, 2))
    leak = max(np.abs(np.asarray(g, np.float32)).max(axis=(3, 4))[~seen].max() for g in (by_key, by_value))
    return leak, np.abs(np.asarray(by_value, np.float32)).max(axis=(3, 4))[seen].min()


@pytest.mark.parametrize(("backend", "rate"), PATHS)
def test_nothing_leaks(backend, rate):
    leak, least = _leaks(_projections(), _mask(), backend=backend, dropout_rate=rate, dropout_rng=jax.random.key(1))
    assert leak == 0.0
    assert least > 0.0


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
def test_cudnn_equals_numpy_and_leaks_nothing():
    arrays = _projections(jnp.bfloat16, length=64, width=64)
    segments = np.repeat(np.array([[1, 2, 2, 0], [1, 1, 2, 3]], np.int32), 16, axis=1)
    roles = np.tile(np.arange(4, dtype=np.int32), (2, 16))
    mask = _mask(segments=segments, roles=roles)
    out = attention(*arrays, mask, backend="cudnn")
    np.testing.assert_allclose(np.asarray(out, np.float32), _plain(*arrays, mask), rtol=2e-2, atol=2e-2)
    # A kernel called by its own name has no batching rule to rely on here: one query position at a time.
    for position in (0, 17, 63):

        def output(key, value, position=position):
            return attention(arrays[0], key, value, jnp.asarray(mask), backend="cudnn")[:, position].sum()

        for gradient in jax.jit(jax.grad(output, argnums=(0, 1)))(*arrays[1:]):
            assert (np.asarray(gradient, np.float32)[~mask[:, 0, position]] == 0).all()


def test_bad_backends_raise():
    with pytest.raises(ValueError, match=r"compute\.attention is 'fast'; allowed: auto, xla, cudnn, flash"):
        attention(*_projections(), _mask(), backend="fast")
    with pytest.raises(ValueError, match="fused_attention's"):
        attention(*_projections(), _mask(), backend="flash")
    with pytest.raises(ValueError, match=r"needs compute\.dtype='bfloat16', got float32"):
        attention(*_projections(), _mask(), backend="cudnn")


WIDE = ModelConfig(**{**MODEL, "hidden_size": 1024, "num_heads": 4})


SIZES = {"one": (1, 1, 1), "data": (8, 1, 1), "tensor": (1, 1, 4)}


@pytest.mark.parametrize(
    ("platform", "kind", "devices", "dtype", "picked"),
    [
        ("cpu", "cpu", "one", "bfloat16", ("xla", "xla", "xla")),
        ("gpu", "NVIDIA H100 80GB HBM3", "one", "bfloat16", ("flash", "xla", "fused")),
        ("gpu", "NVIDIA H100 80GB HBM3", "one", "float32", ("xla", "xla", "xla")),
        ("gpu", "NVIDIA H100 80GB HBM3", "data", "bfloat16", ("flash", "xla", "fused")),
        ("gpu", "NVIDIA H100 80GB HBM3", "tensor", "bfloat16", ("flash", "xla", "xla")),
        ("gpu", "AMD Instinct MI300X", "one", "bfloat16", ("xla", "xla", "xla")),
        ("tpu", "TPU v5 lite", "data", "bfloat16", ("flash", "xla", "xla")),
        ("tpu", "TPU v5 lite", "tensor", "bfloat16", ("xla", "xla", "xla")),  # a head of 64 each
    ],
)
def test_auto_picks_by_device_mesh_heads_and_precision(monkeypatch, platform, kind, devices, dtype, picked):
    device = types.SimpleNamespace(device_kind=kind, platform=platform)
    sizes = dict(zip(("data", "fsdp", "tensor"), SIZES[devices], strict=True))
    mesh = types.SimpleNamespace(devices=np.full(SIZES[devices], device), shape=sizes)
    compute = ComputeConfig(dtype, True, "none", "auto", 0)
    narrow = ModelConfig(**{**MODEL, "hidden_size": 256, "num_heads": 4})
    backends = [kernels.attention_backend(compute, model, mesh) for model in (narrow, WIDE)]
    assert (*backends, kernels.layer_norm_kernel(compute, mesh)) == picked
    kernels.check(compute, narrow, mesh, 128)
    exact = dtype == "bfloat16"
    for key, value, runs in (("attention", "flash", picked[0]), ("layer_norm", "fused", picked[2])):
        asked = dataclasses.replace(compute, **{key: value})
        if runs == value:
            kernels.check(asked, narrow, mesh, 128)
        elif exact:
            with pytest.raises(ConfigError, match=rf"config\.compute\.{key} is '{value}', a kernel for NVIDIA GPUs"):
                kernels.check(asked, narrow, mesh, 128)
    if platform == "tpu" and picked[0] == "flash":
        lengths = (64, 128, 2048, 4096)  # a short row would be computed as 128 tokens, a long one does not fit
        picked_by_length = [kernels.attention_backend(compute, narrow, mesh, length) for length in lengths]
        assert picked_by_length == ["xla", "flash", "flash", "xla"]
    monkeypatch.setattr(kernels, "triton", None)  # a JAX that no longer compiles them
    assert kernels.attention_backend(compute, narrow, mesh) == (picked[0] if platform == "tpu" else "xla")


@pytest.mark.parametrize(
    ("platform", "fsdp", "kept"), [("cpu", 1, True), ("gpu", 1, True), ("gpu", 2, False), ("tpu", 1, False)]
)
def test_logits_are_kept_where_that_costs_no_more_than_themselves(platform, fsdp, kept):
    device = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", platform=platform)
    mesh = types.SimpleNamespace(devices=np.full((1, fsdp, 1), device), shape={"data": 1, "fsdp": fsdp, "tensor": 1})
    compute = ComputeConfig("bfloat16", True, "none", "auto", 0, keep_logits=True)
    assert kernels.keeps_logits(compute, mesh) == kept
    assert not kernels.keeps_logits(dataclasses.replace(compute, keep_logits=False), mesh)


def test_dropout_drops_the_same_whatever_computes_it():
    arrays = _projections(length=32, width=16)
    segments = np.repeat(np.array([[1, 2, 2, 0], [1, 1, 2, 3]], np.int32), 8, axis=1)
    roles = np.zeros_like(segments)
    options = {"dropout_rate": 0.4, "dropout_rng": jax.random.key(3)}
    plain = attention(
        *arrays, visibility.visible(segments, segments, roles, roles, visibility.FULL), backend="xla", **options
    )
    codes = visibility.codes(jnp.asarray(segments), jnp.asarray(roles), visibility.FULL)
    fused = fused_attention([jnp.stack(arrays, axis=2)], codes, **options)
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 12, 20, 24])
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_the_array_path_equals_numpy_whatever_the_number_of_keys(length, rate):
    """Values and gradients, where the keys have halves and where they have none."""
    rng = np.random.default_rng(length)
    query, key, value, grad = (rng.standard_normal((B, length, HEADS, WIDTH)).astype(np.float32) for _ in range(4))
    mask = rng.random((B, 1, length, length)) < 0.7
    mask |= np.eye(length, dtype=bool)
    options = {"dropout_rate": rate, "dropout_rng": jax.random.key(3)}
    shares = np.broadcast_to(np.eye(length, dtype=np.float32)[:, None], (B, length, HEADS, length))
    drawn = attention(np.zeros_like(query), key, shares, mask, backend="xla", **options)
    keep = np.asarray(drawn).swapaxes(1, 2) > 0 if rate else np.ones((), bool)
    function = lambda *arrays: attention(*arrays, mask, backend="xla", **options)  # noqa: E731
    out, gradients = jax.vjp(jax.jit(function), query, key, value)
    expected = attention_reference.plain(query, key, value, mask, keep, rate, grad)
    for got, wanted in zip((out, *gradients(grad)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("length", [7, 24])
def test_the_array_path_takes_logits_whose_exponentials_overflow(length):
    """Far above the others one key is all of it."""
    query = np.full((B, length, HEADS, WIDTH), 100.0, np.float32)
    value = np.random.default_rng(0).standard_normal(query.shape).astype(np.float32)
    for largest in range(length):
        key = np.where(np.arange(length) == largest, 100.0, -100.0).astype(np.float32)
        out = _attention(query, np.broadcast_to(key[:, None, None], query.shape), value, True, backend="xla")
        np.testing.assert_array_equal(out, np.broadcast_to(value[:, largest, None], out.shape))
