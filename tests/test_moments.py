"""Adam's moments in bfloat16 between steps: what is kept, what a step computes, checkpoints, the loss all the same."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import ConfigError, OptimizerConfig
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import loop, optimizer, stages
from tests.conftest import VOCAB_SIZE, small_tree

ADAMW = OptimizerConfig(
    b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, layer_decay=1.0, clip_norm=0.0, moments_dtype="bfloat16"
)
BITS = 2.0**-8  # half of what the last of bfloat16's 8 bits stands for, relative


def test_a_step_is_adams_and_only_what_it_leaves_is_rounded():
    rng = np.random.default_rng(0)
    params = {"embeddings": {"word": rng.normal(size=(50, 8)).astype(np.float32)}}
    tx = optimizer.make_optimizer(ADAMW, lambda step: 0.5, params, 1)
    state = tx.init(params)
    for t in range(1, 6):
        gradient = rng.normal(size=(50, 8)).astype(np.float32)
        m, v = (np.asarray(moment["embeddings"]["word"], np.float64) for moment in (state[1].mu, state[1].nu))
        updates, state = jax.jit(tx.update)({"embeddings": {"word": gradient}}, state, params)
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient.astype(np.float64) ** 2
        direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.98**t)) + 1e-6) + 0.01 * params["embeddings"]["word"]
        np.testing.assert_allclose(updates["embeddings"]["word"], -0.5 * direction, rtol=1e-5, atol=1e-6)
        for kept, moment in ((state[1].mu, m), (state[1].nu, v)):
            assert kept["embeddings"]["word"].dtype == jnp.bfloat16
            np.testing.assert_allclose(
                np.asarray(kept["embeddings"]["word"], np.float64), moment, rtol=BITS, atol=1e-30
            )


def make_run(**keys):
    config = configs.resolve(small_tree(**keys))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    evaluations = Evaluations(dataclasses.replace(config, evals={}))
    tokenizer = types.SimpleNamespace(fingerprint="none")
    run = stages.Run(config, tokenizer, stages.make_model(config, mesh), mesh, {}, evaluations)
    return run, stages.make_stage(config, "one", Path("one"))


def train(run, stage, state, steps):
    """The state after steps on one batch, and their losses."""
    step, key, losses = stages.compiled_steps(run, stage)["mmlm"], loop.run_key(0, run.mesh), []
    rows = batches.synthetic(tasks.bind(run.config, "mmlm").spec(), run.config.train.batch_size, VOCAB_SIZE)
    for _ in range(steps):
        batch = batches.to_global(rows, run.config.train.batch_size, sharding.batch_sharding(run.mesh))
        state, sums = step(state, batch, key)
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
    return state, losses


def tree_of(dtype):
    return {"optimizer__moments_dtype": dtype, "model__num_layers": 1, "train__max_to_keep": 0}


@pytest.mark.slow
def test_the_loss_falls_as_with_float32_and_a_run_goes_on_bit_for_bit(tmp_path):
    exact = make_run(**tree_of("float32"))
    _, wanted = train(*exact, stages.initial_state(*exact, None), 12)
    run, stage = make_run(**tree_of("bfloat16"))
    state, losses = train(run, stage, stages.initial_state(run, stage, None), 6)
    moments = {name: leaf for name, leaf in tree.named(state.opt_state).items() if "mu/" in name or "nu/" in name}
    assert len(moments) == 2 * len(tree.named(state.params))
    assert {leaf.dtype for leaf in moments.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in tree.named(state.params).values()} == {jnp.dtype("float32")}
    saved = stages.checkpoints(run, tmp_path)
    saved.save(6, state, {}, {})
    saved.wait()
    state, more = train(run, stage, state, 6)
    assert wanted[-1] < 0.9 * wanted[0]
    np.testing.assert_allclose([*losses, *more], wanted, rtol=2e-3)
    assert [*losses, *more] != wanted
    again, _, _ = stages.checkpoints(run, tmp_path).restore(6, stages.abstract_state(run, stage))
    again, repeated = train(run, stage, again, 6)
    assert repeated == more
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_moments_that_would_stand_still_are_refused():
    slow = {"optimizer__moments_dtype": "bfloat16", "optimizer__b2": 0.999}
    with pytest.raises(ConfigError, match=r"config\.optimizer\.moments_dtype is 'bfloat16'.*b2 0\.999.*at most 0\.98"):
        configs.resolve(small_tree(**slow))
    configs.resolve(small_tree(**slow | {"optimizer__moments_dtype": "float32"}))
