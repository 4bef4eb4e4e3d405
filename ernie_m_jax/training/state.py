"""What training changes: step, parameters and optimizer state, created on the devices where they stay.

A Linen model, an optimizer and a mesh come in; a `TrainState` of sharded arrays goes out, or its abstract twin for the
checkpoint and for ahead-of-time compilation.
"""

import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from ernie_m_jax import sharding
from ernie_m_jax.checkpoint import tree

OptimizerFactory = Callable[[Any], optax.GradientTransformationExtraArgs]


class Purpose(enum.IntEnum):
    """What a key of the run is folded in with first, so that no two uses share random numbers."""

    INIT = 0
    TRAIN = 1
    EVALUATE = 2


class TrainState(struct.PyTreeNode):
    """Everything the step reads and returns.

    Attributes:
      step: int32 scalar, number of updates done.
      params: the model's parameter tree, float32, without boxes.
      opt_state: the optimizer's state, sharded like the parameters.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def abstract_state(
    model: nn.Module, optimizer_factory: OptimizerFactory, mesh: Mesh, rng: jax.Array, *inputs: Any
) -> TrainState:
    """Returns the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct`s) without computing anything.

    Args:
      model: its `init(rng, *inputs)` must touch every parameter.
      optimizer_factory: parameter tree (here abstract) -> optimizer, as `make_optimizer` with the rest bound.
      mesh: the devices.
      rng: a key; its value does not matter here.
      *inputs: example inputs of `model.init`; only shapes, dtypes and static values matter.

    Raises:
      ValueError: a parameter without a rule of its sharding or its optimizer.
    """
    boxed = jax.eval_shape(_init(model, optimizer_factory, inputs), rng)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        sharding.unbox(boxed),
        sharding.state_sharding(mesh, boxed),
    )


def create_state(
    model: nn.Module, optimizer_factory: OptimizerFactory, mesh: Mesh, rng: jax.Array, *inputs: Any
) -> TrainState:
    """Returns a new state at step 0; every array is created in its shards, and its values do not depend on the mesh.

    Args and raises: as `abstract_state`; `rng` is the key of the parameters (fold in `Purpose.INIT` first).
    """
    init = _init(model, optimizer_factory, inputs)
    out = sharding.state_sharding(mesh, jax.eval_shape(init, rng))
    return jax.jit(lambda key: sharding.unbox(init(key)), out_shardings=out)(rng)


def state_from_params(params: Any, optimizer: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """Returns a state at step 0 that starts from given parameters (a converted model), placed as `abstract` says.

    Raises:
      ValueError: the tree, a shape or a dtype differs from `abstract.params`.
    """
    expected, given = tree.named(abstract.params), tree.named(params)
    if expected.keys() != given.keys():
        missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        raise ValueError(f"parameters do not fit the model: missing {missing}, unknown {unknown}")
    for path, want in expected.items():
        have = given[path]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            raise ValueError(f"parameter {path!r} is {have.dtype}{have.shape}, the model's is {want.dtype}{want.shape}")
    placed = jax.device_put(params, shardings(abstract).params)
    rest = jax.jit(
        lambda p: (jnp.zeros((), jnp.int32), optimizer.init(p)),
        out_shardings=(abstract.step.sharding, shardings(abstract).opt_state),
    )(placed)
    return TrainState(step=rest[0], params=placed, opt_state=rest[1])


def shardings(state: TrainState) -> TrainState:
    """Returns the state's shardings, of a concrete or an abstract state."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def _init(model: nn.Module, optimizer_factory: OptimizerFactory, inputs: tuple[Any, ...]) -> Callable[..., TrainState]:
    """Returns key -> boxed state; the optimizer starts from the boxes, so its moments carry the same axis names."""

    def init(rng: jax.Array) -> TrainState:
        params = model.init(rng, *inputs)["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer_factory(params).init(params)
        )

    return init
