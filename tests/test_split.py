"""The vocabulary's loss, argmax and sampling over devices: one device's results, and no device with the whole table.

Run as a program this file is the worker of the mesh tests: it computes on 8 virtual devices and prints JSON.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding

from ernie_m_jax import sharding
from ernie_m_jax.config import MeshConfig
from ernie_m_jax.model import split, vocabulary
from ernie_m_jax.model.generation import vocabulary_argmax, vocabulary_sample
from ernie_m_jax.model.lookup import lookup
from ernie_m_jax.model.loss import vocabulary_cross_entropy
from ernie_m_jax.training.collectives import collectives
from ernie_m_jax.training.program import Program
from tests.command import on_eight_devices

GROUPS, SIZE, V, ROWS, H = 8, 6, 1000, 1024, 16
MESHES = {
    "data": MeshConfig(data=8, fsdp=1, tensor=1),
    "fsdp": MeshConfig(data=1, fsdp=8, tensor=1),
    "tensor": MeshConfig(data=1, fsdp=1, tensor=8),
    "mixed": MeshConfig(data=2, fsdp=2, tensor=2),
}
# room, keep and the axis of the words in the logits: all of a group at once; less than some group needs, less than any
# does; with the logits kept; the last two with words first.
LOSSES = {
    "whole": (SIZE, False, 1),
    "little room": (3, False, 1),
    "kept": (3, True, 1),
    "words first": (3, False, 0),
    "words first, kept": (3, True, 0),
}
LOOKED_UP = "loss of words looked up"
WRITTEN = {"argmax": 1, "argmax, words first": 0}
SAMPLED = {"chunked": (100, 1), "at once": (0, 1), "tiny": (7, 1), "words first": (100, 0)}


def problem(mesh):
    rng = np.random.default_rng(0)
    hidden, table, bias = rng.normal(size=(GROUPS, SIZE, H)), rng.normal(size=(V, H)), rng.normal(size=V)
    labels = rng.integers(0, V, (GROUPS, SIZE))
    labels[0, 0], labels[0, 1] = V - 1, 0
    labels[np.arange(SIZE) >= rng.integers(1, SIZE + 1, (GROUPS, 1))] = -1
    table, bias = (np.pad(array, [(0, ROWS - V)] + [(0, 0)] * (array.ndim - 1)) for array in (table, bias))
    specs = (split.POSITIONS, split.TABLE, split.BIAS, split.POSITIONS)
    arrays = (*(np.asarray(array, np.float32) for array in (hidden, table, bias)), labels.astype(np.int32))
    return tuple(jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(arrays, specs, strict=True))


def programs(over):
    """Each function of the head, as the model calls it."""

    def loss(room, keep, axis, hidden, table, bias, labels):
        def total(hidden, table, bias):
            scores = vocabulary_cross_entropy(
                hidden, table, vocabulary.only_words(bias, V), labels, 100, room, keep, over, axis
            )
            weights = 1.0 + jnp.arange(labels.size).reshape(labels.shape) / labels.size
            return (scores.loss * weights).sum(), (scores.loss, scores.correct)

        (_, out), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(hidden, table, bias)
        return *out, *gradients

    def argmax(axis, hidden, table, bias, labels):
        bias = vocabulary.only_words(bias, V)
        return vocabulary_argmax(hidden.reshape(-1, H), table, bias, 100, over, axis)

    def sample(chunk, axis, hidden, table, bias, labels):
        bias = vocabulary.only_words(bias, V)
        return vocabulary_sample(hidden.reshape(-1, H), table, bias, chunk, jax.random.key(3), 1.5, over, axis)

    def looked_up(hidden, table, bias, labels):
        def total(hidden, table, bias):
            copies = over.copies(table)
            hidden += lookup(copies, jnp.maximum(labels, 0), V, over, by_word=True)
            scores = vocabulary_cross_entropy(hidden, copies, vocabulary.only_words(bias, V), labels, 100, split=over)
            return scores.loss.mean(), (scores.loss, scores.correct)

        (_, out), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(hidden, table, bias)
        return *out, *gradients

    found = {f"loss, {name}": functools.partial(loss, *keys) for name, keys in LOSSES.items()}
    found[LOOKED_UP] = looked_up
    found |= {name: functools.partial(argmax, axis) for name, axis in WRITTEN.items()}
    return found | {f"sample, {name}": functools.partial(sample, *keys) for name, keys in SAMPLED.items()}


def observe(name):
    """What each function gives on a mesh, its collectives, and the shapes of all arrays in its program."""
    devices = jax.devices() if name != "one" else jax.devices()[:1]
    mesh = sharding.make_mesh(MESHES.get(name, MeshConfig(1, 1, 1)), devices)
    arrays, found = problem(mesh), {}
    for key, function in programs(split.split_of(mesh)).items():
        compiled = jax.jit(function).lower(*arrays).compile()
        text = compiled.as_text()
        found[key] = {
            "out": [np.asarray(array, np.float64).tolist() for array in compiled(*arrays)],
            "whole table": any(f"{kind}[{ROWS},{H}]" in text for kind in ("f32", "bf16")),
            "logits": any(f"f32[{a},{b}]" in text for a, b in ((GROUPS * SIZE, ROWS), (ROWS, GROUPS * SIZE))),
            "collectives": {
                kind: dataclasses.asdict(one) for kind, one in collectives(Program(text), mesh.size).kinds.items()
            },
        }
    return found


@pytest.fixture(scope="module")
def found():
    return on_eight_devices(__file__)[0]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", [LOOKED_UP, *(f"loss, {name}" for name in LOSSES)])
def test_loss_and_gradients_are_one_devices(found, mesh, name):
    got, want = (found[where][name]["out"] for where in (mesh, "one"))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    d_table, d_bias = np.asarray(got[3]), np.asarray(got[4])
    assert not d_table[V:].any()
    assert not d_bias[V:].any()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", [*WRITTEN, *(f"sample, {name}" for name in SAMPLED)])
def test_the_tokens_written_are_one_devices(found, mesh, name):
    (ids, log_probs), (want, wanted) = (found[where][name]["out"] for where in (mesh, "one"))
    np.testing.assert_array_equal(ids, want)
    np.testing.assert_allclose(log_probs, wanted, rtol=1e-5, atol=1e-5)
    assert max(ids) < V
    if name not in WRITTEN:
        assert ids == found["one"]["sample, at once"]["out"][0]


@pytest.mark.slow
def test_the_reference_is_the_plain_computation(found):
    rng = np.random.default_rng(0)
    hidden, table, bias = rng.normal(size=(GROUPS, SIZE, H)), rng.normal(size=(V, H)), rng.normal(size=V)
    logits = hidden.reshape(-1, H) @ table.T + bias
    ids, log_probs = found["one"]["argmax"]["out"]
    np.testing.assert_array_equal(ids, logits.argmax(axis=1))
    expected = logits.max(axis=1) - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["loss, whole", "loss, little room", "loss, words first", *WRITTEN, "sample, chunked", "sample, tiny"],
)
@pytest.mark.parametrize("mesh", ["fsdp", "tensor", "mixed"])
def test_no_device_holds_the_table_or_the_logits(found, mesh, name):
    assert not found[mesh][name]["whole table"]
    assert not found[mesh][name]["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss, whole", "argmax", "sample, chunked"])
def test_the_tensor_axis_exchanges_numbers_not_rows(found, name):
    kinds = found["tensor"][name]["collectives"]
    assert set(kinds) == {"all-reduce"}
    positions = GROUPS * SIZE
    d_hidden = positions * H * 4 if "loss" in name else 0
    assert kinds["all-reduce"]["total"] <= d_hidden + 8 * positions * 4


@pytest.mark.slow
def test_the_width_is_gathered_a_chunk_at_a_time_and_its_gradients_scattered(found):
    kinds = found["fsdp"]["loss, whole"]["collectives"]
    assert set(kinds) == {"all-gather", "reduce-scatter", "all-reduce"}
    table, last = ROWS * H * 4, ROWS % 100 * H * 4
    assert kinds["all-gather"]["total"] == 2 * table - last  # forward and backward, which share the ragged last chunk
    assert kinds["all-gather"]["count"] == 2 * (ROWS // 100) + 1
    assert kinds["reduce-scatter"]["total"] == table
    assert kinds["all-reduce"]["total"] < table  # the bias
    assert set(found["fsdp"]["argmax"]["collectives"]) == {"all-gather"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss, little room", LOOKED_UP])
def test_data_parallelism_adds_up_the_gradients_once(found, name):
    kinds = found["data"][name]["collectives"]
    assert set(kinds) == {"all-reduce"}
    assert ROWS * (H + 1) * 4 <= kinds["all-reduce"]["total"] < ROWS * (H + 1) * 4 + 100
    assert found["data"]["argmax"]["collectives"] == {}


@pytest.mark.parametrize("positions", [5, 12])
def test_positions_that_do_not_divide_are_refused(positions):
    over = split.Split(AbstractMesh((2, 4, 1), sharding.AXES))
    with pytest.raises(ValueError, match=f"{positions} positions to predict do not divide among 8 shards"):
        vocabulary_argmax(jnp.ones((positions, H)), jnp.ones((V, H)), jnp.ones(V), 0, over)
    labels = jnp.zeros(positions, jnp.int32)
    with pytest.raises(ValueError, match=f"{positions} positions to predict do not divide among 8 shards"):
        vocabulary_cross_entropy(jnp.ones((positions, H)), jnp.ones((V, H)), jnp.ones(V), labels, 0, split=over)


if __name__ == "__main__":
    print(json.dumps({name: observe(name) for name in ("one", *MESHES)}))
