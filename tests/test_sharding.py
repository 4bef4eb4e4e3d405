"""Mesh and rules table: what goes where, and which error says what to change."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from ernie_m_jax import sharding
from ernie_m_jax.config import ConfigError, MeshConfig

MESH = AbstractMesh((2, 4, 2), sharding.AXES)  # rules need no devices


def box(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.mark.parametrize(
    ("leaf", "spec"),
    [
        (box((64, 32), "vocab", "embed"), ("tensor", "fsdp")),
        (box((514, 32), "position", "embed"), (None, "fsdp")),
        (box((3, 32), "language", "embed"), (None, "fsdp")),
        (box((3, 32, 4, 8), "layers", "embed", "heads", "head_dim"), (None, "fsdp", "tensor", None)),
        (box((4, 8, 32), "heads", "head_dim", "embed"), ("tensor", None, "fsdp")),
        (box((4, 8), "heads", "head_dim"), ("tensor", None)),
        (box((32, 64), "embed", "ffn"), ("fsdp", "tensor")),
        (box((64, 32), "ffn", "embed"), ("tensor", "fsdp")),
        (box((32, 32), "embed", "embed_out"), ("fsdp", None)),
        (box((33,), "norm"), (None,)),
        (jax.ShapeDtypeStruct((), jnp.int32), ()),
    ],
)
def test_rules(leaf, spec):
    got = sharding.state_sharding(MESH, {"a": leaf})["a"]
    assert got.spec == PartitionSpec(*spec)
    assert got.mesh == MESH


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (box((32, 5), "embed", "colour"), r"'head/kernel', dimension 1 \('colour', size 5\): no rule"),
        (box((63, 32), "vocab", "embed"), r"'head/kernel', dimension 0 \('vocab', size 63\).*mesh\.tensor=2"),
        (box((32, 30), "ffn", "embed"), r"'head/kernel', dimension 1 \('embed', size 30\).*mesh\.fsdp=4"),
        (box((32, 32), "embed", "embed"), r"'head/kernel', dimension 1 .*'fsdp' already splits dimension 0"),
        (box((32, 32), "embed"), r"'head/kernel' of shape \(32, 32\)"),
        (jax.ShapeDtypeStruct((4,), jnp.float32), r"'head/kernel' of shape \(4,\) has logical axis names \(\)"),
    ],
)
def test_errors_name_parameter_dimension_and_axis(leaf, message):
    with pytest.raises(ValueError, match=message):
        sharding.state_sharding(MESH, {"head": {"kernel": leaf}})


def test_mesh_takes_the_rest_of_the_devices():
    mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1), jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 1, 1), r"mesh\.data=4, mesh\.fsdp=1, mesh\.tensor=1.* number of devices, 8"),
        ((16, 1, 1), r"mesh\.data=16.* number of devices, 8"),
        ((-1, 3, 1), r"number of devices, 8; mesh\.data=-1 cannot make up for 3"),
        ((-1, -1, 1), r"only one of them may be -1"),
        ((0, 1, 1), r"mesh\.data=0.* must be a positive number"),
        ((8, 1, -2), r"mesh\.tensor=-2: each must be a positive number"),
    ],
)
def test_impossible_meshes(sizes, message):
    eight = [jax.devices()[0]] * 8  # never reached: the numbers are wrong
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh(MeshConfig(*sizes), eight)


def test_rows_are_spread_over_data_and_fsdp():
    assert sharding.batch_sharding(MESH).spec == PartitionSpec(("data", "fsdp"))
    assert sharding.batch_sharding(MESH).shard_shape((16, 5)) == (2, 5)
    assert sharding.replicated(MESH).shard_shape((16, 5)) == (16, 5)


@pytest.mark.parametrize(
    ("rows", "microbatches", "fits"), [(32, 4, True), (24, 4, False), (0, 1, False), (8, 0, False)]
)
def test_batch_rows_must_split(rows, microbatches, fits):
    if fits:
        sharding.check_rows(MESH, rows, microbatches)
    else:
        with pytest.raises(
            ConfigError, match=rf"train.batch_size={rows}.*train.grad_accumulation_steps={microbatches}.*= 8"
        ):
            sharding.check_rows(MESH, rows, microbatches)


def test_unbox_gives_the_plain_values():
    tree = {"a": nn.LogicallyPartitioned(np.ones(3), ("norm",)), "b": np.zeros(())}
    assert jax.tree.map(np.shape, sharding.unbox(tree)) == {"a": (3,), "b": ()}


def mesh_of(processes, **shape):
    """A mesh's shape and devices, of which each is known by its process."""
    sizes = {axis: shape.get(axis, 1) for axis in sharding.AXES}
    devices = np.array([SimpleNamespace(process_index=process) for process in processes], object)
    return SimpleNamespace(shape=sizes, devices=devices.reshape(*sizes.values()))


@pytest.mark.parametrize(
    ("processes", "shape", "parts", "expected"),
    [
        ([0, 0, 1, 1], {"data": 4}, 4, {0: ([0, 1], True), 1: ([2, 3], True)}),
        ([0, 0, 1, 1], {"data": 4}, 2, {0: ([0], True), 1: ([1], True)}),
        ([0, 0, 1, 1], {"data": 2, "fsdp": 2}, 8, {0: ([0, 1, 2, 3], True), 1: ([4, 5, 6, 7], True)}),
        ([0, 1, 2, 3], {"data": 2, "tensor": 2}, 4, {0: ([0, 1], True), 1: ([0, 1], False), 3: ([2, 3], False)}),
        ([0, 1], {"tensor": 2}, 3, {0: ([0, 1, 2], True), 1: ([0, 1, 2], False)}),
        ([0, 1, 0, 1], {"data": 4}, 4, {0: ([0, 2], True), 1: ([1, 3], True)}),  # as a torus may be laid out
        ([0, 0], {"data": 2}, 3, {0: ([0, 1, 2], True)}),
    ],
)
def test_processes_own_the_streams_of_the_rows_that_their_devices_hold(processes, shape, parts, expected):
    mesh = mesh_of(processes, **shape)
    assert {process: sharding.owned_parts(mesh, parts, process) for process in expected} == expected


@pytest.mark.parametrize(
    ("processes", "parts"), [([0, 1, 2, 3], 2), ([0, 1, 2], 4), ([0, 1, 0, 1], 2), ([0, 0, 0, 1], 4)]
)
def test_streams_that_do_not_divide_among_processes_are_refused_on_all_of_them(processes, parts):
    mesh = mesh_of(processes, data=len(processes))
    for process in set(processes):
        with pytest.raises(ConfigError, match=rf"config\.data\.virtual_streams {parts} do not divide among"):
            sharding.owned_parts(mesh, parts, process)
