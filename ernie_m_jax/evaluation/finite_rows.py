"""Running a compiled function over finite data: packed rows in, each row's results on the host out."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ernie_m_jax import compiler, sharding
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data import finite
from ernie_m_jax.evaluation.encode import batched, mesh_of
from ernie_m_jax.task import Batch, Spec

Compiled = Callable[[Any, Batch], Any]


def compiled(function: Callable[[Any, Any, Batch], Any], model: Any, params: Any) -> Compiled:
    """(params, batch) -> `function(model, params, batch)`, jitted, whole on every device of the parameters' mesh.

    The same again for the same function, model and mesh, so an evaluation that comes again compiles nothing.
    """
    return _compiled(function, model, mesh_of(params))


@functools.lru_cache(maxsize=16)
def _compiled(function: Callable[[Any, Any, Batch], Any], model: Any, mesh: jax.sharding.Mesh | None) -> Compiled:
    if mesh is None:
        return compiler.jit(functools.partial(function, model))
    whole = sharding.replicated(mesh)
    return compiler.jit(functools.partial(function, model.clone(mesh=mesh)), mesh, out_shardings=whole)


def run(
    function: Compiled, params: Any, rows: Sequence[finite.Row], spec: Spec, batch_size: int
) -> Iterator[tuple[list[finite.Row], Any]]:
    """Yields the rows of each batch with the function's results on the host, one batch late.

    Args:
      function: what `compiled` returned.
      params: parameters, perhaps on a mesh; the rows are spread over it.
      rows: packed rows.
      spec: their shape.
      batch_size: rows per batch, rounded up to a multiple of the mesh's shards; the last batch is filled up with empty
        rows.
    """
    mesh = mesh_of(params)
    shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in sharding.ROWS)
    where = None if mesh is None else sharding.batch_sharding(mesh)
    batch_size = math.ceil(batch_size / shards) * shards
    waiting = None
    for chosen in batched(rows, batch_size):
        batch = finite.stack(chosen, spec, batch_size)
        found = function(params, batches.place_whole(batch, where))
        if waiting is not None:  # read one batch late, so that the device never waits for the host
            yield waiting[0], jax.device_get(waiting[1])
        waiting = chosen, found
    if waiting is not None:
        yield waiting[0], jax.device_get(waiting[1])
