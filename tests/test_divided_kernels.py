"""Our kernels divided among devices: a model's output and gradients are those of XLA's code on one device.

Run as a program this file is the worker: it computes on 8 virtual devices, where kernels are interpreted, and prints
JSON.
"""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import sharding
from ernie_m_jax.config import ComputeConfig, MeshConfig, ModelConfig
from ernie_m_jax.model import block
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.objectives import camlm
from tests.attention_reference import kernel_calls
from tests.command import on_eight_devices
from tests.test_attention import MODEL

pytestmark = pytest.mark.slow
SIZES = {"vocab_size": 64, "hidden_size": 256, "num_heads": 4, "ffn_size": 64, "num_layers": 2, "max_positions": 140}
SIZES["num_languages"] = 2
CONFIG = ModelConfig(**{**MODEL, **SIZES, "hidden_dropout": 0.1, "attention_dropout": 0.1, "pooler": False})
PLAIN = ComputeConfig("float32", False, "none", "xla", 0, layer_norm="xla")
B, L = 8, 40
# Kernel and mesh: what each device has of the batch and of the heads.
CASES = {
    "gpu": ("gpu", MeshConfig(data=4, fsdp=2, tensor=1), {"attention": "flash", "layer_norm": "fused"}),
    "gpu tensor": ("gpu", MeshConfig(data=2, fsdp=2, tensor=2), {"attention": "flash"}),
    "tpu": ("tpu", MeshConfig(data=2, fsdp=2, tensor=2), {"attention": "flash"}),
    "tpu scanned": (
        "tpu",
        MeshConfig(data=2, fsdp=2, tensor=2),
        {"attention": "flash", "scan_layers": True, "remat": "dots_attention"},
    ),
    "tpu one": ("tpu", MeshConfig(data=1, fsdp=1, tensor=1), {"attention": "flash"}),
}
SOME = ("gpu tensor", "tpu scanned")  # their output is asked for at some tokens


def problem():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(0, 3, (B, L)), axis=1)[:, ::-1]
    arrays = [rng.integers(0, 64, (B, L)), np.tile(np.arange(L), (B, 1)), segments, rng.integers(0, 4, (B, L))]
    inputs = Inputs(*(np.ascontiguousarray(array, np.int32) for array in (*arrays, np.zeros((B, L)))))
    weights = rng.standard_normal((B, L, SIZES["hidden_size"])).astype(np.float32)
    params = nn.meta.unbox(ErnieM(CONFIG, PLAIN).init(jax.random.key(0), inputs, camlm.TABLE)["params"])
    return params, inputs, weights


def gradients(params, inputs, weights, compute, mesh, some):
    """The output at all tokens, or at `some`, and the gradients of a sum over it, with dropout."""
    model = ErnieM(CONFIG, compute, mesh)

    def total(params, inputs, weights):
        keys = {"rngs": {"dropout": jax.random.key(1)}, "deterministic": False, "method": "encode"}
        at = (5 * jnp.arange(6) + inputs.ids[:, :1]) % L if some else None  # others in each row
        out = model.apply({"params": params}, inputs, camlm.TABLE, at=at, **keys)
        return (out * weights[:, : out.shape[1]]).sum(), out

    return jax.jit(jax.value_and_grad(total, has_aux=True)), jax.make_jaxpr(jax.grad(total, has_aux=True))


def stacked(params):
    """The layers' parameters as `nn.scan` has them."""
    layers = [params[f"layers_{index}"] for index in range(SIZES["num_layers"])]
    rest = {name: value for name, value in params.items() if not name.startswith("layers_")}
    return rest | {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


def observe(name, wanted, params, inputs, weights):
    """The largest difference of any number, against its array's largest; and the forward kernels in the program.

    The keys' bias has no gradient but for rounding.
    """
    kind, sizes, keys = CASES[name]
    block.platform = lambda mesh: kind  # which kernel; that it is interpreted is decided elsewhere
    devices = jax.devices()[: sizes.data * sizes.fsdp * sizes.tensor]
    mesh = sharding.make_mesh(sizes, devices)
    rows = sharding.batch_sharding(mesh)
    compute = dataclasses.replace(PLAIN, **keys)
    boxed = jax.eval_shape(ErnieM(CONFIG, compute).init, jax.random.key(0), inputs, camlm.TABLE)["params"]
    if compute.scan_layers:
        params = stacked(params)
    some = name in SOME
    wanted = wanted[compute.scan_layers, some]
    placed = jax.device_put(params, sharding.state_sharding(mesh, boxed)), *jax.device_put((inputs, weights), rows)
    found = jax.device_get(gradients(*placed, compute, mesh, some)[0](*placed))
    off = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / (np.abs(b).max() + 1e-2)), found, wanted)
    runs = {}
    for remat in ("attention", "full"):
        _, traced = gradients(*placed, dataclasses.replace(compute, remat=remat), mesh, some)
        runs[remat] = kernel_calls(traced(*placed).jaxpr, f"{'tpu' if kind == 'tpu' else 'flash'}_attention_forward")
    return {"off": max(jax.tree.leaves(off)), "runs": runs}


@pytest.fixture(scope="module")
def found():
    return on_eight_devices(__file__)[0]


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_what_xla_makes_of_it_on_one_device(found, name):
    assert found[name]["off"] < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_an_output_that_is_kept_spares_the_kernel(found, name):
    times = 2 if "scanned" in name else SIZES["num_layers"]  # in the loop's body, and of the last layer
    assert found[name]["runs"] == {"attention": times, "full": 2 * times}


if __name__ == "__main__":
    given = problem()
    scanned, layers = dataclasses.replace(PLAIN, scan_layers=True), (stacked(given[0]), *given[1:])
    plain = {  # each draws its dropout in its own order
        (False, False): jax.device_get(gradients(*given, PLAIN, None, False)[0](*given)),
        (False, True): jax.device_get(gradients(*given, PLAIN, None, True)[0](*given)),
        (True, True): jax.device_get(gradients(*layers, scanned, None, True)[0](*layers)),
    }
    print(json.dumps({name: observe(name, plain, *given) for name in CASES}))
