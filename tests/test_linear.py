"""Linear maps: Linen's numbers, and gradients that are not rounded where nobody adds them up in fp32 otherwise."""

import dataclasses
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import compiler
from ernie_m_jax.model.linear import Linear, affine
from tests.small_encoder import COMPUTE, CONFIG

AXES = {
    "projection": ((16,), (4, 8), 1),
    "output": ((4, 8), (16,), 2),
}
WIDE = dataclasses.replace(COMPUTE, dtype="bfloat16", scan_layers=False)


@pytest.mark.parametrize("name", AXES)
def test_parameters_and_results_are_those_of_linen(name):
    contracted, features, count = AXES[name]
    x = jax.random.normal(jax.random.key(1), (2, 3, *contracted))
    ours = Linear(
        CONFIG, COMPUTE, features, ("in",) * count + ("out",) * len(features), ("out",) * len(features), count
    )
    theirs = nn.DenseGeneral(
        features,
        axis=tuple(range(-count, 0)),
        kernel_init=nn.initializers.truncated_normal(CONFIG.initializer_range),
    )
    boxed, linens = ours.init(jax.random.key(0), x), theirs.init(jax.random.key(0), x)
    assert {name: box.names for name, box in boxed["params"].items()} == {
        "kernel": ("in",) * count + ("out",) * len(features),
        "bias": ("out",) * len(features),
    }
    params = nn.meta.unbox(boxed)
    jax.tree.map(np.testing.assert_array_equal, params, linens)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, linens))} == {jnp.dtype(jnp.float32)}
    drawn = ours.clone(rng=lambda: jax.random.key(7)).init(jax.random.key(0), x)
    np.testing.assert_array_equal(
        nn.meta.unbox(drawn)["params"]["kernel"], ours._drawn(jax.random.key(7), params["params"]["kernel"].shape)
    )
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-6)


@pytest.mark.parametrize("name", AXES)
def test_gradients_in_16_bits_are_sums_in_fp32(name):
    """Of kernel and bias: products of the rounded arrays, added up by NumPy; in stacked layers the same, rounded."""
    contracted, features, _ = AXES[name]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(5, 7, *contracted)), rng.normal(size=(*contracted, *features))
    bias, cotangent = rng.normal(size=features), rng.normal(size=(5, 7, *features))
    x, cotangent = (jnp.asarray(array, jnp.bfloat16) for array in (x, cotangent))

    def gradients(compute):
        def run(x, kernel, bias):
            return affine(x, kernel, bias, compute, in_layers=True)

        out, backward = jax.vjp(run, x, jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
        assert out.dtype == jnp.bfloat16
        return out, *backward(cotangent)

    wide, rounded = gradients(WIDE), gradients(dataclasses.replace(WIDE, scan_layers=True))
    for one, other in zip(wide[:2], rounded[:2], strict=True):  # the value, the input's gradient
        np.testing.assert_array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))
    flat_x, flat_g = (np.asarray(array, np.float64).reshape(35, -1) for array in (x, cotangent))
    expected = (flat_x.T @ flat_g).reshape(kernel.shape), flat_g.sum(0).reshape(features)
    for one, other, value in zip(wide[2:], rounded[2:], expected, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        np.testing.assert_allclose(one, value, rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(other) - value).max() > 1e-3


def test_the_product_is_kept_by_what_keeps_products():
    x, kernel, bias = jnp.ones((3, 16), jnp.bfloat16), jnp.ones((16, 8)), jnp.ones(8)

    def twice(x, kernel, bias):  # the second map's gradient needs the first one's output
        return affine(jnp.sin(affine(x, kernel, bias, WIDE)), kernel.T, jnp.ones(16), WIDE)

    kept = jax.checkpoint(twice, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    text = str(jax.make_jaxpr(jax.grad(lambda *args: kept(*args).astype(jnp.float32).sum()))(x, kernel, bias))
    assert text.count("dot_general") == 6  # two forward, four backward, none again


@pytest.mark.parametrize("stacked", [False, True], ids=["apart", "stacked"])
@pytest.mark.parametrize("name", AXES)
def test_a_cpu_multiplies_without_copying_anything_transposed(name, stacked):
    """Forward and both gradients: what a CPU's program holds are three products of arrays as they lie."""
    contracted, features, _ = AXES[name]
    compute = dataclasses.replace(COMPUTE, scan_layers=stacked)

    def run(x, kernel, bias):
        return jnp.sum(jnp.sin(affine(x, kernel, bias, compute, in_layers=True)))

    arrays = (jnp.zeros(shape) for shape in ((5, 7, *contracted), (*contracted, *features), features))
    text = compiler.jit(jax.grad(run, argnums=(0, 1, 2))).lower(*arrays).compile().as_text()
    program = [line.split(", metadata")[0] for line in text[text.index("\nENTRY") :].splitlines()]
    assert sum(" dot(" in line for line in program) == 3
    assert not [line for line in program if "copy" in line or "transpose" in line]


def test_a_linear_map_keeps_what_it_was_given():
    """Reshaped arrays would be kept beside the originals, once per projection in a loop over layers."""
    x, kernel = jnp.zeros((5, 7, 16)), jnp.zeros((16, 4, 8))
    _, pull = jax.vjp(lambda x, kernel: affine(x, kernel, jnp.zeros((4, 8)), COMPUTE, in_layers=True), x, kernel)
    assert {leaf.shape for leaf in jax.tree.leaves(pull)} == {x.shape, kernel.shape}


_ON_A_MESH = """
import jax, jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from ernie_m_jax.model.linear import affine
from tests.small_encoder import COMPUTE

mesh = Mesh(np.reshape(jax.devices(), (4, 2)), ("data", "tensor"))
rows, heads = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "tensor"))

def run(x, kernels, biases):
    y = affine(x, jnp.stack(kernels, 1), jnp.stack(biases), COMPUTE, in_layers=True)
    return jnp.sum(jnp.sin(jax.lax.with_sharding_constraint(y, NamedSharding(mesh, P("data", None, None, "tensor")))))

biases = NamedSharding(mesh, P("tensor"))
shapes = (rows, (16, 32, 64)), *[(heads, (64, 4, 16))] * 3, *[(biases, (4, 16))] * 3
x, *others = (jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for where, shape in shapes)
where = (rows, [heads] * 3, [biases] * 3)
step = jax.jit(jax.grad(run, argnums=(0, 1, 2)), out_shardings=where)
text = step.lower(x, others[:3], others[3:]).compile().as_text()
assert " all-reduce(" in text
assert not any(f" {name}(" in text for name in ("all-gather", "all-to-all", "collective-permute"))
"""


def test_stacked_projections_stay_split_over_heads():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | flags
    done = subprocess.run([sys.executable, "-c", _ON_A_MESH], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
