"""State and step: microbatches, meshes and weights must not change the numbers of one big batch on one device.

Run as a program this file is the worker of the mesh tests: it trains on 8 virtual devices and prints JSON.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ernie_m_jax import sharding
from ernie_m_jax.config import ComputeConfig, ConfigError, MeshConfig, ModelConfig, OptimizerConfig, StageConfig
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

# --- a linear model, whose gradients numpy can write down -------------------------------------------------------------


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


WIDTH = 2**19  # of a parameter large enough for its copies to stand out


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


@pytest.mark.parametrize("microbatches", [1, 2, 4, 32])
def test_gradient_is_that_of_the_weighted_mean_whatever_the_microbatches(microbatches):
    batch = problem()
    start, train_step = setup(microbatches=microbatches)
    kernel = np.asarray(start.params["kernel"], np.float64)
    end, sums = train_step(start, batch, jax.random.key(1))
    errors = batch["x"].astype(np.float64) @ kernel - batch["y"]
    gradient = 2 * (batch["w"] * errors) @ batch["x"] / batch["w"].sum()
    np.testing.assert_allclose(end.params["kernel"], kernel - gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums["loss"][0], np.sum(batch["w"] * errors**2), rtol=1e-5)
    assert sums["loss"][1] == batch["w"].sum()
    assert sums["rows"] == (np.sum(batch["w"] > 0), microbatches)
    np.testing.assert_allclose(sums["gradient_norm"], (np.linalg.norm(gradient), 1.0), rtol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_batch_of_weight_zero_changes_nothing(microbatches):
    batch = problem() | {"w": np.zeros(32, np.float32)}
    start, train_step = setup(microbatches=microbatches)
    before = np.asarray(start.params["kernel"]).copy()
    end, sums = train_step(start, batch, jax.random.key(1))
    np.testing.assert_array_equal(end.params["kernel"], before)
    assert sums["loss"] == (0, 0)
    assert sums["gradient_norm"] == (0, 1)


def test_weight_zero_leaves_the_optimizer_alone_and_says_so():
    start, train_step = setup(tx=adam(weight_decay=0.5))
    start, _ = train_step(start, problem(), jax.random.key(1))  # so that Adam has moments
    before = jax.tree.map(np.asarray, (start.params, start.opt_state[1]))
    end, sums = train_step(start, problem() | {"w": np.zeros(32, np.float32)}, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, (end.params, end.opt_state[1]), before)
    assert sums["skipped"] == (1, 1)


def test_a_loss_above_the_limit_changes_nothing_but_the_counts_without_compiling_again():
    batch = problem()
    tx = adam()
    start, train_step = setup(tx=tx, limited=True)
    kernel = np.asarray(start.params["kernel"], np.float64)
    errors = batch["x"].astype(np.float64) @ kernel - batch["y"]
    loss = float(np.sum(batch["w"] * errors**2) / batch["w"].sum())
    free, unlimited = setup(tx=tx)
    free, _ = unlimited(free, batch, jax.random.key(1))
    for limit, skipped in ((0.99 * loss, 1), (np.inf, 0), (1.01 * loss, 0)):
        start, _ = setup(tx=tx)
        before = jax.tree.map(np.asarray, (start.params, start.opt_state[1]))
        end, sums = train_step(start, batch, jax.random.key(1), np.float32(limit))
        assert sums["skipped"] == (skipped, 1)
        assert sums["loss_limit"] == ((0, 0) if np.isinf(limit) else (np.float32(limit), 1))
        expected = before if skipped else (free.params, free.opt_state[1])
        jax.tree.map(np.testing.assert_array_equal, (end.params, end.opt_state[1]), expected)
        assert int(end.step) == 1
    assert train_step._cache_size() == 1


def test_nothing_but_gradients_is_written_beside_the_state():
    """On a CPU: neither old moments, which are overwritten, nor a gradient's squares or its clipped copy."""
    start, train_step = setup(tx=adam(clip_norm=1.0, size=WIDTH), width=WIDTH)
    batch = {"x": np.ones((2, WIDTH), np.float32), "y": np.zeros(2, np.float32), "w": np.ones(2, np.float32)}
    memory = train_step.lower(start, batch, jax.random.key(1)).compile().memory_analysis()
    assert memory.alias_size_in_bytes > 3 * 4 * WIDTH
    assert memory.temp_size_in_bytes < 1.2 * 4 * WIDTH


