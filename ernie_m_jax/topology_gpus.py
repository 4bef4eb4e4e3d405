"""NVIDIA GPUs that are not here, as XLA's compiler for GPUs has to know them.

The compiler is a part of JAX's plug-in for CUDA (the packages jax-cuda13-plugin and jax-cuda13-pjrt), and needs neither
a GPU nor a driver nor CUDA's libraries.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence

import jax

PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
PER_HOST = 8  # GPUs of a machine, where there are more than one machine of them


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU; sizes in bytes. Source: openxla/xla, xla/backends/gpu/target_config/specs.

    Attributes:
      name: as JAX names the device.
      capability: NVIDIA's compute capability.
      cores: streaming multiprocessors.
      lanes: 32-bit units of each.
      shared: shared memory of each.
      shared_of_block: what one block of threads can have of it.
      cache: second-level cache.
      bandwidth: of the memory, bytes per second.
      gigahertz: clock.
      memory: size.
    """

    name: str
    capability: int
    cores: int
    lanes: int
    shared: int
    shared_of_block: int
    cache: int
    bandwidth: int
    gigahertz: float
    memory: int


CARDS = {
    "a100-40": Card(
        "NVIDIA A100-SXM4-40GB", 8, 108, 64, 167_936, 166_912, 41_943_040, 1_555_200_000_000, 1.41, 42_331_013_120
    ),
    "a100": Card(
        "NVIDIA A100-SXM4-80GB", 8, 108, 64, 167_936, 166_912, 41_943_040, 2_039_040_000_000, 1.41, 85_100_068_864
    ),
    "h100": Card(
        "NVIDIA H100 80GB HBM3", 9, 132, 128, 233_472, 232_448, 52_428_800, 3_352_320_000_000, 1.98, 84_942_979_072
    ),
    "h200": Card("NVIDIA H200", 9, 132, 128, 233_472, 232_448, 52_428_800, 4_800_000_000_000, 1.98, 151_397_597_184),
}
# Of every card since 2020: threads per block, warp and multiprocessor, grids, registers. The versions are those that
# a current driver has; the compiler asks for them before it takes cuDNN, which is not used here.
_COMMON = """
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation" device_address_bits: 64 pcie_bandwidth: 34359738368
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
"""


def has_compiler() -> bool:
    """Whether XLA's compiler for GPUs is installed."""
    return importlib.util.find_spec("jax_plugins") is not None and any(
        importlib.util.find_spec(plugin) is not None for plugin in PLUGINS
    )


def devices(card: Card, count: int) -> Sequence[jax.Device]:
    """As many cards, in machines of eight where that divides them.

    Raises:
      JaxRuntimeError, NotImplementedError: the compiler is not installed, or not one for this JAX.
    """
    from jax.experimental import topologies

    hosts = count // PER_HOST if count % PER_HOST == 0 else 1
    return topologies.get_topology_desc(
        "cards", "cuda", target_config=_described(card), topology=f"1x{hosts}x{count // hosts}"
    ).devices


def _described(card: Card) -> str:
    """A card as XLA's `GpuTargetConfigProto` in text."""
    features = "ACCELERATED_FEATURES" if card.capability >= 9 else "NONE"
    return f"""
gpu_device_info {{{_COMMON}
  name: "{card.name}" core_count: {card.cores} fpus_per_core: {card.lanes} shared_memory_per_core: {card.shared}
  shared_memory_per_block_optin: {card.shared_of_block} l2_cache_size: {card.cache} memory_bandwidth: {card.bandwidth}
  clock_rate_ghz: {card.gigahertz} device_memory_size: {card.memory}
  cuda_compute_capability {{ major: {card.capability} feature_extension: {features} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{card.name}"
"""
