"""Several processes whose work directory is behind a URL: each has a mirror of its own, and the first one writes.

Orbax has the processes of a run write into one directory, which no store is. So the first process is given every array
and stream, and writes the checkpoint as a run of one process does; nothing in it tells how many processes there were.
The others see what is in the store, whenever they look for a checkpoint.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint import saved_steps

_TIMEOUT = 3600  # seconds Orbax may take to write one checkpoint


def is_apart(directory: Any) -> bool:
    """Whether each process has a directory of its own that stands for one behind a URL."""
    return jax.process_count() > 1 and mirrors.of(directory) is not None


def checkpointer(alone: bool) -> ocp.AsyncCheckpointer:
    """Orbax, which reads and writes with the other processes, or as if this one were alone."""
    options = ocp.options.MultiprocessingOptions()
    if alone:
        index = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
        )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.AsyncCheckpointer(handler, timeout_secs=_TIMEOUT, multiprocessing_options=options)


def gathered(nested: Mapping[str, Any]) -> Any:
    """Whole arrays in the first process's memory, where all had a part each; nothing of use in the others'.

    One array at a time is whole on every device.
    """
    with jax.transfer_guard("allow"):
        return jax.tree.map(_whole, nested)


def _whole(array: jax.Array) -> np.ndarray | None:
    if not array.is_fully_addressable and not array.is_fully_replicated:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.array(array) if jax.process_index() == 0 else None  # a copy: the caller may donate the array


def texts(small: Mapping[str, str]) -> dict[str, str]:
    """The small files of all processes, by name, in the first; none in the others."""
    content = np.frombuffer(json.dumps(small).encode(), np.uint8)
    with jax.transfer_guard("allow"):
        sizes = multihost_utils.process_allgather(np.array(content.size))
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: content.size] = content
        everyone = multihost_utils.process_allgather(padded)
    if jax.process_index() != 0:
        return {}
    together: dict[str, str] = {}
    for size, row in zip(sizes.tolist(), np.asarray(everyone), strict=True):
        together |= json.loads(row[:size].tobytes())
    return together


def bring(path: Any) -> None:
    """Has every process see what the first one has written in the run that a path lies in. Also a barrier.

    Does nothing where the processes share a directory, or for a run that this one only reads.

    Raises:
      OSError, CheckpointError: the store refuses; on all processes if one finds it.
    """
    mirror = mirrors.of(path)
    if jax.process_count() == 1 or mirror is None or not mirror.writing:
        return
    first, error = jax.process_index() == 0, None
    try:
        if first:
            mirror.push()
    except OSError as caught:
        error = caught
    saved_steps.raise_together(error, f"bringing {mirror.url} up to date")
    try:
        if not first:
            mirror.renew()
    except OSError as caught:
        error = caught
    saved_steps.raise_together(error, f"reading {mirror.url}")
