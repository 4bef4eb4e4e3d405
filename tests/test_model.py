"""The encoder and its heads against plain numpy, and packing and scan, which must not change the numbers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import FULL, ErnieM, Inputs
from ernie_m_jax.objectives.camlm import TABLE as CAMLM
from tests.small_encoder import (
    COMPUTE,
    CONFIG,
    LABELS,
    OWN_KERNELS,
    UNROLLED,
    B,
    L,
    encoded,
    small_inputs,
    small_params,
)

# --- an independent implementation: numpy, fp64, one example and one head at a time ---


def _norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _numpy_layer(x, seen, p):
    attention, heads = p["attention"], []
    for head in range(CONFIG.num_heads):
        query, key, value = (
            x @ attention[name]["kernel"][:, head] + attention[name]["bias"][head] for name in ("query", "key", "value")
        )
        logits = np.where(seen, (query * query.shape[-1] ** -0.5) @ key.T, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value @ attention["output"]["kernel"][head])
    x = _norm(x + sum(heads) + attention["output"]["bias"], p["attention_layer_norm"])
    widened = _dense(_gelu(_dense(x, p["ffn"]["intermediate"])), p["ffn"]["output"])
    return _norm(x + widened, p["ffn_layer_norm"])


def _numpy_encode(params, inputs, table):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    tables = params["embeddings"]
    outputs = np.zeros((CONFIG.num_layers + 1, B, L, CONFIG.hidden_size))
    for row in range(B):
        for segment in np.unique(inputs.segments[row]):
            at = np.flatnonzero(inputs.segments[row] == segment)
            ids, positions, _, roles, languages = (field[row, at] for field in inputs[:5])
            x = tables["word"][ids] + tables["position"][positions + 2]
            for i, language in enumerate(languages):
                if language > 0:
                    x[i] += tables["language"][language - 1]
            x = _norm(x, tables["layer_norm"])
            outputs[0, row, at] = x
            for i in range(CONFIG.num_layers):
                x = _numpy_layer(x, table[np.ix_(roles, roles)], params[f"layers_{i}"])
                outputs[i + 1, row, at] = x
    return outputs


@pytest.mark.parametrize("compute", [COMPUTE, OWN_KERNELS], ids=["xla", "own kernels"])
@pytest.mark.parametrize("table", ["camlm", "full"])
def test_encoder_equals_numpy(table, compute):
    unrolled, scanned = small_params()
    inputs = small_inputs()
    if table == "full":
        inputs = inputs._replace(roles=np.zeros_like(inputs.roles))
    expected = _numpy_encode(unrolled, inputs, {"camlm": CAMLM, "full": FULL}[table])
    out = encoded(compute=compute, all_layers=True, table=table)(scanned, inputs)
    assert out.shape == (CONFIG.num_layers + 1, B, L, CONFIG.hidden_size)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    if table == "camlm":
        np.testing.assert_allclose(encoded(compute=compute)(scanned, inputs), out[-1], rtol=1e-6, atol=1e-6)


def test_heads_equal_numpy():
    params = small_params()[1]
    hidden = np.random.default_rng(2).normal(size=(B, L, CONFIG.hidden_size)).astype(np.float32)
    head, flat = params["mlm_head"], hidden.reshape(B * L, -1)
    logits = (
        _norm(_gelu(_dense(flat, head["dense"])), head["layer_norm"]) @ params["embeddings"]["word"].T + head["bias"]
    )
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    model = ErnieM(CONFIG, COMPUTE)

    @jax.jit
    def ours(params):
        apply = functools.partial(model.apply, {"params": params})
        key = jax.random.key(0)
        return (
            apply(flat, LABELS, method="score"),
            apply(flat, None, 0.0, method="generate"),
            apply(flat, key, 0.7, method="generate"),
            apply(hidden, method="pool"),
        )

    scores, best, drawn, pooled = ours(params)
    expected = np.where(LABELS >= 0, -log_probs[np.arange(B * L), LABELS], 0)
    np.testing.assert_allclose(scores.loss, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scores.correct, (LABELS >= 0) & (logits.argmax(-1) == LABELS))
    np.testing.assert_array_equal(best.ids, logits.argmax(-1))
    np.testing.assert_allclose(best.log_probs, log_probs.max(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(drawn.log_probs, log_probs[np.arange(B * L), drawn.ids], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pooled, np.tanh(_dense(hidden[:, 0], params["pooler"]["dense"])), rtol=1e-5, atol=1e-5)


def test_scan_equals_unrolled():
    unrolled, scanned = small_params()
    ours = encoded(all_layers=True)(scanned, small_inputs())
    np.testing.assert_allclose(
        ours, encoded(compute=UNROLLED, all_layers=True)(unrolled, small_inputs()), rtol=1e-5, atol=1e-5
    )


def test_packing_does_not_change_an_example():
    params, inputs = small_params()[1], small_inputs()
    packed = np.asarray(encoded()(params, inputs))
    for row, segment in ((0, 1), (0, 2), (1, 2), (1, 3)):
        at = np.flatnonzero(inputs.segments[row] == segment)
        alone = []
        for field, padding in zip(inputs[:5], (CONFIG.pad_id, 0, 0, 0, 0), strict=True):
            alone.append(np.full((B, L), padding, np.int32))
            alone[-1][0, : len(at)] = field[row, at]
        out = np.asarray(encoded()(params, Inputs(*alone)))
        np.testing.assert_allclose(out[0, : len(at)], packed[row, at], rtol=1e-5, atol=1e-5)


def test_a_part_that_the_model_does_not_have_is_named():
    config = dataclasses.replace(CONFIG, mlm_head="none", pooler=False)
    params, hidden = {"params": small_params()[1]}, np.zeros((2, 3, CONFIG.hidden_size), np.float32)
    model = ErnieM(config, COMPUTE)
    for method, arguments in (("pool", (hidden,)), ("classify", (hidden,)), ("predict", (hidden[0],))):
        with pytest.raises(ValueError, match=r"model\.(pooler|head|mlm_head) is .*need"):
            model.apply(params, *arguments, method=method)


def test_bad_settings_raise():
    with pytest.raises(
        ValueError, match=r"compute\.remat is 'some'; allowed: none, dots_attention, dots, attention, full"
    ):
        encoded(compute=dataclasses.replace(COMPUTE, remat="some"))(small_params()[1], small_inputs())
    variables, hidden = {"params": small_params()[1]}, jnp.zeros((B, L, CONFIG.hidden_size))
    with pytest.raises(ValueError, match=r"model\.pooler is False"):
        ErnieM(dataclasses.replace(CONFIG, pooler=False), COMPUTE).apply(variables, hidden, method="pool")
    with pytest.raises(ValueError, match="rng=None"):
        ErnieM(CONFIG, COMPUTE).apply(variables, hidden[0], None, 1.0, method="generate")
