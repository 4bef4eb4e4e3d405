"""The learning rate and AdamW: a `StageConfig` and an `OptimizerConfig` come in, optax objects go out.

A gradient's way: clip by global norm -> Adam -> times layer-wise decay -> plus weight decay -> times -learning rate.
Which parameter is decayed, and how deep it lies, stands in one table, `RULES`: every parameter matches exactly one row.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ernie_m_jax import config_fields
from ernie_m_jax.config import ConfigError, OptimizerConfig, StageConfig
from ernie_m_jax.config_checks import validate_stage


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the parameters of one kind are updated.

    Attributes:
      pattern: regular expression that the whole path ("layers_0/ffn/output/kernel") must match.
      weight_decay: whether decoupled weight decay applies.
      depth: "embedding" is one below layer 0, "layer" lies at its own layer, "top" has the full learning rate.
    """

    pattern: str
    weight_decay: bool
    depth: Literal["embedding", "layer", "top"]


# No weight decay on biases and LayerNorm; the embedding LayerNorm has the full rate, as in the original code.
RULES = (
    Rule(r"embeddings/(word|position|language|token_type)", weight_decay=True, depth="embedding"),
    Rule(r"embeddings/layer_norm/(scale|bias)", weight_decay=False, depth="top"),
    Rule(r"layers(_\d+)?/(.+/)?kernel", weight_decay=True, depth="layer"),
    Rule(r"layers(_\d+)?/(.+/)?(scale|bias)", weight_decay=False, depth="layer"),
    Rule(r"(mlm_head|pooler|head)/(.+/)?kernel", weight_decay=True, depth="top"),
    Rule(r"(mlm_head|pooler|head)/(.+/)?(scale|bias)", weight_decay=False, depth="top"),
)


def schedule(stage: StageConfig) -> optax.Schedule:
    """Returns the learning rate of one stage as a function of the step, counted from 0 at the stage's start.

    All shapes rise linearly from 0 to the peak at `warmup_steps` and stay at their last value after `steps`. Then:
      linear: a straight line from the peak to `final_fraction` of it at `steps`.
      linear_from_zero: the line that starts at the peak at step 0, so with 10 % warm-up the rate drops to 0.9 of the
        peak where warm-up ends (fine-tuning of the original code).
      cosine: half a cosine from the peak to `final_fraction` of it at `steps`.
      constant: the peak; `final_fraction` plays no part.

    Raises:
      ConfigError: unknown name, or numbers outside their range.
    """
    validate_stage(stage, "config.stages.*")
    if not stage.steps:
        raise ConfigError("config.stages.*.steps is 0; how many steps its epochs take must be known first")
    name, peak, final = stage.schedule, stage.learning_rate, stage.final_fraction
    warmup, total = stage.warmup_steps, stage.steps
    start = 0 if name == "linear_from_zero" else warmup

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - start) / max(total - start, 1), 0.0, 1.0)
        if name == "constant":
            remaining = jnp.ones_like(progress)
        elif name == "cosine":
            remaining = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        else:
            remaining = 1.0 - progress
        floor = 0.0 if name == "constant" else final
        after = floor + (1.0 - floor) * remaining
        return peak * jnp.where(step < warmup, step / max(warmup, 1), after)

    return learning_rate


