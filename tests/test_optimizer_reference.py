"""The optimizer against the original's fine-tuning, written down again in plain NumPy, float64.

The reference works on variables under the original's names (`PARAMETERS`), because the original decides by name, and on
twenty steps of gradients of which some are clipped and some so small that epsilon counts. What rests on what:

- PaddlePaddle/ERNIE, ernie-m/model/optimization.py (read): Adam with epsilon 1e-6; global-norm clip 1.0; the learning
  rate; which names have no weight decay; layer decay as `p + (ratio - 1) * (p - p_before)`, for names that begin with
  "encoder_layer" or contain "embedding", so the pooler, the head and "pre_encoder_layer_norm" have the full rate; and
  after it the weight decay, `p -= p_before * weight_decay * rate`, which the layer decay therefore does not touch.
- ernie-m/model/ernie.py, finetune/classifier.py (read): the names of embeddings, pooler and head. Names inside a layer:
  those of the released parameters (docs/conversion.md).
- Paddle 2.0 and later, which the original asks for: Adam's betas 0.9 and 0.999 (its defaults, from memory), the form
  `p -= rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps * sqrt(1 - b2^t))` (read in its Adam functor; before 2.0
  epsilon stood there without its factor, Paddle issue 28325), clipping by `clip / max(norm, clip)` (read in its
  documentation), the first step counted as 0 (read in its learning rate scheduler).
- Ours: tables of languages and token types, which the original lacks, count as embeddings, as their names have it.

Tolerance: 1e-6 of the largest value of each parameter after the last step. Parameters are drawn from N(0, 1) and move
by up to a tenth, so it is some 1e-5 of what the steps did; the float32 sums of twenty steps are off by about 2e-7.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import ComputeConfig, ModelConfig, OptimizerConfig, StageConfig
from ernie_m_jax.model import FULL, ErnieM, Inputs
from ernie_m_jax.training import optimizer

LAYERS, STEPS, WARMUP, PEAK = 3, 20, 2, 0.01
TOLERANCE = 1e-6
MODEL = ModelConfig(
    vocab_size=61,
    hidden_size=16,
    num_layers=LAYERS,
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
    num_token_types=2,
    pooler=True,
    mlm_head="none",
    head="sequence_classification",
    num_labels=3,
)
COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16)
STAGE = StageConfig(
    steps=STEPS, weights={}, learning_rate=PEAK, warmup_steps=WARMUP, schedule="linear_from_zero", final_fraction=0.0
)
XNLI = OptimizerConfig(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0, layer_decay=0.8, clip_norm=1.0)
CONLL = dataclasses.replace(XNLI, weight_decay=0.01)

# Our paths -> the original's names, typed from its code.
PARAMETERS = {
    "embeddings/word": "word_embedding",
    "embeddings/position": "pos_embedding",
    "embeddings/language": "language_embedding",  # ours
    "embeddings/token_type": "token_type_embedding",  # ours
    "embeddings/layer_norm/scale": "pre_encoder_layer_norm_scale",
    "embeddings/layer_norm/bias": "pre_encoder_layer_norm_bias",
    "pooler/dense/kernel": "pooled_fc.w_0",
    "pooler/dense/bias": "pooled_fc.b_0",
    "head/kernel": "cls_out_w",
    "head/bias": "cls_out_b",
}
LAYER = {
    "attention/query/kernel": "multi_head_att_query_fc.w_0",
    "attention/query/bias": "multi_head_att_query_fc.b_0",
    "attention/key/kernel": "multi_head_att_key_fc.w_0",
    "attention/key/bias": "multi_head_att_key_fc.b_0",
    "attention/value/kernel": "multi_head_att_value_fc.w_0",
    "attention/value/bias": "multi_head_att_value_fc.b_0",
    "attention/output/kernel": "multi_head_att_output_fc.w_0",
    "attention/output/bias": "multi_head_att_output_fc.b_0",
    "attention_layer_norm/scale": "post_att_layer_norm_scale",
    "attention_layer_norm/bias": "post_att_layer_norm_bias",
    "ffn/intermediate/kernel": "ffn_fc_0.w_0",
    "ffn/intermediate/bias": "ffn_fc_0.b_0",
    "ffn/output/kernel": "ffn_fc_1.w_0",
    "ffn/output/bias": "ffn_fc_1.b_0",
    "ffn_layer_norm/scale": "post_ffn_layer_norm_scale",
    "ffn_layer_norm/bias": "post_ffn_layer_norm_bias",
}
# A parameter of each kind: the numbers need no more of them, and compile sooner.
SAMPLE = r"embeddings/(word|layer_norm/scale)|layers(_\d+)?/ffn/output/(kernel|bias)|pooler/.*|head/.*"


# The original, in NumPy.


def original_rate(step, total, warmup, peak):
    """A line from 0 to the peak, then the line that is at the peak at step 0 and at 0 at the last."""
    return peak * step / warmup if step < warmup else peak * (1 - min(step, total) / total)


def original_ratio(name, decay):
    """What a variable's own step is multiplied with."""
    if name.startswith("encoder_layer"):
        return decay ** (LAYERS - int(name.split("_")[2]))
    return decay ** (LAYERS + 1) if "embedding" in name else 1.0


