"""The compiled step: (state, batch, key) -> (state, sums). Nothing here waits for a device or knows an objective.

Losses are (total, weight) pairs until the end: gradients of totals are added up, then divided once by the summed
weight, so microbatches and devices, however many, give the numbers of one big batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ernie_m_jax import compiler, config_fields, sharding
from ernie_m_jax.config import TrainConfig
from ernie_m_jax.task import Batch, Sums
from ernie_m_jax.training.state import Purpose, TrainState

LossFn = Callable[[Any, Batch, jax.Array], Sums]

_ADDENDS, _SUMS = 16, 32  # how many squares are added up at once, and how many such sums lie side by side

OWN_SUMS = ("gradient_norm", "learning_rate", "skipped", "loss_limit")


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rate: optax.Schedule,
    microbatches: int,
    mesh: Mesh,
    state_shardings: TrainState,
    limited: bool = False,
) -> jax.stages.Wrapped:
    """Returns the jitted step of one objective; it donates the state it is given.

    Args:
      loss_fn: (params, batch, rng) -> Sums of scalars; "loss" is what is trained on. It must not divide.
      optimizer: as `make_optimizer` returns it: another's state would not stay what it was where a step is skipped. Its
        learning rate should be the next argument.
      learning_rate: step -> learning rate, for the report only.
      microbatches: number of parts that a batch is computed in, one after the other.
      mesh: the devices.
      state_shardings: `state.shardings(...)`; the new state has the same.
      limited: whether the step takes one more argument, the limit of its mean loss: float32, `replicated(mesh)`.

    Returns:
      (state, batch, key) -> (new state, sums); where it is limited, (state, batch, key, limit) -> the same. Every array
      of the batch is [rows, ...] with `batch_sharding(mesh)`. `key` is the run's key, the same every step, put on the
      mesh (`replicated(mesh)`) once by the caller. The sums are loss_fn's added up over the batch (float32,
      replicated), plus "gradient_norm" (of the mean loss, before clipping), "learning_rate" and "skipped" (0 or 1),
      each with weight 1, and where it is limited "loss_limit", of weight 0 while it is infinite. If the loss or the
      gradient norm is not finite, the weight is 0 or the mean loss is above the limit, "skipped" is 1, and parameters
      and optimizer state stay what they were; only the step and the schedule count on.

    Raises:
      ConfigError: `microbatches` is below 1.
      ValueError: when it is traced, if the rows do not divide or loss_fn returns no "loss" or a name of ours.
    """
    config_fields.check_value(
        TrainConfig, "grad_accumulation_steps", microbatches, "config.train.grad_accumulation_steps"
    )

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array, limit: jax.Array | None = None
    ) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.fold_in(key, Purpose.TRAIN), state.step)
        gradients, sums = accumulate(loss_fn, state.params, batch, rng, microbatches, mesh, state_shardings.params)
        norm = _norm(gradients, mesh)
        total, weight = sums["loss"]
        kept = jnp.isfinite(total) & jnp.isfinite(norm) & (weight > 0)
        if limit is not None:
            kept &= total <= limit * weight
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, norm=norm, kept=kept)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            step=state.step + 1,
            params=jax.tree.map(functools.partial(jnp.where, kept), params, state.params),
            opt_state=opt_state,
        )
        one = jnp.ones((), jnp.float32)
        own = {
            "gradient_norm": (norm, one),
            "learning_rate": (learning_rate(state.step), one),
            "skipped": (1.0 - kept.astype(jnp.float32), one),
        }
        if limit is not None:
            known = jnp.isfinite(limit)
            own["loss_limit"] = (jnp.where(known, limit, 0.0), known.astype(jnp.float32))
        return new, sums | own

    return compiler.jit(
        train_step,
        mesh,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), None, *([None] if limited else [])),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def _norm(gradients: Any, mesh: Mesh) -> jax.Array:
    """The global norm.

    XLA for CPUs writes down the squares of an array before it adds up more than 32 of them. On one CPU the first sums
    are of 16, which it computes as it squares, in a sixth of the time; several devices would have to exchange what is
    reshaped. An array whose size does not divide is small.
    """

    def sum_of_squares(array: jax.Array) -> jax.Array:
        squares = jnp.square(array)
        if not in_groups or array.size % (_ADDENDS * _SUMS):
            return jnp.sum(squares)
        # Without the barrier XLA makes one sum of the two.
        return jnp.sum(jax.lax.optimization_barrier(jnp.sum(squares.reshape(-1, _ADDENDS, _SUMS), axis=1)))

    in_groups = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return jnp.sqrt(sum(map(sum_of_squares, jax.tree.leaves(gradients))))


def accumulate(
    loss_fn: LossFn, params: Any, batch: Batch, rng: jax.Array, microbatches: int, mesh: Mesh, param_shardings: Any
) -> tuple[Any, Sums]:
    """Returns the gradients of the mean loss over the whole batch, and the sums over it.

    Microbatch i is computed with `fold_in(rng, i)`. The mean is total / weight of "loss", each summed over all of them.
    """

    def part(microbatch: Batch, index: jax.Array | int) -> tuple[Any, Sums]:
        def total(p: Any) -> tuple[jax.Array, Sums]:
            sums = _checked(loss_fn(p, microbatch, jax.random.fold_in(rng, index)))
            return sums["loss"][0], sums

        gradients, sums = jax.grad(total, has_aux=True)(params)
        # A sum lives where its parameter lives: with fsdp each device holds its share of it only.
        return jax.lax.with_sharding_constraint(gradients, param_shardings), sums

    if microbatches == 1:
        gradients, sums = part(batch, 0)
    else:
        parts = split(batch, microbatches, mesh)
        first = jax.tree.map(lambda array: array[0], parts)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, first, 0))

        def body(carry: Any, indexed: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, part(*indexed)), None

        (gradients, sums), _ = jax.lax.scan(body, zeros, (parts, jnp.arange(microbatches)))
    weight = sums["loss"][1]
    return jax.tree.map(lambda g: jnp.where(weight > 0, g / jnp.where(weight > 0, weight, 1.0), 0.0), gradients), sums


def split(batch: Batch, microbatches: int, mesh: Mesh) -> Batch:
    """Returns the batch with arrays [microbatches, rows / microbatches, ...].

    Microbatch i takes rows i, i + microbatches, ...: a device's block of rows gives every microbatch its share, and
    nothing moves between devices.

    Raises:
      ValueError: the rows are not divisible by microbatches * data * fsdp.
    """
    where = NamedSharding(mesh, PartitionSpec(None, sharding.ROWS))

    def one(array: jax.Array) -> jax.Array:
        sharding.check_rows(mesh, array.shape[0], microbatches)
        parts = array.reshape(array.shape[0] // microbatches, microbatches, *array.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, where)

    return jax.tree.map(one, batch)


def _checked(sums: Sums) -> Sums:
    """Returns loss_fn's sums in float32, or raises ValueError if their names or shapes break the contract."""
    if "loss" not in sums:
        raise ValueError(f"loss_fn must return the training loss under 'loss'; it returned {sorted(sums)}")
    if taken := sorted(set(OWN_SUMS) & set(sums)):
        raise ValueError(f"loss_fn returned {taken}, which the step itself reports")
    for name, pair in sums.items():
        if len(pair) != 2 or any(jnp.shape(value) for value in pair):
            raise ValueError(f"loss_fn's {name!r} must be two scalars (total, weight)")
    return {name: (jnp.asarray(t, jnp.float32), jnp.asarray(w, jnp.float32)) for name, (t, w) in sums.items()}