def make_optimizer(
    config: OptimizerConfig,
    learning_rate: optax.Schedule,
    params: Any,
    num_layers: int,
    rules: tuple[Rule, ...] = RULES,
) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW with global-norm clipping and layer-wise learning-rate decay.

    Adam's direction is multiplied by the layer's factor; decoupled weight decay is added after and is the same at every
    depth. With n layers and d = `layer_decay` the factor is d^(n-i) for layer i (from 0), d^(n+1) for the embedding
    tables, 1 for the rest (the original fine-tuning code, ernie-m/model/optimization.py).

    Its update takes two more keyword arguments: `norm`, the gradients' global norm if it is known, and `kept`, a bool
    scalar: where it is false, the state stays what it was, but for the schedule's count of steps, and the updates are
    not to be applied.

    Args:
      config: the optimizer's keys; `clip_norm` 0 means no clipping.
      learning_rate: step -> learning rate.
      params: parameter tree, arrays or abstract, boxed or not; only its paths and shapes are read.
      num_layers: n. A scanned tree ("layers/...") must have it as its leading axis.
      rules: the table, for a head that needs rows of its own.

    Raises:
      ConfigError: a number of `config` outside its range.
      ValueError: a parameter that matches no rule or several, or whose layer does not fit `num_layers`.
    """
    config_fields.check(config, "config.optimizer")
    decayed, scale = plan(params, num_layers, config.layer_decay, rules)
    return optax.chain(
        _clip(config.clip_norm) if config.clip_norm else optax.identity(),
        _adam(config),
        _decay(config.weight_decay, decayed, scale),
        optax.scale_by_learning_rate(learning_rate),
    )


def _clip(largest: float) -> optax.GradientTransformationExtraArgs:
    """As `optax.clip_by_global_norm`, by one factor: XLA for CPUs writes down gradients that are divided by a norm."""

    def update(gradients: Any, state: Any, params: Any = None, *, norm: Any = None, **others: Any) -> Any:
        norm = optax.tree.norm(gradients) if norm is None else norm
        factor = jnp.minimum(1.0, largest / norm)
        return jax.tree.map(lambda g: g * factor, gradients), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _adam(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Adam's direction, as `optax.scale_by_adam`'s, whose state stays what it was where a step is not kept.

    The direction is computed from the chosen moments, in float32. Were old or new ones chosen afterwards, XLA for CPUs
    would compute the new ones twice and copy the old ones first: of a large table in four times the time.
    """

    def stored(moments: Any) -> Any:
        return jax.tree.map(lambda moment: moment.astype(config.moments_dtype), moments)

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(lambda leaf: jnp.zeros_like(leaf, config.moments_dtype), params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(gradients: Any, state: Any, params: Any = None, *, kept: Any = True, **others: Any) -> Any:
        def moved(old: jax.Array, to: jax.Array, decay: float) -> jax.Array:
            old = old.astype(jnp.float32)
            return jnp.where(kept, (1 - decay) * to + decay * old, old)

        count = state.count + 1
        mu = jax.tree.map(lambda old, g: moved(old, g, config.b1), state.mu, gradients)
        nu = jax.tree.map(lambda old, g: moved(old, g * g, config.b2), state.nu, gradients)
        bias1, bias2 = 1 - config.b1**count, 1 - config.b2**count
        direction = jax.tree.map(lambda m, v: m / bias1 / (jnp.sqrt(v / bias2) + config.eps), mu, nu)
        return direction, optax.ScaleByAdamState(jnp.where(kept, count, state.count), stored(mu), stored(nu))

    return optax.GradientTransformationExtraArgs(init, update)


def plan(
    params: Any, num_layers: int, layer_decay: float, rules: tuple[Rule, ...] = RULES
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns two trees shaped like `params`: whether weight decay applies (bool), and the update's factor (f32).

    A factor is a scalar, or for scanned layers [num_layers, 1, ...] that broadcasts over the parameter.

    Raises:
      ValueError: as `make_optimizer`.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(nn.unbox(params))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    matched = [match(path, rules) for path in paths]
    scales = [
        np.float32(layer_decay) ** _depth(rule, path, np.shape(leaf), num_layers)
        for rule, path, (_, leaf) in zip(matched, paths, leaves, strict=True)
    ]
    decayed = [rule.weight_decay for rule in matched]
    return jax.tree.unflatten(tree, decayed), jax.tree.unflatten(tree, scales)


def match(path: str, rules: tuple[Rule, ...] = RULES) -> Rule:
    """Returns the one rule that the parameter path matches.

    Raises:
      ValueError: none or several match.
    """
    found = [rule for rule in rules if re.fullmatch(rule.pattern, path)]
    if len(found) == 1:
        return found[0]
    if found:
        patterns = " and ".join(repr(rule.pattern) for rule in found)
        raise ValueError(f"parameter {path!r} matches {len(found)} optimizer rules, exactly one may: {patterns}")
    patterns = ", ".join(repr(rule.pattern) for rule in rules)
    raise ValueError(f"parameter {path!r} matches no optimizer rule; the rules are {patterns}")


def _depth(rule: Rule, path: str, shape: tuple[int, ...], num_layers: int) -> np.ndarray:
    """Returns how many times the decay applies: a scalar, or [num_layers, 1, ...] for stacked layers."""
    if rule.depth == "top":
        return np.asarray(0)
    if rule.depth == "embedding":
        return np.asarray(num_layers + 1)
    number = re.match(r"layers_(\d+)/", path)
    if number is None:
        if not shape or shape[0] != num_layers:
            raise ValueError(f"parameter {path!r} of shape {shape}: its first axis must be num_layers={num_layers}")
        return (num_layers - np.arange(num_layers)).reshape([num_layers] + [1] * (len(shape) - 1))
    layer = int(number[1])
    if layer >= num_layers:
        raise ValueError(f"parameter {path!r}: there are only num_layers={num_layers} layers")
    return np.asarray(num_layers - layer)


def _decay(weight_decay: float, decayed: Any, scale: Any) -> optax.GradientTransformation:
    """Returns scale * update + weight_decay * parameter; it must stand before the sign flip of the learning rate."""

    def update(updates: Any, params: Any) -> Any:
        if params is None:
            raise ValueError("the optimizer's update needs the parameters: call update(gradients, state, params)")
        return jax.tree.map(
            lambda u, p, on, s: s * u + weight_decay * p if on and weight_decay else s * u,
            updates,
            params,
            decayed,
            scale,
        )

    return optax.stateless(update)
