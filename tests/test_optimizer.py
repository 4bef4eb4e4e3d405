"""Optimizer and learning rate against a plain numpy AdamW and against numbers worked out by hand."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.config import ConfigError, OptimizerConfig, StageConfig
from ernie_m_jax.training import optimizer

LAYERS = 3
CONFIG = OptimizerConfig(b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, layer_decay=0.8, clip_norm=1.0)
STAGE = StageConfig(steps=100, weights={}, learning_rate=2.0, warmup_steps=10, schedule="linear", final_fraction=0.0)

LAYER_SHAPES = {
    **{f"attention/{name}/kernel": (4, 2, 2) for name in ("query", "key", "value")},
    **{f"attention/{name}/bias": (2, 2) for name in ("query", "key", "value")},
    "attention/output/kernel": (2, 2, 4),
    "attention/output/bias": (4,),
    "attention_layer_norm/scale": (4,),
    "attention_layer_norm/bias": (4,),
    "ffn/intermediate/kernel": (4, 6),
    "ffn/intermediate/bias": (6,),
    "ffn/output/kernel": (6, 4),
    "ffn/output/bias": (4,),
    "ffn_layer_norm/scale": (4,),
    "ffn_layer_norm/bias": (4,),
}
OTHER_SHAPES = {
    "embeddings/word": (7, 4),
    "embeddings/position": (5, 4),
    "embeddings/language": (3, 4),
    "embeddings/layer_norm/scale": (4,),
    "embeddings/layer_norm/bias": (4,),
    "mlm_head/dense/kernel": (4, 4),
    "mlm_head/dense/bias": (4,),
    "mlm_head/layer_norm/scale": (4,),
    "mlm_head/layer_norm/bias": (4,),
    "mlm_head/bias": (7,),
    "pooler/dense/kernel": (4, 4),
    "pooler/dense/bias": (4,),
    "head/classifier/kernel": (4, 3),
    "head/classifier/bias": (3,),
}


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def flatten(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def unrolled(seed):
    """Random values for a full tree with layers_0, layers_1, ... as {path: array}."""
    shapes = OTHER_SHAPES | {f"layers_{i}/{name}": s for i in range(LAYERS) for name, s in LAYER_SHAPES.items()}
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def sample(seed):
    """A kernel, a bias and a LayerNorm of each part of `unrolled`: the numbers need no more, and compile sooner."""
    kept = re.compile(r".*/(word|position|ffn/output/kernel|dense/kernel|ffn/output/bias|(ffn_)?layer_norm/scale)")
    return {path: value for path, value in unrolled(seed).items() if kept.fullmatch(path)}


def stacked(flat):
    """The same values with "layers/..." stacked along a leading axis."""
    out = {path: value for path, value in flat.items() if not path.startswith("layers_")}
    for name in LAYER_SHAPES:
        if f"layers_0/{name}" in flat:
            out[f"layers/{name}"] = np.stack([flat[f"layers_{i}/{name}"] for i in range(LAYERS)])
    return out


def factor(path, d):
    """The original's layer decay, written down anew."""
    if path in ("embeddings/word", "embeddings/position", "embeddings/language"):
        return d ** (LAYERS + 1)
    if path.startswith("layers_"):
        return d ** (LAYERS - int(path.split("/")[0].removeprefix("layers_")))
    return 1.0


def numpy_adamw(params, gradients_of_steps, config, rates):
    """Float64 AdamW on {path: array}: clip, Adam, layer decay on its step, then decay unless bias or scale."""
    params = {path: value.astype(np.float64) for path, value in params.items()}
    m = {path: np.zeros_like(value) for path, value in params.items()}
    v = {path: np.zeros_like(value) for path, value in params.items()}
    for t, (gradients, rate) in enumerate(zip(gradients_of_steps, rates, strict=True), start=1):
        norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))
        shrink = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for path, parameter in params.items():
            g = gradients[path].astype(np.float64) * shrink
            m[path] = config.b1 * m[path] + (1 - config.b1) * g
            v[path] = config.b2 * v[path] + (1 - config.b2) * g**2
            direction = m[path] / (1 - config.b1**t) / (np.sqrt(v[path] / (1 - config.b2**t)) + config.eps)
            direction = factor(path, config.layer_decay) * direction
            if not path.endswith(("bias", "scale")):
                direction = direction + config.weight_decay * parameter
            params[path] = parameter - rate * direction
    return params


def run(tx, params, gradients_of_steps):
    @jax.jit
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = jax.jit(tx.init)(params)
    for gradients in gradients_of_steps:
        params, state = step(params, state, gradients)
    return params


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_five_steps_equal_numpy_adamw(scanned, clip_norm):
    config = dataclasses.replace(CONFIG, clip_norm=clip_norm)
    rates = [0.0, 0.01, 0.02, 0.015, 0.01]
    shape = stacked if scanned else dict
    params, gradients = sample(0), [sample(seed) for seed in range(1, 6)]
    tree = nest(shape(params))
    tx = optimizer.make_optimizer(config, lambda step: jnp.asarray(rates)[step], tree, LAYERS)
    got = flatten(run(tx, tree, [nest(shape(g)) for g in gradients]))
    want = shape(numpy_adamw(params, gradients, config, rates))
    assert got.keys() == want.keys()
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=1e-6, atol=1e-6, err_msg=path)


