"""Which kernels compute a model: what the config asks for, or on "auto" what the devices take."""

import jax

from ernie_m_jax.config import ComputeConfig

try:  # the backend that compiles our kernels is deprecated since JAX 0.11; without it XLA's code serves
    from jax.experimental.pallas import triton as triton
except ImportError:
    triton = None  # type: ignore[assignment]


def on_one_gpu() -> bool:
    """Whether our own kernels run where they are meant to: on one NVIDIA GPU, with a JAX that compiles them."""
    return triton is not None and jax.default_backend() == "gpu" and jax.device_count() == 1


def attention_backend(compute: ComputeConfig) -> str:
    """`compute.attention`, with "auto" resolved: "flash" on one GPU in 16 bits, "xla" elsewhere."""
    if compute.attention != "auto":
        return compute.attention
    return "flash" if on_one_gpu() and compute.dtype == "bfloat16" else "xla"


def layer_norm_kernel(compute: ComputeConfig) -> str:
    """`compute.layer_norm`, with "auto" resolved: "fused" on one GPU in 16 bits, "xla" elsewhere."""
    if compute.layer_norm != "auto":
        return compute.layer_norm
    return "fused" if on_one_gpu() and compute.dtype == "bfloat16" else "xla"
