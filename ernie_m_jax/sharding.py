"""Where arrays live: the mesh, and one table from logical axis names to mesh axes.

A `MeshConfig` and the model's logically partitioned parameters come in; `Mesh` and `NamedSharding`s go out, for the
initialisation, the step, the loader and the checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ernie_m_jax.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor")
_LANES = 128
ROWS = ("data", "fsdp")  # the mesh axes over which the rows of a batch are spread

# Megatron's split over `tensor` (heads, FFN, vocabulary), ZeRO-3's over `fsdp`; what is small stays whole.
RULES: Mapping[str, str | None] = {
    "vocab": "tensor",
    "heads": "tensor",
    "ffn": "tensor",
    "embed": "fsdp",
    "embed_out": None,
    "head_dim": None,
    "labels": None,
    "language": None,
    "layers": None,
    "norm": None,
    "position": None,
    "token_type": None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh with the axes data, fsdp and tensor.

    Args:
      config: devices per axis; one of them may be -1, the rest of the devices.
      devices: which devices; all of them (of all hosts) if None.

    Raises:
      ConfigError: a size that is neither positive nor -1, two -1, or a product that is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: getattr(config, axis) for axis in AXES}
    said = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"{said}: each must be a positive number of devices, or -1 for the rest of them")
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise ConfigError(f"{said}: only one of them may be -1 (the rest of the devices)")
    given = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % given or (not rest and given != len(devices)):
        raise ConfigError(
            f"{said}: their product must be the number of devices, {len(devices)}"
            + (f"; mesh.{rest[0]}=-1 cannot make up for {given}" if rest else "")
        )
    if rest:
        sizes[rest[0]] = len(devices) // given
    # Linen's partitioning metadata needs Auto axes; recent versions of jax.make_mesh make Explicit ones by default.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: rows (axis 0) over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: keys, steps, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def table_rows(mesh: Mesh, words: int) -> int:
    """Returns how many rows the word table has on the devices: as many as words, or more, for `tensor` to split it.

    Each device then holds whole blocks of 128 rows, the width of a TPU's lanes, so that no chunk of the products with
    the table is ragged. On disk and in every other format it has a row per word (`checkpoint/tables.py`).

    Args:
      mesh: the devices.
      words: entries of the vocabulary.
    """
    blocks = mesh.shape["tensor"] * _LANES
    return words if mesh.shape["tensor"] == 1 else -(-words // blocks) * blocks


def check_rows(mesh: Mesh, rows: int, microbatches: int) -> None:
    """Checks that a global batch splits evenly into microbatches and each of these over the devices.

    Raises:
      ConfigError: it does not.
    """
    shards = math.prod(mesh.shape[axis] for axis in ROWS)
    if microbatches < 1 or rows < 1 or rows % (microbatches * shards):
        raise ConfigError(
            f"train.batch_size={rows} must be a positive multiple of train.grad_accumulation_steps={microbatches} "
            f"times mesh.data * mesh.fsdp = {shards}"
        )


def owned_parts(mesh: Mesh, parts: int, process: int | None = None) -> tuple[list[int], bool]:
    """Which of so many equal parts of a batch's rows the devices of a process hold.

    Processes that split the tensor axis among them hold the same rows.

    Args:
      mesh: the devices of all processes.
      parts: of the rows, in order; virtual streams.
      process: which; this one if None.

    Returns:
      The parts, ascending, and whether the process is the first of those that hold them.

    Raises:
      ConfigError: it would hold a fraction of a part, or not as many as another process.
    """
    process = jax.process_index() if process is None else process
    shards = math.prod(mesh.shape[axis] for axis in ROWS)
    holders = [{device.process_index for device in row} for row in mesh.devices.reshape(shards, -1)]
    units = math.lcm(shards, parts)

    def held(by: int) -> list[int]:
        return [unit for unit in range(units) if by in holders[unit * shards // units]]

    own = set(held(process))
    whole = [part for part in range(parts) if own.issuperset(range(part * units // parts, (part + 1) * units // parts))]
    everyone = set[int]().union(*holders)
    if len(whole) * units != len(own) * parts or len({len(held(one)) for one in everyone}) > 1:
        raise ConfigError(
            f"config.data.virtual_streams {parts} do not divide among {len(everyone)} processes whose devices hold "
            f"{shards} shards of the rows (mesh.data * mesh.fsdp): make it a multiple of {shards}"
        )
    return whole, process == min(holders[min(own) * shards // units])


def state_sharding(mesh: Mesh, boxed: Any, rules: Mapping[str, str | None] = RULES) -> Any:
    """Returns the shardings of a tree of boxed parameters, or of a whole state made from them.

    Args:
      mesh: the devices.
      boxed: tree of `nn.LogicallyPartitioned` (abstract or not); scalars may stand unboxed and are replicated.
      rules: logical axis name -> mesh axis, or None for a dimension that stays whole.

    Returns:
      The same tree with a `NamedSharding` for every box.

    Raises:
      ConfigError: an array without logical axis names, a name without a rule, a dimension that its mesh axis does not
        divide, or two dimensions on one mesh axis. The message names the parameter, the dimension and the axis.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, _spec(jax.tree_util.keystr(path, simple=True, separator="/"), leaf, mesh, rules)
        ),
        boxed,
        is_leaf=is_box,
    )


def is_box(leaf: Any) -> bool:
    """Returns whether this is a parameter with its logical axis names around it."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def unbox(tree: Any) -> Any:
    """Returns the tree without its boxes; unlike `nn.unbox` it never adds a sharding constraint."""
    return jax.tree.map(lambda leaf: leaf.unbox(apply_constraint=False) if is_box(leaf) else leaf, tree, is_leaf=is_box)


def _spec(path: str, leaf: Any, mesh: Mesh, rules: Mapping[str, str | None]) -> PartitionSpec:
    """Returns the partition of one leaf, or raises ConfigError (see `state_sharding`)."""
    shape = leaf.value.shape if is_box(leaf) else leaf.shape
    names = leaf.names if is_box(leaf) else ()
    if len(names) != len(shape):
        raise ConfigError(
            f"parameter {path!r} of shape {shape} has logical axis names {names}: one per dimension is needed"
        )
    axes: list[str | None] = []
    for dimension, (name, size) in enumerate(zip(names, shape, strict=True)):
        where = f"parameter {path!r}, dimension {dimension} ({name!r}, size {size})"
        if name not in rules:
            raise ConfigError(f"{where}: no rule for this logical axis name; known are {', '.join(sorted(rules))}")
        axis = rules[name]
        if axis is not None and axis in axes:
            raise ConfigError(f"{where}: mesh axis {axis!r} already splits dimension {axes.index(axis)} of it")
        if axis is not None and size % mesh.shape[axis]:
            raise ConfigError(f"{where} is not divisible by mesh.{axis}={mesh.shape[axis]}")
        axes.append(axis)
    return PartitionSpec(*axes)
