"""The encoder and its heads against plain numpy, and what must not change the numbers: packing, scan, remat."""

import dataclasses
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.model import FULL, ErnieM, Inputs
from ernie_m_jax.objectives.camlm import TABLE as CAMLM
from tests.attention_reference import kernel_calls

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    ffn_size=24,
    max_positions=20,
    first_position=2,
    pad_id=1,
    layer_norm_eps=1e-5,
    initializer_range=0.02,
    hidden_dropout=0.1,
    attention_dropout=0.1,
    num_languages=3,
    language_embedding="slots",
    num_token_types=0,
    pooler=True,
    mlm_head="dense",
    head="none",
    num_labels=2,
)
COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16)
OWN_KERNELS = dataclasses.replace(COMPUTE, attention="flash", layer_norm="fused")
UNROLLED = dataclasses.replace(COMPUTE, scan_layers=False)
B, L = 2, 12
LABELS = np.arange(B * L, dtype=np.int32) * 2 - 1  # the first is not scored


def _inputs() -> Inputs:
    """Packed rows with CAMLM's roles: two examples in the first row, three in the second, padding at both ends."""
    segments = np.array([[1] * 7 + [2] * 4 + [0], [1] * 3 + [2] * 3 + [3] * 4 + [0] * 2], np.int32)
    roles = np.array([[0, 0, 1, 1, 2, 3, 3, 0, 1, 2, 3, 0], [0, 1, 2, 0, 1, 3, 0, 1, 1, 2, 0, 0]], np.int32)
    positions = np.array([[0, 1, 2, 3, 1, 2, 3, 0, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1, 0, 1, 2, 0, 0, 0]], np.int32)
    ids = np.random.default_rng(0).integers(4, CONFIG.vocab_size, (B, L)).astype(np.int32)
    languages = np.where(roles >= 2, 1 + ids % CONFIG.num_languages, 0).astype(np.int32)
    return Inputs(np.where(segments == 0, CONFIG.pad_id, ids), positions, segments, roles, languages)


@functools.cache
def _params():
    """Parameters of the unrolled and of the scanned model, the same; every bias and LayerNorm away from 0 and 1."""
    shapes = jax.eval_shape(ErnieM(CONFIG, UNROLLED).init, jax.random.key(0), _inputs(), CAMLM)["params"]
    rng = np.random.default_rng(1)
    unrolled = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.4, nn.meta.unbox(shapes))
    layers = [unrolled[f"layers_{i}"] for i in range(CONFIG.num_layers)]
    rest = {name: part for name, part in unrolled.items() if not name.startswith("layers_")}
    return unrolled, rest | {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}


@functools.cache
def _encoder(config=CONFIG, compute=COMPUTE, **options):
    model = ErnieM(config, compute)
    table = options.pop("table", "camlm")
    table = {"camlm": CAMLM, "full": FULL}[table]
    return jax.jit(lambda params, inputs: model.apply({"params": params}, inputs, table, method="encode", **options))


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
    unrolled, scanned = _params()
    inputs = _inputs()
    if table == "full":
        inputs = inputs._replace(roles=np.zeros_like(inputs.roles))
    expected = _numpy_encode(unrolled, inputs, {"camlm": CAMLM, "full": FULL}[table])
    out = _encoder(compute=compute, all_layers=True, table=table)(scanned, inputs)
    assert out.shape == (CONFIG.num_layers + 1, B, L, CONFIG.hidden_size)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    if table == "camlm":
        np.testing.assert_allclose(_encoder(compute=compute)(scanned, inputs), out[-1], rtol=1e-6, atol=1e-6)


def test_heads_equal_numpy():
    params = _params()[1]
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
    unrolled, scanned = _params()
    ours = _encoder(all_layers=True)(scanned, _inputs())
    np.testing.assert_allclose(
        ours, _encoder(compute=UNROLLED, all_layers=True)(unrolled, _inputs()), rtol=1e-5, atol=1e-5
    )


REMATERIALISED = {"remat": "full"}
SHALLOW = dataclasses.replace(CONFIG, num_layers=1)


