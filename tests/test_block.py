"""A layer and a stack of them: the tokens asked for, remat, dropout, 16 bits, and no gradient where nothing is seen."""

import dataclasses
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import ErnieM, block, layers
from ernie_m_jax.objectives.camlm import TABLE as CAMLM
from tests.attention_reference import kernel_calls
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
    params = small_params()[compute.scan_layers]
    if config is SHALLOW:
        params = {name: part for name, part in params.items() if name != "layers_1"}
        if compute.scan_layers:
            params |= {"layers": jax.tree.map(lambda stacked: stacked[:1], params["layers"])}
    at = jnp.asarray([[0, 3, 11, 12], [5, 1, 1, 400]])  # past the end: the last
    inside = np.minimum(at, L - 1)
    weights = np.random.default_rng(3).normal(size=(*at.shape, CONFIG.hidden_size)).astype(np.float32)
    model, inputs = ErnieM(config, compute), small_inputs()

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
            {"params": params}, small_inputs(), CAMLM, at=at, deterministic=False, method="encode",
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip

    text = jax.jit(run).lower(small_params()[compute.scan_layers]).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len([line for line in products if f"-> tensor<{B}x3x{CONFIG.ffn_size}xf32>" in line]) == 1
    before = 1 if compute.scan_layers else CONFIG.num_layers - 1  # a loop's body stands once
    assert len([line for line in products if f"-> tensor<{B}x{L}x{CONFIG.ffn_size}xf32>" in line]) == before


@pytest.mark.parametrize("compute", [UNROLLED, COMPUTE], ids=["unrolled", "scan"])
def test_dropout_acts_in_every_layer_where_tokens_are_asked_for(compute):
    at, params = jnp.asarray([[0, 5], [1, 3]]), small_params()[compute.scan_layers]
    quiet = dataclasses.replace(CONFIG, attention_dropout=0.0)
    model = ErnieM(quiet, compute)

    def thinned(params, seed):
        rngs = {"dropout": jax.random.key(seed)}
        keys = {"deterministic": False, "rngs": rngs, "at": at, "method": "encode"}
        return model.apply({"params": params}, small_inputs(), CAMLM, **keys)

    first, second, again = (np.asarray(jax.jit(thinned)(params, seed)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - second).max(axis=-1) > 0.1).all()
    # Behind the embeddings, and twice in each of two layers: the loop's body and the last one, or both.
    assert str(jax.make_jaxpr(thinned)(params, 1)).count("random_bits[") == 1 + 2 * 2


def asked(params, rows=B):
    at = jnp.zeros((rows, 1), jnp.int32)
    return ErnieM(CONFIG, COMPUTE).apply({"params": params}, small_inputs(), CAMLM, at=at, method="encode")


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_stacked_layers_is_refused(layers):
    params = small_params()[1]
    other = jax.tree.map(lambda stacked: np.resize(stacked, (layers, *stacked.shape[1:])), params["layers"])
    with pytest.raises(ValueError, match=f"of 2 layers stacked; there are stacks of {layers}"):
        asked(params | {"layers": other})
    with pytest.raises(ValueError, match="of 2 layers stacked; there are none"):
        asked(small_params()[0])


def test_parameters_can_be_made_where_tokens_are_asked_for():
    for compute in (COMPUTE, UNROLLED):
        made = ErnieM(CONFIG, compute).init(
            jax.random.key(0), small_inputs(), CAMLM, at=jnp.zeros((B, 1), jnp.int32), method="encode"
        )
        assert "layers" in made["params"] or "layers_1" in made["params"]


def test_tokens_of_another_number_of_rows_are_refused():
    with pytest.raises(ValueError, match="tokens of 1 rows, the inputs have 2"):
        asked(small_params()[1], rows=1)


def test_all_layers_are_of_all_tokens():
    with pytest.raises(ValueError, match="at must be None"):
        encoded(all_layers=True, at=(0,))(small_params()[1], small_inputs())


def _loss_and_gradient(compute, params):
    model = ErnieM(CONFIG, compute)

    def loss(params):
        variables, rngs = {"params": params}, {"dropout": jax.random.key(4)}
        hidden = model.apply(variables, small_inputs(), CAMLM, deterministic=False, method="encode", rngs=rngs)
        assert hidden.dtype == compute.dtype
        scores = model.apply(variables, hidden.reshape(B * L, -1), LABELS, method="score")
        return scores.loss.mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def kept_everything():
    return _loss_and_gradient(COMPUTE, small_params()[1])


