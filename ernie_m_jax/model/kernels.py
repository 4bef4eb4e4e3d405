"""Which kernels compute a model: what the config asks for, or on "auto" what the devices take."""

import jax

from ernie_m_jax.config import ComputeConfig, ConfigError, ModelConfig

try:  # the backend that compiles our kernels is deprecated since JAX 0.11; without it XLA's code serves
    from jax.experimental.pallas import triton as triton
except ImportError:
    triton = None  # type: ignore[assignment]


WIDEST_HEAD = 128  # that the attention kernels take


def why_not() -> str:
    """Why our own kernels would not run here, "" where they do: on one NVIDIA GPU, with a JAX that compiles them."""
    device = jax.devices()[0].device_kind
    if jax.default_backend() != "gpu" or "NVIDIA" not in device:
        return f"the device is {device}"
    if jax.device_count() > 1:
        return f"there are {jax.device_count()} GPUs, and the compiler cannot divide it"
    return "" if triton is not None else f"jax {jax.__version__} no longer compiles it"


def attention_backend(compute: ComputeConfig, model: ModelConfig) -> str:
    """`compute.attention`, with "auto" resolved: "flash" on one GPU in 16 bits, "xla" elsewhere."""
    if compute.attention != "auto":
        return compute.attention
    narrow = model.hidden_size // model.num_heads <= WIDEST_HEAD
    return "flash" if compute.dtype == "bfloat16" and narrow and not why_not() else "xla"


def layer_norm_kernel(compute: ComputeConfig) -> str:
    """`compute.layer_norm`, with "auto" resolved: "fused" on one GPU in 16 bits, "xla" elsewhere."""
    if compute.layer_norm != "auto":
        return compute.layer_norm
    return "fused" if compute.dtype == "bfloat16" and not why_not() else "xla"


def check(compute: ComputeConfig) -> None:
    """Checks that a kernel of our own is asked for where it runs; elsewhere it would be interpreted, for tests.

    Raises:
      ConfigError: it is not.
    """
    for key, value in (("attention", "flash"), ("layer_norm", "fused")):
        if getattr(compute, key) == value and (reason := why_not()):
            raise ConfigError(
                f"config.compute.{key} is {value!r}, a kernel for one NVIDIA GPU, but {reason}: "
                f"--config.compute.{key}=auto takes what runs here"
            )