@pytest.mark.parametrize(
    ("config", "compute"),
    [
        pytest.param(CONFIG, UNROLLED, id="unrolled"),
        pytest.param(CONFIG, COMPUTE, id="scan"),
        pytest.param(CONFIG, dataclasses.replace(UNROLLED, **REMATERIALISED), id="unrolled, remat"),
        pytest.param(CONFIG, dataclasses.replace(COMPUTE, **REMATERIALISED), id="scan, remat"),
        pytest.param(CONFIG, OWN_KERNELS, id="own kernels"),
        pytest.param(SHALLOW, UNROLLED, id="one layer, unrolled"),
        pytest.param(SHALLOW, COMPUTE, id="one layer, scan"),
    ],
)
def test_tokens_that_are_asked_for_have_the_values_and_gradients_that_they_have_among_all(config, compute):
    params = _params()[compute.scan_layers]
    if config is SHALLOW:
        params = {name: part for name, part in params.items() if name != "layers_1"}
        if compute.scan_layers:
            params |= {"layers": jax.tree.map(lambda stacked: stacked[:1], params["layers"])}
    at = jnp.asarray([[0, 3, 11, 12], [5, 1, 1, 400]])  # past the end: the last
    inside = np.minimum(at, L - 1)
    weights = np.random.default_rng(3).normal(size=(*at.shape, CONFIG.hidden_size)).astype(np.float32)
    model, inputs = ErnieM(config, compute), _inputs()

    def some(params):
        out = model.apply({"params": params}, inputs, CAMLM, at=at, method="encode")
        return (out * weights).sum(), out

    def whole(params):
        out = model.apply({"params": params}, inputs, CAMLM, method="encode")[np.arange(B)[:, None], inside]
        return (out * weights).sum(), out

    (_, found), gradient = jax.jit(jax.value_and_grad(some, has_aux=True))(params)
    (_, wanted), plain = jax.jit(jax.value_and_grad(whole, has_aux=True))(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, plain)