@pytest.mark.parametrize(
    "remat", ["dots_attention", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dots", "attention", "full"))]
)
def test_remat_changes_neither_value_nor_gradient(kept_everything, remat):
    value, gradient = _loss_and_gradient(dataclasses.replace(COMPUTE, remat=remat), small_params()[1])
    np.testing.assert_allclose(value, kept_everything[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, kept_everything[1])


def test_remat_keeps_less():
    def kept(remat):
        model = ErnieM(CONFIG, dataclasses.replace(COMPUTE, remat=remat))
        variables = {"params": small_params()[1]}
        _, vjp = jax.eval_shape(
            lambda v: jax.vjp(lambda v: model.apply(v, small_inputs(), CAMLM, method="encode"), v), variables
        )
        return sum(math.prod(x.shape) for x in jax.tree.leaves(vjp))

    # By the attention's output, of the layers that `nn.scan` stacks: [layers, B, L, H].
    output = CONFIG.num_layers * math.prod(small_inputs().ids.shape) * CONFIG.hidden_size
    assert kept("attention") == kept("full") + output
    assert kept("dots_attention") == kept("dots") + output
    assert kept("full") < kept("dots") < kept("dots_attention") < kept("none")


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_where_a_loop_is_slow_the_layers_are_compiled_one_by_one_with_its_numbers(remat, monkeypatch):
    """Parameters as made, loss with dropout, gradients and every layer's output, as on a GPU and as elsewhere."""
    compute = dataclasses.replace(COMPUTE, remat=remat)
    variables, inputs = {"params": small_params()[1]}, small_inputs()
    at = jnp.asarray([[0, 5], [1, 3]])

    def loss(params, at):
        model, rngs = ErnieM(CONFIG, compute), {"dropout": jax.random.key(4)}
        hidden = model.apply({"params": params}, inputs, CAMLM, deterministic=False, method="encode", rngs=rngs, at=at)
        return (hidden * jnp.sin(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)).sum()

    def observe():
        model = ErnieM(CONFIG, compute)
        step = [jax.jit(functools.partial(jax.value_and_grad(loss), at=places)) for places in (None, at)]
        texts = [one.lower(variables["params"]).as_text() for one in step]
        made = jax.jit(lambda: model.init(jax.random.key(3), inputs, CAMLM))()
        every = jax.jit(lambda v: model.apply(v, inputs, CAMLM, method="encode", all_layers=True))(variables)
        return texts, (nn.meta.unbox(made), every, [one(variables["params"]) for one in step])

    loops, wanted = observe()
    monkeypatch.setattr(block, "platform", lambda mesh: "gpu")
    unrolled, found = observe()
    # Dropout's bits are drawn in loops too; those over the layers are one forward and one backward.
    whiles = [[text.count("stablehlo.while") for text in texts] for texts in (loops, unrolled)]
    assert np.subtract(*whiles).tolist() == [2, 0]  # before the last layer there is one, which is no loop
    # Without barriers the compiler would find what is computed again and keep it; in a loop it cannot.
    barriers = [["optimization_barrier" in text for text in texts] for texts in (loops, unrolled)]
    assert barriers == ([[False, True], [True, True]] if remat == "dots" else [[False, False], [False, False]])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_keeps_one_array_of_its_inputs_size_and_has_the_derivative_of_the_formula(dtype):
    x = jnp.linspace(-4, 4, 64, dtype=dtype)
    _, vjp = jax.vjp(layers.gelu, x)
    assert [(kept.shape, kept.dtype) for kept in jax.tree.leaves(vjp)] == [(x.shape, x.dtype)]
    exact = np.asarray(x, np.float64)
    cdf = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in exact])
    wanted = cdf + exact * np.exp(-0.5 * exact**2) / math.sqrt(2 * math.pi)
    (found,) = vjp(jnp.ones_like(x))
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=1e-6 if dtype == "float32" else 4e-3)


@pytest.mark.parametrize("compute", [COMPUTE, UNROLLED])
def test_in_16_bits_the_backward_pass_keeps_no_hidden_states_in_more(compute):
    model = ErnieM(CONFIG, dataclasses.replace(compute, dtype="bfloat16"))
    variables, inputs = {"params": small_params()[1]}, small_inputs()
    if compute is UNROLLED:
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, CAMLM))
    _, vjp = jax.eval_shape(lambda v: jax.vjp(lambda v: model.apply(v, inputs, CAMLM, method="encode"), v), variables)
    wide = [
        kept.shape
        for kept in jax.tree.leaves(vjp)
        if kept.dtype == jnp.float32 and kept.shape[-1:] == (CONFIG.ffn_size,) and L in kept.shape
    ]
    assert wide == []


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("dots_attention", 1), ("attention", 1), ("full", 2)])
def test_the_fused_kernel_runs_again_only_where_its_output_is_not_kept(remat, times):
    compute = dataclasses.replace(COMPUTE, remat=remat, attention="flash")
    model = ErnieM(CONFIG, compute)

    def loss(params):
        return model.apply({"params": params}, small_inputs(), CAMLM, method="encode").sum()

    program = jax.make_jaxpr(jax.grad(loss))(small_params()[1]).jaxpr
    assert kernel_calls(program, "flash_attention_forward") == times
    assert kernel_calls(program, "flash_attention_backward") == 1


def test_dropout_is_random_and_only_where_asked():
    params, inputs, model = small_params()[1], small_inputs(), ErnieM(CONFIG, COMPUTE)

    @jax.jit
    def thinned(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, inputs, CAMLM, deterministic=False, method="encode", rngs=rngs)

    outputs = [np.asarray(x) for x in (encoded()(params, inputs), thinned(0), thinned(1), thinned(1))]
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(outputs[:3]))
    np.testing.assert_array_equal(outputs[2], outputs[3])


@pytest.mark.slow
def test_bf16_runs_near_fp32(kept_everything):
    value, gradient = _loss_and_gradient(dataclasses.replace(COMPUTE, dtype="bfloat16"), small_params()[1])
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, kept_everything[0], rtol=0.03)
    assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("deterministic", [True, False])
def test_gradient_is_exactly_zero_where_not_visible(deterministic):
    """CAMLM through all layers: each slot's output against every token's input embedding."""
    params, inputs = small_params()[1], small_inputs()
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
