"""XLA's options, by platform and each with its reason, and where compiled programs are kept.

What the environment's XLA_FLAGS name counts before what stands here, and what this version of XLA does not know is left
out. Options without a measured gain do not stand here; `benchmarks/RESULTS.md` has the measurements.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ernie_m_jax import stores

OPTIONS: Mapping[str, Mapping[str, str | int | bool]] = {
    # XLA hands matrix products and what surrounds them to YNNPACK, an experiment of its own. What it compiled before
    # takes a fifth less time in base's forward pass and some percent less in a training step. Few rows times the word
    # table's many it multiplies slowly, the table times the rows fast: `model.vocabulary.words_axis`.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}


def jit(function: Callable[..., Any], mesh: jax.sharding.Mesh | None = None, **how: Any) -> jax.stages.Wrapped:
    """`jax.jit` with the options of the mesh's devices, which need not be here; of the default ones without a mesh.

    Args:
      function: what is compiled. What comes out is called by itself: JAX takes options for no function within another
        that is compiled or differentiated.
      mesh: what it runs on.
      **how: as `jax.jit` takes it.
    """
    platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
    return jax.jit(function, compiler_options=options(platform), **how)


def options(platform: str) -> dict[str, str | int | bool]:
    """The options of a platform ("cpu", "gpu", "tpu") that the environment does not name and its compiler knows."""
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = {name: value for name, value in OPTIONS.get(platform, {}).items() if name not in flags}
    return {name: value for name, value in wanted.items() if _known(name, value)}


@functools.cache
def _known(name: str, value: str | int | bool) -> bool:
    """Whether this version of XLA takes an option, which it tells of any platform's on each."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_programs(place: str) -> None:
    """Has JAX keep compiled programs between runs. Of several processes the first writes them, and all read them.

    Args:
      place: a folder, which is made if need be, or its URL.

    Raises:
      OSError: the folder cannot be made, the URL not be written to, or JAX knows no such URL.
    """
    if not stores.is_url(place):
        place = os.path.abspath(os.path.expanduser(place))
        try:
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise stores.StoreError(f"{place}: no folder for compiled programs: {error.strerror}") from None
    elif not re.match("(gs|s3)://[^/]", place):
        raise stores.StoreError(f"{place}: JAX keeps programs in a folder, or behind gs:// or s3://")
    else:
        stores.probe(place)  # JAX would make a bucket that is not there, and only warn of anything else
        # XLA for GPUs keeps what it has timed beside them, which it cannot do behind a URL.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_compilation_cache_dir", place)