@pytest.mark.parametrize("compute", [UNROLLED, COMPUTE], ids=["unrolled", "scan"])
def test_the_last_layer_is_computed_for_the_tokens_that_are_asked_for(compute):
    """By the products in the program: the last feed-forward network and what stands before it take P tokens a row."""
    at = jnp.zeros((B, 3), jnp.int32)
    model = ErnieM(CONFIG, compute)

    def run(params):
        return model.apply(
            {"params": params}, _inputs(), CAMLM, at=at, deterministic=False, method="encode",
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip

    text = jax.jit(run).lower(_params()[compute.scan_layers]).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len([line for line in products if f"-> tensor<{B}x3x{CONFIG.ffn_size}xf32>" in line]) == 1
    before = 1 if compute.scan_layers else CONFIG.num_layers - 1  # a loop's body stands once
    assert len([line for line in products if f"-> tensor<{B}x{L}x{CONFIG.ffn_size}xf32>" in line]) == before


def test_all_layers_are_of_all_tokens():
    with pytest.raises(ValueError, match="at must be None"):
        _encoder(all_layers=True, at=(0,))(_params()[1], _inputs())


def test_packing_does_not_change_an_example():
    params, inputs = _params()[1], _inputs()
    packed = np.asarray(_encoder()(params, inputs))
    for row, segment in ((0, 1), (0, 2), (1, 2), (1, 3)):
        at = np.flatnonzero(inputs.segments[row] == segment)
        alone = []
        for field, padding in zip(inputs[:5], (CONFIG.pad_id, 0, 0, 0, 0), strict=True):
            alone.append(np.full((B, L), padding, np.int32))
            alone[-1][0, : len(at)] = field[row, at]
        out = np.asarray(_encoder()(params, Inputs(*alone)))
        np.testing.assert_allclose(out[0, : len(at)], packed[row, at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "count"), [(12, 768, 12, 278_042_880), (24, 1024, 16, 559_889_408)]
)
def test_parameter_counts_of_the_released_models(layers, width, heads, count):
    config = dataclasses.replace(
        CONFIG, vocab_size=250_002, hidden_size=width, num_layers=layers, num_heads=heads, ffn_size=4 * width,
        max_positions=514, language_embedding="none",
    )  # fmt: skip
    params = dict(jax.eval_shape(ErnieM(config, COMPUTE).init, jax.random.key(0), _inputs(), FULL)["params"])
    del params["mlm_head"]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == count


AXES = {
    "embeddings/word": ("vocab", "embed"),
    "embeddings/position": ("position", "embed"),
    "embeddings/language": ("language", "embed"),
    "embeddings/layer_norm/scale": ("norm",),
    "embeddings/layer_norm/bias": ("norm",),
    **{f"layers/attention/{x}/kernel": ("layers", "embed", "heads", "head_dim") for x in ("query", "key", "value")},
    **{f"layers/attention/{x}/bias": ("layers", "heads", "head_dim") for x in ("query", "key", "value")},
    "layers/attention/output/kernel": ("layers", "heads", "head_dim", "embed"),
    "layers/attention/output/bias": ("layers", "norm"),
    "layers/attention_layer_norm/scale": ("layers", "norm"),
    "layers/attention_layer_norm/bias": ("layers", "norm"),
    "layers/ffn/intermediate/kernel": ("layers", "embed", "ffn"),
    "layers/ffn/intermediate/bias": ("layers", "ffn"),
    "layers/ffn/output/kernel": ("layers", "ffn", "embed"),
    "layers/ffn/output/bias": ("layers", "norm"),
    "layers/ffn_layer_norm/scale": ("layers", "norm"),
    "layers/ffn_layer_norm/bias": ("layers", "norm"),
    "mlm_head/dense/kernel": ("embed", "embed_out"),
    "mlm_head/dense/bias": ("norm",),
    "mlm_head/layer_norm/scale": ("norm",),
    "mlm_head/layer_norm/bias": ("norm",),
    "mlm_head/bias": ("vocab",),
    "pooler/dense/kernel": ("embed", "embed_out"),
    "pooler/dense/bias": ("norm",),
}


def _flat_axes(config, compute):
    params = jax.eval_shape(ErnieM(config, compute).init, jax.random.key(0), _inputs(), FULL)["params"]
    boxed = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))
    for _, box in boxed:
        assert len(box.names) == len(box.value.shape)
        assert box.value.dtype == jnp.float32
    return {"/".join(entry.key for entry in path): box.names for path, box in boxed}


def test_parameter_names_and_logical_axes():
    assert _flat_axes(CONFIG, COMPUTE) == AXES
    plain = dataclasses.replace(CONFIG, language_embedding="none", pooler=False)
    expected = {}
    for name, axes in AXES.items():
        if name.startswith("layers/"):
            for i in range(CONFIG.num_layers):
                expected[name.replace("layers/", f"layers_{i}/", 1)] = axes[1:]
        elif "language" not in name and "pooler" not in name:
            expected[name] = axes
    assert _flat_axes(plain, UNROLLED) == expected
    other = dataclasses.replace(CONFIG, num_token_types=2, mlm_head="plain", head="token_classification", num_labels=5)
    found = _flat_axes(other, COMPUTE)
    assert {name: axes for name, axes in found.items() if name not in AXES} == {
        "embeddings/token_type": ("token_type", "embed"),
        "head/kernel": ("embed", "labels"),
        "head/bias": ("labels",),
    }
    assert {name for name in AXES if name not in found} == {name for name in AXES if name.startswith("mlm_head/")} - {
        "mlm_head/bias"
    }


def test_a_part_that_the_model_does_not_have_is_named():
    config = dataclasses.replace(CONFIG, mlm_head="none", pooler=False)
    params, hidden = {"params": _params()[1]}, np.zeros((2, 3, CONFIG.hidden_size), np.float32)
    model = ErnieM(config, COMPUTE)
    for method, arguments in (("pool", (hidden,)), ("classify", (hidden,)), ("predict", (hidden[0],))):
        with pytest.raises(ValueError, match=r"model\.(pooler|head|mlm_head) is .*need"):
            model.apply(params, *arguments, method=method)


