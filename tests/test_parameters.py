"""The encoder's parameters: how many, their names, logical axes and first values; the tables of the embeddings."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.model import FULL, ErnieM
from tests.small_encoder import (
    COMPUTE,
    CONFIG,
    UNROLLED,
    B,
    L,
    encoded,
    small_inputs,
    small_params,
)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "count"), [(12, 768, 12, 278_042_880), (24, 1024, 16, 559_889_408)]
)
def test_parameter_counts_of_the_released_models(layers, width, heads, count):
    config = dataclasses.replace(
        CONFIG, vocab_size=250_002, hidden_size=width, num_layers=layers, num_heads=heads, ffn_size=4 * width,
        max_positions=514, language_embedding="none",
    )  # fmt: skip
    params = dict(jax.eval_shape(ErnieM(config, COMPUTE).init, jax.random.key(0), small_inputs(), FULL)["params"])
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
    params = jax.eval_shape(ErnieM(config, compute).init, jax.random.key(0), small_inputs(), FULL)["params"]
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


def test_initial_values():
    init = jax.jit(lambda key: ErnieM(CONFIG, COMPUTE).init(key, small_inputs(), FULL)["params"])
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
    params = nn.meta.unbox(ErnieM(config, compute).init(jax.random.key(0), small_inputs(), FULL)["params"])
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
    params, inputs = small_params()[1], small_inputs()
    with_table = np.asarray(encoded(all_layers=True)(params, inputs))
    none = dataclasses.replace(CONFIG, language_embedding="none")
    tables = {name: value for name, value in params["embeddings"].items() if name != "language"}
    without = np.asarray(encoded(none, all_layers=True)(params | {"embeddings": tables}, inputs))
    same = np.isclose(with_table[0], without[0], rtol=0, atol=1e-6).all(axis=-1)
    np.testing.assert_array_equal(same, inputs.languages == 0)


def test_an_index_outside_a_table_gives_nan():
    params, inputs = small_params()[1], small_inputs()
    for field, value in (("ids", CONFIG.vocab_size), ("positions", CONFIG.max_positions - CONFIG.first_position)):
        array = getattr(inputs, field).copy()
        array[0, 0] = value
        out = np.asarray(encoded(all_layers=True)(params, inputs._replace(**{field: array})))
        np.testing.assert_array_equal(np.isnan(out[0]).any(axis=-1), np.indices((B, L)).sum(axis=0) == 0)