def original_weight_decays(name):
    return "layer_norm" not in name and not name.endswith(("_bias", "_b", ".b_0"))


def original(variables, gradients_of_steps, weight_decay, layer_decay):
    """The variables after all steps: clip, Adam, layer decay of Adam's step, weight decay at the full rate."""
    b1, b2, eps, clip = 0.9, 0.999, 1e-6, 1.0
    p = {name: value.astype(np.float64) for name, value in variables.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    for step, gradients in enumerate(gradients_of_steps):
        rate, t = original_rate(step, STEPS, WARMUP, PEAK), step + 1
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()))
        for name, before in p.items():
            g = gradients[name].astype(np.float64) * clip / max(norm, clip)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            corrected = np.sqrt(1 - b2**t)
            after = before - rate * corrected / (1 - b1**t) * m[name] / (np.sqrt(v[name]) + eps * corrected)
            after = after + (original_ratio(name, layer_decay) - 1) * (after - before)
            if original_weight_decays(name):
                after = after - before * weight_decay * rate
            p[name] = after
    return p


# Ours, under the original's names.


@functools.cache
def abstract(scanned):
    """The model's parameters, shapes only."""
    tokens = Inputs(*(jnp.zeros((1, 8), jnp.int32) for _ in Inputs._fields))
    model = ErnieM(MODEL, dataclasses.replace(COMPUTE, scan_layers=scanned))
    return nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, FULL)["params"]))


def named(params):
    """A tree of ours, scanned or not, as {original name: array}."""
    variables = {}
    for path, value in tree.named(params).items():
        if path in PARAMETERS:
            variables[PARAMETERS[path]] = np.asarray(value)
            continue
        head, path = path.split("/", 1)
        for layer in range(LAYERS) if head == "layers" else [int(head.removeprefix("layers_"))]:
            own = value[layer] if head == "layers" else value
            variables[f"encoder_layer_{layer}_{LAYER[path]}"] = np.asarray(own)
    return variables


def draw(scanned, kept=".*"):
    """Parameters and the gradients of all steps, as trees: clipped and unclipped, large, tiny and zero."""
    rng = np.random.default_rng(0)
    shapes = {path: leaf.shape for path, leaf in tree.named(abstract(scanned)).items() if re.fullmatch(kept, path)}
    params = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    sizes = dict(zip(shapes, 10.0 ** rng.permutation(np.linspace(-7, 0, len(shapes))), strict=True))
    gradients_of_steps = []
    for step in range(STEPS):
        whole = (0.03, 1.0)[step % 2]
        gradients = {path: (whole * sizes[path] * rng.normal(size=shape)) for path, shape in shapes.items()}
        gradients["embeddings/word"][10:] = 0  # words that no text of these steps has
        gradients_of_steps.append(tree.nest({path: g.astype(np.float32) for path, g in gradients.items()}))
    return tree.nest(params), gradients_of_steps


def ours(params, gradients_of_steps, config, stage=STAGE):
    tx = optimizer.make_optimizer(config, optimizer.schedule(stage), params, LAYERS)

    @jax.jit
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = tx.init(params)
    for gradients in gradients_of_steps:
        params, state = step(params, state, gradients)
    return named(params)


