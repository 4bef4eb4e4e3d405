"""A linear model, whose gradients numpy can write down, and a training step of it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ernie_m_jax import sharding
from ernie_m_jax.training import optimizer, state
from ernie_m_jax.training.step import make_train_step
from tests.mesh_worker import ADAMW, ONE


class Linear(nn.Module):
    """prediction = x @ kernel"""

    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
        return x @ self.param("kernel", init, (x.shape[-1],))


def squares(params, batch, rng):
    """Sum of w * (x @ kernel - y)^2 with weight sum of w."""
    errors = jnp.square(batch["x"] @ params["kernel"] - batch["y"])
    total, weight = jnp.sum(batch["w"] * errors), jnp.sum(batch["w"])
    return {"loss": (total, weight), "rows": (jnp.sum(batch["w"] > 0), 1)}


def problem(seed=0, rows=32):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 9, size=rows).astype(np.float32)  # unequal, some zero
    return {
        "x": rng.normal(size=(rows, 5)).astype(np.float32),
        "y": rng.normal(size=rows).astype(np.float32),
        "w": weights,
    }


def adam(rate=lambda step: 0.1, size=5, **keys):
    """Our optimizer of the problem's one parameter, without weight decay and clipping unless the keys ask for them."""
    config = dataclasses.replace(ADAMW, **{"weight_decay": 0.0, "clip_norm": 0.0} | keys)
    rules = (optimizer.Rule("kernel", weight_decay=True, depth="top"),)
    return optimizer.make_optimizer(config, rate, {"kernel": np.zeros(size)}, 1, rules)


def setup(loss_fn=squares, microbatches=1, tx=None, rate=lambda step: 0.1 * (step + 1), limited=False, width=5):
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    tx = tx or optax.with_extra_args_support(optax.sgd(1.0))
    start = state.create_state(Linear(), lambda params: tx, mesh, jax.random.key(0), np.zeros((1, width), np.float32))
    return start, make_train_step(loss_fn, tx, rate, microbatches, mesh, state.shardings(start), limited)