def test_initial_values():
    init = jax.jit(lambda key: ErnieM(CONFIG, COMPUTE).init(key, _inputs(), FULL)["params"])
    params = nn.meta.unbox(init(jax.random.key(0)))
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name == "bias":
            assert (np.asarray(value) == 0).all()
        elif name == "scale":
            assert (np.asarray(value) == 1).all()
        else:  # truncated at two standard deviations, which leaves 0.88 of the deviation
            assert np.abs(value).max() <= 0.04
            assert 0.7 * 0.0176 < value.std() < 1.3 * 0.0176
    first, second = params["layers"]["ffn"]["output"]["kernel"]
    assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize(
    "compute", [pytest.param(COMPUTE, marks=pytest.mark.slow, id="scan"), pytest.param(UNROLLED, id="unrolled")]
)
def test_keys_can_start_as_queries_and_positions_as_sinusoids(compute):
    config = dataclasses.replace(CONFIG, key_init="query", position_init="sinusoidal")
    params = nn.meta.unbox(ErnieM(config, compute).init(jax.random.key(0), _inputs(), FULL)["params"])
    layers = params["layers"] if compute.scan_layers else params["layers_0"]
    queries, keys = (np.asarray(layers["attention"][name]["kernel"]) for name in ("query", "key"))
    np.testing.assert_array_equal(queries, keys)
    assert (queries != np.asarray(layers["attention"]["value"]["kernel"])).any()
    if compute.scan_layers:
        assert (queries[0] != queries[1]).any()
    table = np.asarray(params["embeddings"]["position"]) / (0.02 * np.sqrt(2))
    np.testing.assert_allclose(table[3, :2], [np.sin(3), np.cos(3)], atol=1e-5)
    np.testing.assert_allclose(table[3, 2:4], [np.sin(3 * 1e4**-0.125), np.cos(3 * 1e4**-0.125)], atol=1e-5)


def test_language_embedding_is_added_only_where_a_language_stands():
    params, inputs = _params()[1], _inputs()
    with_table = np.asarray(_encoder(all_layers=True)(params, inputs))
    none = dataclasses.replace(CONFIG, language_embedding="none")
    tables = {name: value for name, value in params["embeddings"].items() if name != "language"}
    without = np.asarray(_encoder(none, all_layers=True)(params | {"embeddings": tables}, inputs))
    same = np.isclose(with_table[0], without[0], rtol=0, atol=1e-6).all(axis=-1)
    np.testing.assert_array_equal(same, inputs.languages == 0)


def test_an_index_outside_a_table_gives_nan():
    params, inputs = _params()[1], _inputs()
    for field, value in (("ids", CONFIG.vocab_size), ("positions", CONFIG.max_positions - CONFIG.first_position)):
        array = getattr(inputs, field).copy()
        array[0, 0] = value
        out = np.asarray(_encoder(all_layers=True)(params, inputs._replace(**{field: array})))
        np.testing.assert_array_equal(np.isnan(out[0]).any(axis=-1), np.indices((B, L)).sum(axis=0) == 0)


def _loss_and_gradient(compute, params):
    model = ErnieM(CONFIG, compute)

    def loss(params):
        variables, rngs = {"params": params}, {"dropout": jax.random.key(4)}
        hidden = model.apply(variables, _inputs(), CAMLM, deterministic=False, method="encode", rngs=rngs)
        assert hidden.dtype == compute.dtype
        scores = model.apply(variables, hidden.reshape(B * L, -1), LABELS, method="score")
        return scores.loss.mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def kept_everything():
    return _loss_and_gradient(COMPUTE, _params()[1])


