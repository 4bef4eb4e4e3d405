"""--mode=compile for machines that are not here: what it prints and writes."""

import json
import os
import types

import jax
import pytest

from configs import base
from ernie_m_jax.model import flops
from ernie_m_jax.training import compile
from tests.command import call

STAGE1 = (
    "--config=configs/pretrain/stage1.py:size=tiny",
    "--config.languages=en,de",
    "--config.model.vocab_size=800",
    "--config.model.hidden_size=64",
    "--config.train.batch_size=64",
    "--config.train.grad_accumulation_steps=2",
    "--config.stages.stage1.weights={'mmlm': 1.0}",
    "--mode=compile",
)


def test_without_their_compiler_gpus_are_virtual_devices_and_the_numbers_those_of_the_chip(tmp_path):
    output = tmp_path / "compiled.json"
    (tmp_path / "jax_plugins").mkdir()
    (tmp_path / "jax_plugins" / "__init__.py").touch()  # hides the plug-in where it is installed
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    env = os.environ | {"PYTHONPATH": path}
    done = call(*STAGE1, "--topology=h100:4", f"--output={output}", "--config.mesh.fsdp=4", env=env)
    for shown in ("h100:4: 4 x H100, 79.1 GiB and 989 TFLOP/s", "virtual devices", "all-reduce", "fits", "stage1/mmlm"):
        assert shown in done.stdout
    assert "Traceback" not in done.stderr
    found = json.loads(output.read_text())
    assert (found["chips"], found["mesh"], found["virtual"]) == (4, {"data": 1, "fsdp": 4, "tensor": 1}, True)
    (step,) = found["steps"].values()
    assert (step["fits"], step["unknown_loops"]) == (True, 0)
    gib = step["gib"]
    assert gib["arguments"] > 0 < gib["temporary"]
    assert gib["total"] == pytest.approx(sum(gib.values()) - gib["total"] - 2 * gib["aliased"])
    # Three times the forward pass of 2 layers 64 wide, FFN 512, rows of 128, 15 % of the words of 800.
    token = 6 * 2 * (4 * 64**2 + 2 * 64 * 512) + 12 * 2 * 128 * 64 + 0.15 * 6 * (64**2 + 64 * 800)
    assert step["gflop_per_token"] == pytest.approx(token / 1e9)
    assert step["tokens_per_second"] == pytest.approx(0.4 * 4 * 989e12 / token)
    # Of the last layer's maps after attention, 17 of 20 parts of a layer, the program computes only what is predicted
    # (at most three of ten tokens), and of the head's logits, which it computes twice, a third more.
    spared = 6 * (64**2 + 2 * 64 * 512) / token
    assert 1 - spared < step["products_pflop"] / step["pflop_per_step"] < 1 - 0.7 * spared + 0.15 * 2 * 64 * 800 / token
    assert step["products_pflop"] <= step["products_pflop_at_most"]
    assert step["largest"][0]["gib"] == max(array["gib"] for array in step["largest"]) > 0
    # fsdp exchanges parameters, not activations: gathered for the forward and the backward pass of each of the two
    # parts, gradients added up in between. With the activations it was 16 times as much.
    parameters = 4 * (800 * 64 + 512 * 64 + 2 * (4 * 64**2 + 2 * 64 * 512))
    exchanged = sum(traffic["bytes"] for traffic in step["collectives"].values())
    assert parameters < exchanged < 2 * 4 * parameters


def test_a_program_that_cannot_be_read_costs_only_its_collectives():
    def as_text():
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update sees 3\nmore")

    found = compile.read(types.SimpleNamespace(as_text=as_text), 4)
    assert found == {"collectives": {}, "unknown_loops": 0, "unreadable": "INTERNAL: async-update sees 3"}
    text = "ENTRY %main (x: f32[2]) -> f32[2] {\n  %x = f32[2]{0} parameter(0)\n  %y = f32[2]{0} dot(operands: x)\n}\n"
    found = compile.read(types.SimpleNamespace(as_text=lambda: text), 4)
    assert (found["collectives"], found["unknown_loops"]) == ({}, 0)
    assert found["unreadable"]


@pytest.mark.slow
def test_without_a_topology_it_is_the_devices_that_are_there(tmp_path):
    output = tmp_path / "compiled.json"
    shown = call(*STAGE1, f"--output={output}").stdout
    assert "unknown" in shown  # no CPU is in the table of chips
    found = json.loads(output.read_text())
    assert (found["topology"], found["virtual"], found["chip"]) == ("", False, None)
    (step,) = found["steps"].values()
    assert (step["fits"], step["tokens_per_second"]) == (None, None)


def test_the_formula_is_that_of_the_table():
    """GFLOP per token of base and large at 512 with 15 % predicted, as worked out by hand: .740 and 2.194."""
    for size, expected in (("base", 0.740), ("large", 2.194)):
        model = types.SimpleNamespace(**base.model(size))
        training, written = flops.per_token(model, 512, 0.15)
        assert training / 1e9 == pytest.approx(expected, abs=5e-4)
        assert written == 0.0
        # A pass that writes is a forward pass, a third of training.
        assert flops.per_token(model, 512, 0.15, 0.5)[1] == pytest.approx(flops.per_token(model, 512, 0.5)[0] / 3)


