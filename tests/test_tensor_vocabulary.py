"""The released models' 250,002 words on meshes whose tensor axis does not divide them: nothing outside a step tells.

Run as a program this file is the worker of the mesh tests: it trains on 8 virtual devices and prints JSON.
"""

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import tables, tree
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.config import MeshConfig
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import loop, stages
from tests.command import ROOT
from tests.conftest import small_tree

WORDS = 250_002
MESHES = {
    "one": MeshConfig(data=1, fsdp=1, tensor=1),
    "tensor": MeshConfig(data=1, fsdp=1, tensor=4),
    "mixed": MeshConfig(data=1, fsdp=2, tensor=4),
}
OBJECTIVES = ("mmlm", "btmlm")
STEPS = 6


def config_of(mesh, **keys):
    stage = {
        "steps": 20,
        "weights": dict.fromkeys(OBJECTIVES, 1.0),
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "schedule": "linear",
        "final_fraction": 0.0,
    }
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "num_layers": 1, "ffn_size": 16}
    chosen = {
        **{f"model__{key}": value for key, value in sizes.items()},
        "stages": {"one": stage},
        "mesh": dataclasses.asdict(MESHES[mesh]),
        "data__sequence_length": 32,
        "compute__vocab_chunk": 16_384,
        "train__max_to_keep": 0,
        "train__batch_size": 8,
    }
    return configs.resolve(small_tree(**{**chosen, **keys}))


@functools.cache
def make_run(mesh):
    """A run, its stage and its steps; the batches are synthetic, so the tokenizer needs no 250,002 words."""
    config = config_of(mesh)
    devices = jax.devices()[: np.prod(list(dataclasses.asdict(MESHES[mesh]).values()))]
    placed = sharding.make_mesh(config.mesh, devices)
    evaluations = Evaluations(dataclasses.replace(config, evals={}))
    tokenizer = types.SimpleNamespace(fingerprint="words")
    run = stages.Run(config, tokenizer, stages.make_model(config, placed), placed, {}, evaluations)
    stage = stages.make_stage(config, "one", Path("one"))
    return run, stage, stages.compiled_steps(run, stage)


def batch_of(config, objective, step):
    rows = config.train.batch_size
    batch = batches.synthetic(tasks.bind(config, objective).spec(), rows, WORDS, step)
    batch["ids"][:, 0], batch["predict_labels"][:, 0] = WORDS - 1, WORDS - 1  # the last word, beside the padding
    return batch


def train(mesh, state, steps):
    """The state after some steps, and the loss, gradient norm and generator's confidence of each."""
    run, _, compiled = make_run(mesh)
    key, seen = loop.run_key(1, run.mesh), []
    for index in steps:
        objective = OBJECTIVES[index % len(OBJECTIVES)]
        rows = batch_of(run.config, objective, index)
        batch = batches.to_global(rows, run.config.train.batch_size, sharding.batch_sharding(run.mesh))
        state, sums = compiled[objective](state, batch, key)
        named = {name: float(total / weight) for name, (total, weight) in sums.items()}
        seen.append([named["loss"], named["gradient_norm"], named.get("pseudo_confidence", 0.0)])
    return state, seen


def padding_of(state, words=WORDS):
    """The largest absolute value in each table's rows behind the words."""
    return {
        name: float(np.abs(np.asarray(array)[words:]).max(initial=0.0))
        for name, array in tree.named(state).items()
        if tables.is_table(name)
    }


def digest(arrays):
    """Of every array's name, shape, dtype and bits."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def save(mesh, state, folder):
    """Saves a state as a run does."""
    saved = stages.checkpoints(make_run(mesh)[0], folder)
    saved.save(int(state.step), state, {}, {})
    saved.wait()
    return folder


def restored(mesh, folder):
    """The newest state in a folder, on a mesh."""
    run, stage, _ = make_run(mesh)
    return stages.checkpoints(run, folder).restore(None, stages.abstract_state(run, stage))[0]


def exported(mesh, folder):
    """The digests of what a conversion of the folder's newest checkpoint writes."""
    (folder / "config.json").write_text(
        json.dumps({"model": dataclasses.asdict(make_run(mesh)[0].config.model), "tokenizer": {"style": ""}})
    )
    loaded = ernie_m_jax.load(folder)
    assert loaded.params["embeddings"]["word"].shape == (WORDS, 16)
    ernie_m_jax.save(folder / "out", loaded, to="xlm-roberta", drop=("embeddings/language",))
    weights = sorted((folder / "out").glob("*.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]


def on_disk(folder):
    """What the newest checkpoint holds, read without a mesh: the digest of its arrays, and the tables' shapes."""
    saved = Checkpoints(folder / "checkpoints", 0, None)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device) for name, leaf in saved.contents().items()
    }
    state, _, _ = saved.restore(None, tree.nest(abstract))
    arrays = {name: np.asarray(array) for name, array in tree.named(state).items()}
    return digest(arrays), {name: list(array.shape) for name, array in arrays.items() if tables.is_table(name)}