def test_weight_zero_with_an_undefined_gradient_is_zero_too():
    def undefined(params, batch, rng):
        return {"loss": (jnp.sum(jnp.sqrt(0.0 * params["kernel"])), 0.0)}

    start, train_step = setup(undefined)
    before = np.asarray(start.params["kernel"]).copy()
    end, _ = train_step(start, problem(), jax.random.key(1))
    np.testing.assert_array_equal(end.params["kernel"], before)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(where):
    def sometimes(params, batch, rng):
        sums = squares(params, batch, rng)
        bad = batch["w"][0] < 0
        # sqrt(0) has the value 0 and an infinite slope.
        slope = jnp.sqrt(jnp.where(bad, 0.0 * jnp.sum(params["kernel"]), 1.0))
        added = slope if where == "gradient" else jnp.where(bad, jnp.nan, 0.0)
        return sums | {"loss": (sums["loss"][0] + added, sums["loss"][1])}

    def rate(step):
        return 0.1 * (step + 1.0)

    tx = adam(rate)
    good, bad = problem(), problem()
    good["w"][0], bad["w"][0] = 3, -1
    kernels = {}
    for name, batches in {"undisturbed": [good, good], "disturbed": [good, bad, good]}.items():
        run, train_step = setup(sometimes, tx=tx, rate=rate)
        for batch in batches:
            before = jax.tree.map(np.asarray, (run.params, run.opt_state[1]))
            run, sums = train_step(run, batch, jax.random.key(1))
            if batch is bad:
                assert sums["skipped"] == (1, 1)
                jax.tree.map(np.testing.assert_array_equal, (run.params, run.opt_state[1]), before)
            else:
                assert sums["skipped"] == (0, 1)
        kernels[name] = np.asarray(run.params["kernel"]), np.asarray(before[0]["kernel"])
        assert int(run.step) == int(run.opt_state[-1].count) == len(batches)
    # The last update is the same but for the learning rate, which is that of the step.
    steps = {name: (after - before) for name, (after, before) in kernels.items()}
    np.testing.assert_allclose(steps["disturbed"] / 0.3, steps["undisturbed"] / 0.2, rtol=1e-5)


def test_steps_count_report_their_learning_rate_and_compile_once():
    traces = []

    def counting(params, batch, rng):
        traces.append(None)
        return squares(params, batch, rng)

    run, train_step = setup(counting, microbatches=2, tx=adam())
    key = jax.device_put(jax.random.key(1), sharding.replicated(run.step.sharding.mesh))
    rates, traced = [], []
    for seed in range(3):
        batch = jax.device_put(problem(seed), sharding.batch_sharding(run.step.sharding.mesh))
        with jax.transfer_guard("disallow"):
            run, sums = train_step(run, batch, key)
        rates.append(float(sums["learning_rate"][0]))
        traced.append(len(traces))
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3], rtol=1e-6)
    assert run.step == 3
    assert run.step.dtype == jnp.int32
    assert traced[0] == traced[-1]


def test_the_old_state_is_donated():
    start, train_step = setup()
    end, _ = train_step(start, problem(), jax.random.key(1))
    assert start.params["kernel"].is_deleted()
    assert not end.params["kernel"].is_deleted()


def test_random_numbers_differ_by_microbatch_and_step_and_repeat_with_the_key():
    def noise(params, batch, rng):
        draw = jax.random.uniform(rng)
        return {"loss": (0.0 * jnp.sum(params["kernel"]), 1.0), "draw": (draw, 1.0), "square": (draw**2, 1.0)}

    start, train_step = setup(noise, microbatches=2)

    def draws(seed):
        run, out = jax.tree.map(jnp.copy, start), []  # the step donates what it is given
        for _ in range(2):
            run, sums = train_step(run, problem(), jax.random.key(seed))
            out.append((float(sums["draw"][0]), float(sums["square"][0])))
        return out

    first, second = draws(1)
    assert abs(2 * first[1] - first[0] ** 2) > 1e-4  # equal draws a, a would give 2 * (2a^2) = (2a)^2
    assert first != second
    assert draws(1) == [first, second]
    assert draws(2) != [first, second]