def test_clip_bounds_the_gradient_that_adam_sees():
    tree = nest(sample(0))
    gradients = jax.tree.map(lambda x: 1000 * x, tree)
    tx = optimizer.make_optimizer(CONFIG, lambda step: 0.0, tree, LAYERS)
    _, state = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(gradients, tree)
    first_moments = flatten(state[1].mu).values()
    norm = np.sqrt(sum(np.sum(np.square(m, dtype=np.float64)) for m in first_moments)) / (1 - CONFIG.b1)
    np.testing.assert_allclose(norm, CONFIG.clip_norm, rtol=1e-5)


def test_untouched_parameters_shrink_and_biases_and_layer_norms_stay():
    params = sample(0)
    tree = nest(params)
    zeros = jax.tree.map(np.zeros_like, tree)
    config = dataclasses.replace(CONFIG, weight_decay=0.1)
    tx = optimizer.make_optimizer(config, lambda step: 0.5, tree, LAYERS)
    after = flatten(run(tx, tree, [zeros]))
    for path, before in params.items():
        kept = 1.0 if path.endswith(("bias", "scale")) else 1.0 - 0.5 * 0.1  # whatever the layer
        np.testing.assert_allclose(after[path], kept * before, rtol=1e-6, err_msg=path)


def test_layer_decay_one_leaves_every_factor_at_one():
    _, scale = optimizer.plan(nest(stacked(unrolled(0))), LAYERS, 1.0)
    assert all(np.all(value == 1) for value in flatten(scale).values())


@pytest.mark.parametrize("shape", [stacked, dict])
def test_every_parameter_is_covered_by_exactly_one_rule(shape):
    for path in shape(unrolled(0)):
        matching = [rule for rule in optimizer.RULES if re.fullmatch(rule.pattern, path)]
        assert len(matching) == 1, path


def test_every_rule_is_used():
    paths = [*unrolled(0), *stacked(unrolled(0))]
    assert {optimizer.match(path) for path in paths} == set(optimizer.RULES)


def test_an_uncovered_parameter_is_named():
    with pytest.raises(ValueError, match=r"'embeddings/segment' matches no optimizer rule"):
        optimizer.make_optimizer(CONFIG, lambda step: 0.0, nest({"embeddings/segment": np.zeros((2, 4))}), LAYERS)


def test_two_matching_rules_are_both_named():
    rules = (*optimizer.RULES, optimizer.Rule(r".*/word", weight_decay=False, depth="top"))
    tree = nest({"embeddings/word": np.zeros((2, 4))})
    with pytest.raises(ValueError, match=r"'embeddings/word' matches 2 .*position.* and '\.\*/word'"):
        optimizer.make_optimizer(CONFIG, lambda step: 0.0, tree, LAYERS, rules)


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [("layers/ffn/output/bias", (2, 4), "num_layers=3"), ("layers_3/ffn/output/bias", (4,), "num_layers=3")],
)
def test_a_layer_that_does_not_fit_is_named(path, shape, message):
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        optimizer.make_optimizer(CONFIG, lambda step: 0.0, nest({path: np.zeros(shape)}), LAYERS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("weight_decay", -0.1),
        ("clip_norm", -1.0),
        ("b2", 1.0),
        ("eps", 0.0),
    ],
)
def test_numbers_out_of_range_name_their_key(key, value):
    config = dataclasses.replace(CONFIG, **{key: value})
    with pytest.raises(ConfigError, match=rf"config\.optimizer\.{key} is {value}; it must be "):
        optimizer.make_optimizer(config, lambda step: 0.0, nest(unrolled(0)), LAYERS)


@pytest.mark.parametrize(
    ("name", "final", "values"),
    [
        ("linear", 0.0, {0: 0.0, 5: 1.0, 10: 2.0, 55: 1.0, 100: 0.0, 200: 0.0}),
        ("linear", 0.1, {10: 2.0, 55: 1.1, 100: 0.2, 200: 0.2}),
        ("linear_from_zero", 0.0, {0: 0.0, 5: 1.0, 9: 1.8, 10: 1.8, 50: 1.0, 100: 0.0}),
        ("cosine", 0.0, {5: 1.0, 10: 2.0, 55: 1.0, 32.5: 1.0 + np.sqrt(0.5), 100: 0.0}),
        ("cosine", 0.5, {10: 2.0, 55: 1.5, 100: 1.0}),
        ("constant", 0.0, {0: 0.0, 5: 1.0, 10: 2.0, 100: 2.0}),
    ],
)
def test_schedule_values(name, final, values):
    rate = optimizer.schedule(dataclasses.replace(STAGE, schedule=name, final_fraction=final))
    for step, value in values.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-6, atol=1e-6, err_msg=f"{name} at {step}")
        np.testing.assert_allclose(jax.jit(rate)(step), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("warmup", "first", "last"), [(0, 2.0, 0.02), (100, 0.0, 1.98)])
def test_schedule_without_warmup_and_with_nothing_else(warmup, first, last):
    rate = optimizer.schedule(dataclasses.replace(STAGE, warmup_steps=warmup))
    np.testing.assert_allclose([rate(0), rate(99)], [first, last], rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("schedule", "polynomial"), ("steps", 0), ("warmup_steps", 101), ("learning_rate", -1.0), ("final_fraction", 2.0)],
)
def test_impossible_stages_name_their_key(key, value):
    with pytest.raises(ConfigError, match=rf"config\.stages\.\*\.{key} is {value!r}; "):
        optimizer.schedule(dataclasses.replace(STAGE, **{key: value}))