def furthest(got, want):
    """The largest difference of any parameter, as a share of the parameter's largest value, and its name."""
    assert got.keys() == want.keys()
    shares = {name: np.max(np.abs(got[name] - value)) / np.max(np.abs(value)) for name, value in want.items()}
    worst = max(shares, key=shares.__getitem__)
    return shares[worst], worst


def off(config, scanned, kept=SAMPLE):
    """How far any parameter is from the original's, as `furthest` says it."""
    params, gradients = draw(scanned, kept)
    want = original(named(params), [named(g) for g in gradients], config.weight_decay, config.layer_decay)
    return furthest(ours(params, gradients, config), want)


@pytest.mark.parametrize("kept", [".*", SAMPLE])
def test_the_steps_are_of_every_kind(kept):
    params, gradients = draw(True, kept)
    norms = [np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in named(step).values())) for step in gradients]
    assert sum(norm < 0.9 for norm in norms) == sum(norm > 2 for norm in norms) == STEPS / 2
    assert min(np.max(np.abs(g)) for g in named(gradients[0]).values()) < 1e-6  # where epsilon counts
    want = original(named(params), [named(g) for g in gradients], 0.0, 0.8)
    moved = [np.max(np.abs(want[name] - value)) / np.max(np.abs(value)) for name, value in named(params).items()]
    assert max(moved) > 10_000 * TOLERANCE
    assert min(moved) > 100 * TOLERANCE


@pytest.mark.parametrize("scanned", [True, False])
def test_every_parameter_has_the_originals_factor_and_weight_decay(scanned):
    params, _ = draw(scanned)
    decayed, scale = optimizer.plan(params, LAYERS, 0.8)
    decayed = named(jax.tree.map(lambda value, on: np.full(value.shape, on), params, decayed))
    scale = named(jax.tree.map(lambda value, by: np.broadcast_to(by, value.shape), params, scale))
    layers = {f"encoder_layer_{layer}_{name}" for layer in range(LAYERS) for name in LAYER.values()}
    assert set(scale) == {*PARAMETERS.values(), *layers}
    for name in scale:
        assert np.all(decayed[name] == original_weight_decays(name)), name
        np.testing.assert_allclose(scale[name], original_ratio(name, 0.8), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("scanned", "kept"), [(True, ".*"), (False, SAMPLE)])
def test_xnli_and_mlqa_layer_decay_without_weight_decay(scanned, kept):
    share, worst = off(XNLI, scanned, kept)
    assert share < TOLERANCE, worst


@pytest.mark.parametrize("scanned", [True, False])
def test_weight_decay_without_layer_decay(scanned):
    share, worst = off(dataclasses.replace(CONLL, layer_decay=1.0), scanned)
    assert share < TOLERANCE, worst


@pytest.mark.parametrize("scanned", [True, False])
def test_conll_layer_decay_and_weight_decay(scanned):
    share, worst = off(CONLL, scanned)
    assert share < TOLERANCE, worst


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 1.1e-6},
        {"b1": 0.901},
        {"b2": 0.998},
        {"clip_norm": 1.01},
        {"layer_decay": 0.801},
        {"weight_decay": 0.001},
    ],
)
def test_the_comparison_sees_a_small_change_of_any_key(change):
    params, gradients = draw(True, SAMPLE)
    want = original(named(params), [named(g) for g in gradients], XNLI.weight_decay, XNLI.layer_decay)
    share, _ = furthest(ours(params, gradients, dataclasses.replace(XNLI, **change)), want)
    assert share > 10 * TOLERANCE


@pytest.mark.parametrize("total", [10, 20, 137, 61_360])
def test_the_learning_rate_is_the_originals_at_every_step(total):
    warmup = int(total * 0.1)
    stage = dataclasses.replace(STAGE, steps=total, warmup_steps=warmup, learning_rate=5e-5)
    steps = np.unique(np.concatenate([np.linspace(0, total + 2, 200).astype(int), [1, warmup - 1, warmup, warmup + 1]]))
    got = jax.jit(jax.vmap(optimizer.schedule(stage)))(steps)
    want = [original_rate(step, total, warmup, 5e-5) for step in steps]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * 5e-5)
    assert original_rate(warmup, total, warmup, 1.0) == pytest.approx(0.9, abs=0.01)