def test_uneven_rows_are_refused():
    start, train_step = setup(microbatches=5)
    with pytest.raises(ConfigError, match=r"train.batch_size=32.*train.grad_accumulation_steps=5"):
        train_step(start, problem(), jax.random.key(1))


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ({"nll": (1.0, 1.0)}, r"'loss'; it returned \['nll'\]"),
        ({"loss": (1.0, 1.0), "gradient_norm": (1.0, 1.0)}, "gradient_norm"),
        ({"loss": (1.0, 1.0), "correct": (jnp.ones(3), 1.0)}, "'correct' must be two scalars"),
    ],
)
def test_sums_that_break_the_contract_are_refused(sums, message):
    start, train_step = setup(lambda params, batch, rng: sums)
    with pytest.raises(ValueError, match=message):
        train_step(start, problem(), jax.random.key(1))


def test_microbatches_below_one_are_refused():
    with pytest.raises(ConfigError, match=r"config\.train\.grad_accumulation_steps is 0; it must be at least 1"):
        setup(microbatches=0)


def test_the_initial_parameters_are_the_models_own():
    start, _ = setup()
    boxed = Linear().init(jax.random.key(0), np.zeros((1, 5), np.float32))["params"]
    np.testing.assert_array_equal(start.params["kernel"], boxed["kernel"].value)
    assert start.step == 0


def test_state_from_params_starts_where_it_is_told():
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    tx = optax.adam(0.1)
    abstract = state.abstract_state(Linear(), lambda params: tx, mesh, jax.random.key(0), np.zeros((1, 5), np.float32))
    kernel = np.arange(5, dtype=np.float32)
    got = state.state_from_params({"kernel": kernel}, tx, abstract)
    np.testing.assert_array_equal(got.params["kernel"], kernel)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), abstract
    )
    with pytest.raises(ValueError, match=r"missing \['kernel'\], unknown \['weight'\]"):
        state.state_from_params({"weight": kernel}, tx, abstract)
    with pytest.raises(ValueError, match=r"'kernel' is float32\(4,\), the model's is float32\(5,\)"):
        state.state_from_params({"kernel": kernel[:4]}, tx, abstract)


# --- the real model on 8 virtual devices ------------------------------------------------------------------------------

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


def check_equal(got, want):
    """Same initial parameters, same loss at every step."""
    assert got["initial"].keys() == want["initial"].keys()
    for path, values in want["initial"].items():
        np.testing.assert_allclose(got["initial"][path], values, rtol=1e-6, atol=1e-8, err_msg=path)
    assert want["losses"][-1] < want["losses"][0]
    np.testing.assert_allclose(got["losses"], want["losses"], rtol=1e-5)


@pytest.fixture(scope="module")
def runs():
    return worker("fsdp", "all")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "all"])
def test_every_mesh_starts_and_learns_as_one_device(runs, name):
    check_equal(runs[name], runs["one"])


@pytest.mark.slow
def test_data_parallelism_starts_and_learns_as_one_device():
    results = worker("data")
    check_equal(results["data"], results["one"])
    assert set(results["data"]["shares"].values()) == {1}


@pytest.mark.slow
def test_parameters_and_moments_are_born_in_shards(runs):
    def share(name, path):
        found = {value for key, value in runs[name]["shares"].items() if key.endswith(path)}
        assert len(found) == 1  # parameter and both moments agree
        return found.pop()

    assert [key for key in runs["all"]["shares"] if key.endswith("mu/embeddings/word")]
    assert share("fsdp", "embeddings/word") == 8
    assert share("all", "embeddings/word") == 4
    assert share("all", "layers/ffn/intermediate/kernel") == 4
    assert share("all", "layers/attention/query/bias") == 2
    assert share("all", "embeddings/layer_norm/scale") == 1


if __name__ == "__main__":
    results = {"one": train(ONE, jax.devices()[:1], 1)}
    # Microbatches too must make no difference: 16 rows fit 8 devices twice.
    results |= {name: train(MESHES[name], jax.devices(), 2) for name in sys.argv[1:]}
    print(json.dumps(results))
