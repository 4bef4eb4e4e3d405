"""Batches as global arrays: a host's rows in, arrays sharded over the mesh out. Also the abstract batch of a spec."""

from collections.abc import Mapping

import jax
import numpy as np

from ernie_m_jax.task import IGNORE, Spec


def to_global(rows: Mapping[str, np.ndarray], total: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """This host's rows as its part of global arrays.

    Args:
      rows: arrays `[total / hosts, ...]`; every host calls with as many.
      total: rows of the global batch.
      sharding: of the rows over the mesh; each host's devices must own its rows and no others.
    """
    return {
        name: jax.make_array_from_process_local_data(sharding, value, (total, *value.shape[1:]))
        for name, value in rows.items()
    }


def place_whole(rows: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding | None) -> dict[str, jax.Array]:
    """Rows that every host holds whole as global arrays; on one device without a sharding."""
    with jax.transfer_guard_host_to_device("allow"):  # these transfers are meant, whatever guard the caller keeps
        if sharding is None:
            return {name: jax.device_put(value) for name, value in rows.items()}
        return {
            name: jax.make_array_from_callback(value.shape, sharding, value.__getitem__) for name, value in rows.items()
        }


def abstract(spec: Spec, rows: int, sharding: jax.sharding.Sharding | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of `rows` rows, for compiling ahead."""
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding) for name, (shape, dtype) in spec.items()
    }


def synthetic(spec: Spec, rows: int, vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of random tokens in the real shapes: one segment per row, all predictions in use."""
    rng = np.random.default_rng(seed)
    length = spec["ids"][0][0]
    batch = {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in spec.items()}
    for name, (shape, dtype) in spec.items():
        if name.endswith("ids"):
            batch[name] = rng.integers(4, vocab_size, (rows, *shape)).astype(dtype)
        elif name.endswith("_at"):
            batch[name] = np.sort(rng.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, : shape[0]]).astype(
                dtype
            )
        elif name.endswith("_labels"):
            batch[name] = rng.integers(IGNORE + 5, vocab_size, (rows, *shape)).astype(dtype)
    batch["segments"][:] = 1
    batch["positions"][:] = np.arange(length)
    return batch
