"""Machines that are not here: a name in, as "v5e:16x16" or "h100:8", devices to compile for and what is known of them.

TPUs are described by libtpu, GPUs by JAX's plug-in for CUDA; the compilers of both run on any CPU machine. Where the
plug-in is not installed, as many virtual devices of XLA's CPU compiler stand for the GPUs, over which the same
partitioner divides the step.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from ernie_m_jax import topology_gpus
from ernie_m_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      kind: part of the name that JAX gives the device, where it runs on one.
      teraflops: dense bfloat16 peak, 10^12 operations per second.
      gib: device memory: of a TPU as it is sold, of a GPU as the driver reports it.
      axes: directions in which a TPU's chips are connected; 0 for a GPU.
      most: chips of the largest machine; for a GPU, how many virtual devices are still sensible.
    """

    kind: str
    teraflops: float
    gib: float
    axes: int
    most: int


# Per chip. TPUs: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" (system architecture, key
# specifications). GPUs: NVIDIA's data sheets of the SXM cards, "without sparsity".
CHIPS = {
    "v4": Chip("TPU v4", 275, 32, 3, 4096),
    "v5e": Chip("TPU v5 lite", 197, 16, 2, 256),
    "v5p": Chip("TPU v5p", 459, 95, 3, 8960),
    "v6e": Chip("TPU v6 lite", 918, 32, 2, 256),
    "a100-40": Chip("A100-SXM4-40GB", 312, 39.4, 0, 512),
    "a100": Chip("A100", 312, 79.3, 0, 512),
    "h100": Chip("H100", 989, 79.1, 0, 512),
    "h200": Chip("H200", 989, 141, 0, 512),
}
NAMES = (
    "a TPU is v5e:2x2 or v6e:16x16 (chips in two directions, at most 256), v4:2x2x1 or v5p:4x4x8 (in three); GPUs are "
    "h100:8, h200:8, a100:8 or a100-40:8, at most 8 or machines of 8"
)
# Nothing of a TPU machine is asked for, its runtime is not started, and several compilers may run side by side.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_HOST_BOUNDS": "1,1,1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips to compile for.

    Attributes:
      name: as the user gave it.
      chip: what each of them is.
      devices: one per chip, as the compiler knows them.
    """

    name: str
    chip: Chip
    devices: Sequence[jax.Device]

    @property
    def is_virtual(self) -> bool:
        """Whether virtual CPU devices stand for the chips."""
        return self.devices[0].platform == "cpu"


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device that is here, by the name that JAX gives it; None for one that is not in the table."""
    # JAX calls a v5p "TPU v5", which is part of no other name but "TPU v5 lite".
    kind = "TPU v5p" if device_kind == "TPU v5" else device_kind
    return next((chip for chip in CHIPS.values() if re.search(rf"\b{chip.kind}\b", kind)), None)


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip of a topology's name, and how many there are in each direction.

    Raises:
      ConfigError: there is no such topology.
    """
    known, _, shape = name.partition(":")
    sizes = tuple(map(int, shape.split("x"))) if re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", shape) else ()
    chip = CHIPS.get(known)
    count = math.prod(sizes)
    if (
        chip is None
        or len(sizes) != (chip.axes or 1)
        or count > chip.most
        or (not chip.axes and count > topology_gpus.PER_HOST and count % topology_gpus.PER_HOST)
    ):
        raise ConfigError(f"--topology={name} is no machine that is known: {NAMES}")
    return chip, sizes


def open_topology(name: str) -> Topology:
    """The devices of a machine that is not here. JAX must not have been used yet: it is told to use the CPU.

    The CPU gets as many virtual devices as the machine has chips, so that what asks for their number is told the truth.

    Raises:
      ConfigError: there is no such machine, libtpu is not installed, or the plug-in for CUDA does not compile.
    """
    chip, sizes = parse(name)
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(sizes))
    if not chip.axes and not topology_gpus.has_compiler():
        return Topology(name, chip, jax.devices())
    # JAX writes what is compiled this way into its cache, but cannot read it: a program is loaded onto devices.
    jax.config.update("jax_enable_compilation_cache", False)
    return Topology(name, chip, _tpus(name, sizes) if chip.axes else _gpus(name, *sizes))


def _gpus(name: str, count: int) -> Sequence[jax.Device]:
    try:
        return topology_gpus.devices(topology_gpus.CARDS[name.partition(":")[0]], count)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology={name}: the installed plug-in for CUDA does not compile for it "
            f"({str(error).splitlines()[0]}); it must be the one for jax {jax.__version__}, or none: without it "
            "virtual devices stand for GPUs"
        ) from None


def _tpus(name: str, sizes: Sequence[int]) -> Sequence[jax.Device]:
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"--topology={name} needs libtpu, the TPU's compiler, which is not installed here: "
            "make compilers, then PYTHONPATH=.venv/compilers; or pip install 'ernie_m_jax[tpu]'"
        ) from None
    from jax.experimental import topologies

    # Two cores of a v4 chip are one device, as in training; the later generations need no word for it.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    if any(size % 2 for size in sizes[:2]):  # else a host has 2 x 2 chips
        options["chips_per_host_bounds"] = (*(2 - size % 2 for size in sizes[:2]), 1)
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"--topology={name} is refused by libtpu ({str(error).splitlines()[0]}): {NAMES}") from None