@pytest.mark.parametrize(
    "remat", ["dots_attention", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dots", "attention", "full"))]
)
def test_remat_changes_neither_value_nor_gradient(kept_everything, remat):
    value, gradient = _loss_and_gradient(dataclasses.replace(COMPUTE, remat=remat), _params()[1])
    np.testing.assert_allclose(value, kept_everything[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, kept_everything[1])


def test_remat_keeps_less():
    def kept(remat):
        model = ErnieM(CONFIG, dataclasses.replace(COMPUTE, remat=remat))
        variables = {"params": _params()[1]}
        _, vjp = jax.eval_shape(
            lambda v: jax.vjp(lambda v: model.apply(v, _inputs(), CAMLM, method="encode"), v), variables
        )
        return sum(math.prod(x.shape) for x in jax.tree.leaves(vjp))

    # By the attention's output, of the layers that `nn.scan` stacks: [layers, B, L, H].
    output = CONFIG.num_layers * math.prod(_inputs().ids.shape) * CONFIG.hidden_size
    assert kept("attention") == kept("full") + output
    assert kept("dots_attention") == kept("dots") + output
    assert kept("full") < kept("dots") < kept("dots_attention") < kept("none")


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("dots_attention", 1), ("attention", 1), ("full", 2)])
def test_the_fused_kernel_runs_again_only_where_its_output_is_not_kept(remat, times):
    compute = dataclasses.replace(COMPUTE, remat=remat, attention="flash")
    model = ErnieM(CONFIG, compute)

    def loss(params):
        return model.apply({"params": params}, _inputs(), CAMLM, method="encode").sum()

    program = jax.make_jaxpr(jax.grad(loss))(_params()[1]).jaxpr
    assert kernel_calls(program, "flash_attention_forward") == times
    assert kernel_calls(program, "flash_attention_backward") == 1


def test_dropout_is_random_and_only_where_asked():
    params, inputs, model = _params()[1], _inputs(), ErnieM(CONFIG, COMPUTE)

    @jax.jit
    def thinned(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, inputs, CAMLM, deterministic=False, method="encode", rngs=rngs)

    outputs = [np.asarray(x) for x in (_encoder()(params, inputs), thinned(0), thinned(1), thinned(1))]
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(outputs[:3]))
    np.testing.assert_array_equal(outputs[2], outputs[3])


@pytest.mark.slow
def test_bf16_runs_near_fp32(kept_everything):
    value, gradient = _loss_and_gradient(dataclasses.replace(COMPUTE, dtype="bfloat16"), _params()[1])
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, kept_everything[0], rtol=0.03)
    assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("deterministic", [True, False])
def test_gradient_is_exactly_zero_where_not_visible(deterministic):
    """CAMLM through all layers: each slot's output against every token's input embedding."""
    params, inputs = _params()[1], _inputs()
    model = ErnieM(CONFIG, COMPUTE)
    rngs = {"dropout": jax.random.key(5)}

    def output(perturbation, row, position):
        variables = {"params": params, "perturbations": {"input_embeddings": perturbation}}
        hidden = model.apply(variables, inputs, CAMLM, deterministic=deterministic, method="encode", rngs=rngs)
        return hidden[row, position] @ jnp.arange(1.0, CONFIG.hidden_size + 1)

    zeros = jnp.zeros((B, L, CONFIG.hidden_size))
    rows, positions = np.indices((B, L)).reshape(2, -1)
    gradient = jax.jit(jax.vmap(jax.grad(output), in_axes=(None, 0, 0)))(zeros, rows, positions)
    size = np.abs(gradient).max(axis=-1).reshape(B, L, B, L)
    reached = np.linalg.matrix_power(CAMLM.astype(int), CONFIG.num_layers) > 0
    for row, position, other, key in np.ndindex(B, L, B, L):
        same = row == other and inputs.segments[row, position] == inputs.segments[row, key]
        if not (same and reached[inputs.roles[row, position], inputs.roles[row, key]]):
            assert size[row, position, other, key] == 0.0
        elif deterministic:
            assert size[row, position, other, key] > 0.0


def test_bad_settings_raise():
    with pytest.raises(
        ValueError, match=r"compute\.remat is 'some'; allowed: none, dots_attention, dots, attention, full"
    ):
        _encoder(compute=dataclasses.replace(COMPUTE, remat="some"))(_params()[1], _inputs())
    variables, hidden = {"params": _params()[1]}, jnp.zeros((B, L, CONFIG.hidden_size))
    with pytest.raises(ValueError, match=r"model\.pooler is False"):
        ErnieM(dataclasses.replace(CONFIG, pooler=False), COMPUTE).apply(variables, hidden, method="pool")
    with pytest.raises(ValueError, match="rng=None"):
        ErnieM(CONFIG, COMPUTE).apply(variables, hidden[0], None, 1.0, method="generate")
