"""The training step: microbatches must not change a batch's numbers, nor a step without weight the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import sharding
from ernie_m_jax.config import ConfigError
from tests.linear_model import adam, problem, setup, squares

WIDTH = 2**19  # of a parameter large enough for its copies to stand out


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
