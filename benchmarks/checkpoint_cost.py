"""What a checkpoint costs: seconds that training waits for a save, that it takes in all, and of these SHA-256's.

    python benchmarks/checkpoint_cost.py --size base --step_seconds 0.131 0.19 --output checkpoint_cost.json

The state is that of the size's pre-training config: parameters and AdamW's two moments, float32, of random values, as
incompressible as trained ones. It is saved `--repeats` times into `--folder` as a run does it, then verified as a start
does before it reads. A save returns once the arrays are copied; a thread writes, digests and syncs. The shares are of
`config.train.save_every` steps of `--step_seconds`: what training waits; and all of a save and a verification, as if
nothing ran beside it. On a GPU the first has the copy from the device too. Memory: twice the state.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from configs import recipes
from ernie_m_jax import config as configuration
from ernie_m_jax import sharding
from ernie_m_jax.checkpoint import manifest
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.config import MeshConfig
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import stages


def state_of(size: str) -> tuple[Any, int]:
    """A train state of the size with random values, and `train.save_every` of its config."""
    tree = recipes.pretraining(size)
    tree.languages, tree.evals = ("en", "de"), {}
    tree.stages.stage = recipes.pretraining_stage(size, {"mmlm": 1.0})
    config = configuration.resolve(tree)
    mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    run = stages.Run(config, None, stages.make_model(config, mesh), mesh, {}, Evaluations(config))
    abstract = stages.abstract_state(run, stages.make_stage(config, "stage", pathlib.Path("stage")))
    rng = np.random.default_rng(0)

    def random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not np.issubdtype(leaf.dtype, np.floating):
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        return jax.device_put(rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(random, abstract), config.train.save_every


@contextlib.contextmanager
def timed(spent: dict[str, float], *names: str) -> Iterator[None]:
    """Adds up the seconds within functions of the manifest's module."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(manifest, name, _counted(spent, name)))
        yield


def _counted(spent: dict[str, float], name: str) -> Callable[..., Any]:
    """A function of the manifest's module that adds its seconds up."""
    inner = getattr(manifest, name)

    def counted(*given: Any) -> Any:
        begun = time.perf_counter()
        try:
            return inner(*given)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun

    return counted


def measured(state: Any, folder: pathlib.Path, repeats: int) -> dict[str, float]:
    """Medians over the saves, in seconds."""
    saved, rows = Checkpoints(folder, 1, "fingerprint"), []
    for number in range(1, repeats + 1):
        spent: dict[str, float] = {}
        with timed(spent, "_digests", "_sync"):
            begun = time.perf_counter()
            saved.save(number, state, {}, {})
            waited = time.perf_counter() - begun
            saved.wait()
            row = {"waited": waited, "save": time.perf_counter() - begun}
        row |= {"sha256": spent["_digests"], "sync": spent["_sync"]}
        begun = time.perf_counter()
        manifest.verify(saved.directory / str(number))
        rows.append(row | {"verification": time.perf_counter() - begun})
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--step_seconds", type=float, nargs="+", default=[0.131, 0.19])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--output", default="")
    given = parser.parse_args()
    state, save_every = state_of(given.size)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="checkpoint_cost", dir=given.folder))
    try:
        seconds = measured(state, folder / "checkpoints", given.repeats)
    finally:
        shutil.rmtree(folder)
    print(f"{given.size}: {parameters / 1e6:.0f} M parameters, state {size / 1e9:.2f} GB; every {save_every} steps")
    print("| seconds | waited | save in all | of that SHA-256 | of that sync | verification |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(f"| {given.size} | " + " | ".join(f"{value:.2f}" for value in seconds.values()) + " |")
    shares = []
    for step in given.step_seconds:
        interval = save_every * step
        waits, everything = seconds["waited"] / interval, (seconds["save"] + seconds["verification"]) / interval
        shares.append({"step_seconds": step, "interval": interval, "waited": waits, "everything": everything})
        print(f"of {interval:.0f} s ({save_every} steps of {step} s): waited {waits:.2%}, everything {everything:.2%}")
    if given.output:
        about = {"date": datetime.date.today().isoformat(), "cpus": len(os.sched_getaffinity(0))}
        about |= {"platform": platform.platform(), "jax": jax.__version__, "device": jax.devices()[0].device_kind}
        found = {"size": given.size, "parameters": parameters, "bytes": size, "save_every": save_every}
        found |= {"seconds": seconds, "shares": shares, "repeats": given.repeats}
        pathlib.Path(given.output).write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