# Attention by our kernels: each chip has two heads of 64.
KERNELS = (
    "--config.compute.dtype=bfloat16",
    "--config.model.hidden_size=256",
    "--config.model.num_heads=4",
    "--config.model.attention_dropout=0.1",
    "--config.data.sequence_length=512",
    "--config.train.batch_size=16",
    "--config.stages.stage1.weights={'camlm': 1.0}",
)


@pytest.mark.compilers
@pytest.mark.parametrize(
    ("topology", "device"),
    [
        ("v4:2x2x1", "TPU v4"),
        ("v5e:2x2", "TPU v5 lite"),
        ("v5p:2x2x1", "TPU v5"),
        ("v6e:2x2", "TPU v6 lite"),
        ("a100:4", "NVIDIA A100-SXM4-80GB"),
        ("h100:4", "NVIDIA H100 80GB HBM3"),
        ("h200:4", "NVIDIA H200"),
    ],
)
def test_a_step_of_each_generation_compiled_by_its_own_compiler(topology, device, tmp_path):
    output = tmp_path / "compiled.json"
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    words = ("--config.model.vocab_size=64000", "--config.compute.vocab_chunk=2048")
    done = call(*STAGE1, *KERNELS, *mesh, *words, f"--topology={topology}", f"--output={output}")
    assert "Traceback" not in done.stderr
    found = json.loads(output.read_text())
    assert (found["chips"], found["mesh"]) == (4, {"data": 1, "fsdp": 2, "tensor": 2})
    assert (found["device"], found["virtual"], found["attention"]) == (device, False, "flash")
    (step,) = found["steps"].values()
    assert (step["fits"], step["unknown_loops"]) == (True, 0)
    assert {"all-gather", "all-reduce"} <= set(step["collectives"])
    # A chip has a quarter of the word table (64,000 x 256 numbers of 32 bits): no array is larger, so none is the whole
    # table or the logits of the words that a chip's 4 rows have to predict, some 77 each.
    assert step["largest"][0]["gib"] * 2**30 == 64000 * 256 * 4 / 4
    # Attention is in kernels of our own, which no text shows.
    assert 0.6 < step["products_pflop"] / step["pflop_per_step"] < 1.2


@pytest.mark.compilers
@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:4"])
def test_the_word_tables_gradient_is_exchanged_once_a_step(topology, tmp_path):
    output = tmp_path / "compiled.json"
    words, parts = ("--config.model.vocab_size=64000",), ("--config.train.grad_accumulation_steps=4",)
    call(*STAGE1, *KERNELS, *words, *parts, f"--topology={topology}", f"--output={output}")
    (step,) = json.loads(output.read_text())["steps"].values()
    # One for looking up and scoring together, after all parts; all other arrays are not half as large.
    table = 64000 * 256 * 4
    assert table < step["collectives"]["all-reduce"]["bytes"] < 1.5 * table


@pytest.mark.compilers
def test_what_gpus_exchange_after_all_parts_was_added_up_in_fp32(tmp_path):
    output = tmp_path / "compiled.json"
    mmlm, apart = "--config.stages.stage1.weights={'mmlm': 1.0}", "--config.compute.scan_layers=False"
    parts = "--config.train.grad_accumulation_steps=4"
    call(*STAGE1, *KERNELS, mmlm, apart, parts, "--topology=h100:4", f"--output={output}")
    found = json.loads(output.read_text())
    (step,) = found["steps"].values()
    # Parameters and two moments of each, in fp32: a third of what goes in, but for the batch (16 rows of 512 tokens).
    parameters = step["gib"]["arguments"] * 2**30 / 3
    assert step["collectives"]["all-reduce"]["bytes"] == pytest.approx(parameters, rel=0.02)


@pytest.mark.compilers
def test_a_gpu_alone_compiles_the_kernel_of_layer_normalisation_too(tmp_path):
    output = tmp_path / "compiled.json"
    call(*STAGE1, *KERNELS, "--topology=h100:1", f"--output={output}")
    found = json.loads(output.read_text())
    assert (found["attention"], found["layer_norm"]) == ("flash", "fused")
    (step,) = found["steps"].values()
    assert step["collectives"] == {}


@pytest.mark.compilers
@pytest.mark.parametrize("topology", ["v5e:1x1", "a100-40:1"])
def test_what_does_not_fit_is_said_not_raised(topology, tmp_path):
    output = tmp_path / "compiled.json"
    large = ("--config.train.batch_size=262144", "--config.train.grad_accumulation_steps=1")
    shown = call(*STAGE1, f"--topology={topology}", f"--output={output}", *large).stdout
    assert "does not fit by" in shown
    (step,) = json.loads(output.read_text())["steps"].values()
    assert step["fits"] is False
    assert step["missing_gib"] > 0
