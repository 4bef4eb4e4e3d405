"""Machines that are not here: their names, the table of chips, and what the command says where it cannot compile."""

import os

import pytest

from ernie_m_jax import topology, topology_gpus
from ernie_m_jax.config import ConfigError
from tests.command import SMALL, refused


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e:16x16", 256), ("v6e:1x1", 1), ("v4:2x2x4", 16), ("v5p:4x4x8", 128), ("h100:8", 8), ("a100:3", 3)],
)
def test_a_name_says_which_chips_and_how_many(name, chips):
    chip, sizes = topology.parse(name)
    assert chip is topology.CHIPS[name.partition(":")[0]]
    product = 1
    for size in sizes:
        product *= size
    assert product == chips


@pytest.mark.parametrize(
    "name",
    [
        "",
        "v5e",
        "v9:2x2",
        "v5e:4",
        "v5e:2x2x1",
        "v4:2x2",
        "v5e:0x2",
        "v5e:32x32",
        "h100:0",
        "h100:2x2",
        "h100:12",
        "h100:-1",
        "H100:8",
    ],
)
def test_other_names_are_refused_and_the_valid_ones_named(name):
    with pytest.raises(ConfigError) as caught:
        topology.parse(name)
    said = str(caught.value)
    assert "\n" not in said
    for valid in (repr(name).strip("'"), "v5e:2x2", "v4:2x2x1", "v5p:4x4x8", "v6e:16x16", "h100:8"):
        assert valid in said


# As the makers publish them: dense bfloat16 TFLOP/s and GB of memory; of a GPU the GiB that its driver reports.
@pytest.mark.parametrize(
    ("name", "teraflops", "gib"),
    [("v4", 275, 32), ("v5e", 197, 16), ("v5p", 459, 95), ("v6e", 918, 32), ("h100", 989, 79.1), ("h200", 989, 141)],
)
def test_the_chips(name, teraflops, gib):
    chip = topology.CHIPS[name]
    assert (chip.teraflops, chip.gib) == (teraflops, gib)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA GH200 480GB", None),
        ("cpu", None),
    ],
)
def test_a_device_that_is_here_is_found_in_the_table(kind, name):
    assert topology.chip_of(kind) is (topology.CHIPS[name] if name else None)


def test_an_unknown_machine_is_one_line():
    said = refused(*SMALL, "--mode=compile", "--topology=v9:2x2")
    assert said.startswith("--topology=v9:2x2 is no machine that is known: ")
    assert "\n" not in said


def test_a_missing_libtpu_is_one_line(tmp_path):
    (tmp_path / "libtpu.py").write_text("raise ImportError('not here')\n")  # where it is installed, too
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    said = refused(*SMALL, "--mode=compile", "--topology=v5e:2x2", env=os.environ | {"PYTHONPATH": path})
    assert "needs libtpu" in said
    assert "ernie_m_jax[tpu]" in said
    assert "\n" not in said


def test_a_plug_in_that_does_not_compile_is_one_line(tmp_path):
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").write_text("def initialize():\n    pass\n")
    (tmp_path / "jax_plugins" / "__init__.py").touch()
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    said = refused(*SMALL, "--mode=compile", "--topology=h100:2", env=os.environ | {"PYTHONPATH": path})
    assert said.startswith("--topology=h100:2: the installed plug-in for CUDA does not compile for it")
    assert "\n" not in said


def test_every_gpu_is_described_for_its_compiler():
    assert set(topology_gpus.CARDS) == {name for name, chip in topology.CHIPS.items() if not chip.axes}
    for name, card in topology_gpus.CARDS.items():
        chip = topology.CHIPS[name]
        assert topology.chip_of(card.name) is chip
        assert chip.gib == pytest.approx(card.memory / 2**30, abs=0.05)


def test_only_compiling_takes_a_topology(tmp_path):
    said = refused(*SMALL, f"--workdir={tmp_path / 'run'}", "--topology=h100:8")
    assert said.startswith("--topology is for --mode=compile")
    assert not (tmp_path / "run").exists()
