"""The worker of the mesh tests: a small model trained on 8 virtual devices, in a process of its own.

Run as a program it trains on the meshes that are named and on one device, and prints JSON.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax import sharding
from ernie_m_jax.config import ComputeConfig, MeshConfig, ModelConfig, OptimizerConfig, StageConfig
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.training import optimizer, state
from ernie_m_jax.training.step import make_train_step

ONE = MeshConfig(data=1, fsdp=1, tensor=1)
MESHES = {
    "data": MeshConfig(data=-1, fsdp=1, tensor=1),
    "fsdp": MeshConfig(data=1, fsdp=8, tensor=1),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
}
STEPS, ROWS, LENGTH = 20, 16, 12

MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    ffn_size=64,
    max_positions=16,
    first_position=2,
    pad_id=1,
    layer_norm_eps=1e-5,
    initializer_range=0.02,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    num_languages=3,
    language_embedding="slots",
    num_token_types=0,
    pooler=True,
    mlm_head="dense",
    head="none",
    num_labels=2,
)
COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16)
ADAMW = OptimizerConfig(b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, layer_decay=0.8, clip_norm=1.0)
STAGE = StageConfig(steps=STEPS, weights={}, learning_rate=1e-3, warmup_steps=4, schedule="linear", final_fraction=0.0)
TABLE = np.ones((1, 1), bool)


def tokens(step):
    """A batch of random rows of different lengths; a random part of the tokens is scored."""
    rng = np.random.default_rng(step)
    ids = rng.integers(4, MODEL.vocab_size, size=(ROWS, LENGTH))
    inside = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, size=(ROWS, 1))
    positions = np.broadcast_to(np.arange(LENGTH), ids.shape)
    arrays = {
        "ids": np.where(inside, ids, MODEL.pad_id),
        "positions": positions * inside,
        "segments": inside,
        "roles": 0 * ids,
        "languages": rng.integers(0, 4, size=ids.shape) * inside,
        "labels": (3 * ids + 1) % MODEL.vocab_size,
        "scored": inside & (rng.random(ids.shape) < 0.4),
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def inputs_of(batch):
    return Inputs.of(batch)


def masked_loss(model, params, batch, rng):
    apply = functools.partial(model.apply, {"params": params})
    hidden = apply(inputs_of(batch), TABLE, method="encode")
    scores = apply(hidden.reshape(-1, MODEL.hidden_size), batch["labels"].reshape(-1), method="score")
    scored = batch["scored"].reshape(-1)
    return {"loss": (jnp.sum(scores.loss * scored), jnp.sum(scored))}


def train(mesh_config, devices, microbatches):
    """Returns the initial parameters, in how many parts each array of the state lies, and the loss of every step."""
    mesh = sharding.make_mesh(mesh_config, devices)
    model = ErnieM(MODEL, COMPUTE)
    rate = optimizer.schedule(STAGE)
    factory = functools.partial(_factory, rate)
    run = state.create_state(model, factory, mesh, jax.random.key(7), inputs_of(tokens(0)), TABLE)
    initial = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf).ravel().tolist()
        for path, leaf in jax.tree_util.tree_flatten_with_path(run.params)[0]
    }
    shares = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size / leaf.addressable_shards[0].data.size
        for path, leaf in jax.tree_util.tree_flatten_with_path(run)[0]
    }
    tx = factory(run.params)
    train_step = make_train_step(
        functools.partial(masked_loss, model), tx, rate, microbatches, mesh, state.shardings(run)
    )
    key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    losses = []
    for step in range(STEPS):
        run, sums = train_step(run, jax.device_put(tokens(step), sharding.batch_sharding(mesh)), key)
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
    return {"initial": initial, "shares": shares, "losses": losses}


def _factory(rate, params):
    return optimizer.make_optimizer(ADAMW, rate, params, MODEL.num_layers)


def worker(*names):
    """Trains on the named meshes, and on one device, in a process of its own with 8 virtual devices."""
    root = Path(__file__).parent.parent
    environment = os.environ | {
        # Most of the time is compilation; without its optimisations it takes half as long.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-W", "error", __file__, *names]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    results = {"one": train(ONE, jax.devices()[:1], 1)}
    # Microbatches too must make no difference: 16 rows fit 8 devices twice.
    results |= {name: train(MESHES[name], jax.devices(), 2) for name in sys.argv[1:]}
    print(json.dumps(results))