def initial(mesh):
    run, stage, _ = make_run(mesh)
    return stages.initial_state(run, stage, None)


def distance(one, other):
    """The largest difference between two states' arrays, without their padding."""
    one, other = tree.named(one), tree.named(other)
    return max(
        float(np.abs(np.asarray(array)[:WORDS] - np.asarray(other[name])[:WORDS]).max())
        for name, array in one.items()
        if array.ndim
    )


def observe(folder):
    """Everything the tests look at."""
    found = {name: {} for name in ("born", "seen", "padding", "exports", "rows", "disk")}
    begun = save("one", initial("one"), folder / "begun")
    for mesh in MESHES:
        state = restored(mesh, begun)
        found["born"][mesh] = distance(initial(mesh), restored("one", begun))
        found["rows"][mesh] = {name: len(leaf) for name, leaf in tree.named(state).items() if tables.is_table(name)}
        state, found["seen"][mesh] = train(mesh, state, range(STEPS))
        found["padding"][mesh] = padding_of(state)
        if mesh == "tensor":  # its last state, as one device saves and exports it
            written = save(mesh, state, folder / "four")
            found["disk"]["four"], found["exports"]["four"] = on_disk(written), exported(mesh, written)
            again = save("one", restored("one", written), folder / "one")
            found["disk"]["one"], found["exports"]["one"] = on_disk(again), exported("one", again)
            back = save(mesh, restored(mesh, again), folder / "back")
            found["disk"]["back"] = on_disk(back)
    seen, place = [], begun
    for index, mesh in enumerate(("tensor", "one", "tensor")):
        steps = range(STEPS * index // 3, STEPS * (index + 1) // 3)
        state, more = train(mesh, restored(mesh, place), steps)
        place, seen = save(mesh, state, folder / f"moved-{index}"), seen + more
    found["seen"]["moved"], found["padding"]["moved"] = seen, padding_of(state)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", __file__, str(tmp_path_factory.mktemp("vocabulary"))]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["tensor", "mixed", "moved"])  # moved: tensor=4, then 1, then 4
def test_the_losses_are_one_devices(found, run):
    assert found["seen"]["one"][-2][0] < found["seen"]["one"][0][0]
    np.testing.assert_allclose(found["seen"][run], found["seen"]["one"], rtol=1e-5)


@pytest.mark.slow
def test_checkpoints_and_exports_are_bit_identical(found):
    assert found["disk"]["one"] == found["disk"]["four"] == found["disk"]["back"]
    assert found["exports"]["one"] == found["exports"]["four"] != []


@pytest.mark.slow
def test_what_is_on_disk_has_a_row_per_word(found):
    _, shapes = found["disk"]["four"]
    assert len(shapes) == 6  # the table and the bias: parameters and both moments
    assert {shape[0] for shape in shapes.values()} == {WORDS}


@pytest.mark.slow
def test_the_devices_rows_divide_into_whole_blocks(found):
    assert {mesh: set(rows.values()) for mesh, rows in found["rows"].items()} == {
        "one": {WORDS},
        "tensor": {250_368},
        "mixed": {250_368},
    }


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_run_starts_with_the_same_parameters_on_every_mesh(found, mesh):
    assert found["born"][mesh] < 1e-8


@pytest.mark.slow
def test_the_padding_stays_zero(found):
    for name, padding in found["padding"].items():
        assert set(padding.values()) == {0.0}, name


@pytest.mark.parametrize(
    ("words", "tensor", "rows"),
    [(WORDS, 1, WORDS), (WORDS, 2, 250_112), (WORDS, 4, 250_368), (WORDS, 8, 250_880), (1024, 8, 1024), (8, 2, 256)],
)
def test_rows_on_the_devices(words, tensor, rows):
    mesh = AbstractMesh((2, 2, tensor), sharding.AXES)
    assert sharding.table_rows(mesh, words) == rows


def test_every_parameter_with_a_row_per_word_is_known_by_name():
    for keys in ({}, {"mlm_head": "plain"}, {"head": "token_classification"}):
        config = config_of("one", **{f"model__{key}": value for key, value in keys.items()})
        boxed = jax.eval_shape(
            stages.ErnieM(config.model, config.compute).init, jax.random.key(0), *stages.init_inputs()
        )
        flat, _ = jax.tree_util.tree_flatten_with_path(
            boxed["params"], is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)
        )
        for path, box in flat:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            assert ("vocab" in box.names) == tables.is_table(name), name
            assert not tables.is_table(name) or box.names[0] == "vocab"


