"""Which kernels compute a model: what the config asks for, or on "auto" what the devices take."""

import jax
from jax.sharding import Mesh

from ernie_m_jax.config import ComputeConfig, ConfigError, ModelConfig
from ernie_m_jax.model import tpu_attention

try:  # the backend that compiles our kernels is deprecated since JAX 0.11; without it XLA's code serves
    from jax.experimental.pallas import triton as triton
except ImportError:
    triton = None  # type: ignore[assignment]


WIDEST_HEAD = 128  # that the attention kernel for GPUs takes
HOPPER = 9.0  # compute capability from which on products of 8-bit numbers are fast


def platform(mesh: Mesh | None) -> str:
    """What computes, as far as kernels differ: "gpu" (NVIDIA's), "tpu" or "other".

    Args:
      mesh: the devices; None: the one that JAX takes by itself.
    """
    device = _device(mesh)
    if device.platform == "gpu":
        return "gpu" if "NVIDIA" in device.device_kind else "other"
    return "tpu" if device.platform == "tpu" else "other"


def _device(mesh: Mesh | None) -> jax.Device:
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def attention_backend(compute: ComputeConfig, model: ModelConfig, mesh: Mesh | None = None, length: int = 0) -> str:
    """`compute.attention`, with "auto" resolved: "flash" on GPUs and TPUs in 16 bits where it runs, else "xla".

    Args:
      compute: the precision, and what is asked for.
      model: its heads.
      mesh: see `platform`.
      length: tokens of a row; 0: not known.
    """
    if compute.attention != "auto":
        return compute.attention
    short = platform(mesh) == "tpu" and 0 < length < tpu_attention.LANES  # the kernel would compute 128 tokens
    return "flash" if compute.dtype == "bfloat16" and not short and not _no_attention(model, mesh, length) else "xla"


def layer_norm_kernel(compute: ComputeConfig, mesh: Mesh | None = None) -> str:
    """`compute.layer_norm`, with "auto" resolved: "fused" on GPUs in 16 bits where it runs, else "xla"."""
    if compute.layer_norm != "auto":
        return compute.layer_norm
    return "fused" if compute.dtype == "bfloat16" and not _no_layer_norm(mesh) else "xla"


def keeps_logits(compute: ComputeConfig, mesh: Mesh | None = None) -> bool:
    """Whether the backward pass finds the logits of the positions to predict (`compute.keep_logits`).

    Not on TPUs: their compiler makes them all in fp32 before it rounds them, 2.4 GiB for 32 rows of 512 of base. Not
    with `fsdp`: each device would put the whole table together.
    """
    return compute.keep_logits and platform(mesh) != "tpu" and (mesh is None or mesh.shape["fsdp"] == 1)


def check(compute: ComputeConfig, model: ModelConfig, mesh: Mesh, length: int) -> None:
    """Checks that a kernel of our own is asked for where it runs; elsewhere it would be interpreted, for tests.

    Raises:
      ConfigError: it is not.
    """
    for key, value, devices, reason in (
        ("attention", "flash", "NVIDIA GPUs and TPUs", _no_attention(model, mesh, length)),
        ("layer_norm", "fused", "NVIDIA GPUs", _no_layer_norm(mesh)),
    ):
        if getattr(compute, key) == value and reason:
            raise ConfigError(
                f"config.compute.{key} is {value!r}, a kernel for {devices}, but {reason}: "
                f"--config.compute.{key}=auto takes what runs here"
            )
    if compute.float8 and (reason := _no_float8(mesh)):
        raise ConfigError(f"config.compute.float8 is for NVIDIA GPUs from Hopper on, but {reason}")


def _no_attention(model: ModelConfig, mesh: Mesh | None, length: int) -> str:
    """Why the attention kernel does not run on the devices; "": it does."""
    width = model.hidden_size // model.num_heads
    if model.num_heads % _tensor(mesh):
        return f"{model.num_heads} heads do not divide among mesh.tensor={_tensor(mesh)}"
    if platform(mesh) == "tpu":
        return tpu_attention.why_not(model.num_heads // _tensor(mesh), width, length)
    if reason := _no_gpu(mesh):
        return reason
    return f"heads are {width} wide, and it takes up to {WIDEST_HEAD}" if width > WIDEST_HEAD else ""


def _no_layer_norm(mesh: Mesh | None) -> str:
    """Why the kernel of layer normalisation does not run on the devices; "": it does."""
    if reason := _no_gpu(mesh):
        return reason
    # Each device of the axis has whole rows there: the gradients of all of them would have to be added up.
    return "mesh.tensor is above 1" if _tensor(mesh) > 1 else ""


def _no_float8(mesh: Mesh) -> str:
    """Why 8-bit products are not fast on the devices; "": they are, or it is a CPU, which computes them for trying."""
    device = _device(mesh)
    hopper = platform(mesh) == "gpu" and float(getattr(device, "compute_capability", HOPPER)) >= HOPPER
    return "" if hopper or device.platform == "cpu" else f"the device is {device.device_kind}"


def _no_gpu(mesh: Mesh | None) -> str:
    if platform(mesh) != "gpu":
        return f"the device is {_device(mesh).device_kind}"
    return "" if triton is not None else f"jax {jax.__version__} no longer compiles it"


def _tensor(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["tensor"]