@pytest.fixture(scope="module")
def small():
    """A model of 1000 words whose tables have 1024 rows, and the same without them."""
    config = configs.resolve(small_tree())
    params = stages.ErnieM(config.model, config.compute).init(jax.random.key(0), *stages.init_inputs())["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, nn.meta.unbox(params))
    wide = {key: jax.tree.map(lambda leaf: leaf, value) for key, value in params.items()}
    garbage = 50.0  # if anything looked at the padding, this would show
    wide["embeddings"] = params["embeddings"] | {
        "word": jnp.concatenate([params["embeddings"]["word"], jnp.full((24, 32), garbage)])
    }
    wide["mlm_head"] = params["mlm_head"] | {
        "bias": jnp.concatenate([params["mlm_head"]["bias"], jnp.full(24, garbage)])
    }
    plain = stages.ErnieM(config.model, config.compute)
    return (plain, params), (plain.clone(table_rows=1024), wide)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_no_word_of_the_padding_is_ever_written(small, temperature):
    (plain, params), (wide_model, wide) = small
    hidden = jax.random.normal(jax.random.key(1), (400, 32))
    arguments = (hidden, jax.random.key(2), temperature)
    want = plain.apply({"params": params}, *arguments, method="generate")
    got = wide_model.apply({"params": wide}, *arguments, method="generate")
    np.testing.assert_array_equal(got.ids, want.ids)
    np.testing.assert_allclose(got.log_probs, want.log_probs, rtol=1e-5)


@pytest.mark.parametrize("keep", [False, True])
def test_the_padding_has_no_probability_and_no_gradient(small, keep):
    (plain, params), (wide_model, wide) = small
    compute = dataclasses.replace(plain.compute, keep_logits=keep)
    plain, wide_model = plain.clone(compute=compute), wide_model.clone(compute=compute)
    hidden = jax.random.normal(jax.random.key(1), (40, 32))
    labels = jax.random.randint(jax.random.key(3), (40,), 0, 1000)

    def total(model, params):
        return model.apply({"params": params}, hidden, labels, method="score").loss.mean()

    want, wanted = jax.value_and_grad(functools.partial(total, plain))(params)
    got, gradient = jax.value_and_grad(functools.partial(total, wide_model))(wide)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for name, array in tree.named(gradient).items():
        other = tree.named(wanted)[name]
        np.testing.assert_allclose(array[: len(other)], other, rtol=1e-5, atol=1e-6)
        assert not np.any(array[len(other) :])
    logits = wide_model.apply({"params": wide}, hidden, method="predict")
    np.testing.assert_allclose(logits, plain.apply({"params": params}, hidden, method="predict"), rtol=1e-5, atol=1e-6)


def test_an_id_of_the_padding_is_outside_the_table(small):
    _, (wide_model, wide) = small
    inputs, table = stages.init_inputs()
    hidden = wide_model.apply({"params": wide}, inputs._replace(ids=inputs.ids.at[0, 3].set(1000)), table)
    assert np.isnan(hidden).any()
    assert np.isfinite(wide_model.apply({"params": wide}, inputs._replace(ids=inputs.ids + 999), table)).all()


if __name__ == "__main__":
    print(json.dumps(observe(Path(sys.argv[1]))))
