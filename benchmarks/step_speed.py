"""Seconds, tokens and model FLOPs of training steps, on whatever device there is.

    python benchmarks/step_speed.py --output benchmarks/results/step_speed.json \
        size=base,length=512,rows=128 size=base,length=512,rows=128,attention=xla

Each argument is a variant: keys of the list below joined by commas. Batches are synthetic and full: random tokens, as
many positions to predict as the objective asks for. A row of the table has the compile time, the median seconds of a
step, real tokens a second, the share of the device's peak (model FLOPs by the formula of `ernie_m_jax/model/flops.py`,
not what the compiler counts) and the program's memory. `--trace DIR` writes a profile of each variant's last steps and
prints the kernels that took longest. Keys: size, length, rows (computed at a time), objective, attention, remat, chunk
(compute.vocab_chunk), keep (compute.keep_logits), norm (compute.layer_norm), dtype, float8, dropout (hidden and
attention), micro (parts of a batch), scan, layers (0: the size's).
"""

import argparse
import collections
import dataclasses
import datetime
import functools
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks.machine import processor
from configs import base, recipes
from ernie_m_jax import config as configuration
from ernie_m_jax import sharding, topology
from ernie_m_jax import task as tasks
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model import flops
from ernie_m_jax.objectives import btmlm, camlm
from ernie_m_jax.task import IGNORE
from ernie_m_jax.training import loop, stages

DEFAULTS = {
    "size": "base", "length": "512", "rows": "128", "objective": "mmlm", "attention": "flash", "remat": "none",
    "chunk": "16384", "keep": "0", "norm": "xla", "dtype": "bfloat16", "dropout": "0", "micro": "1", "scan": "1",
    "float8": "0", "layers": "0",
}  # fmt: skip
WARM = 3  # steps that are not timed, or as few as are


def variant(text: str) -> dict[str, str]:
    """`key=value,key=value` over the defaults."""
    given = dict(part.split("=", 1) for part in text.split(",") if part)
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise SystemExit(f"{text}: unknown {', '.join(unknown)}; known are {', '.join(DEFAULTS)}")
    return DEFAULTS | given


def config_of(keys: dict[str, str]) -> configuration.Config:
    """The pre-training config of a variant; its data are never opened."""
    return configuration.resolve(tree_of(keys))


def tree_of(keys: dict[str, str]) -> ml_collections.ConfigDict:
    """The same, before it is resolved."""
    config = recipes.pretraining(keys["size"])
    config.languages = ("en", "de")
    config.data.sequence_length = int(keys["length"])
    config.data.virtual_streams = 1
    config.model.hidden_dropout = config.model.attention_dropout = float(keys["dropout"])
    config.compute.update(
        dtype=keys["dtype"], remat=keys["remat"], attention=keys["attention"], vocab_chunk=int(keys["chunk"]),
        scan_layers=keys["scan"] == "1", keep_logits=keys["keep"] == "1", layer_norm=keys["norm"],
        float8=keys["float8"] == "1",
    )  # fmt: skip
    config.model.num_layers = int(keys["layers"]) or config.model.num_layers
    config.train.batch_size = int(keys["rows"]) * int(keys["micro"])
    config.train.grad_accumulation_steps = int(keys["micro"])
    config.stages.stage1 = base.stage(
        steps=1000, weights={keys["objective"]: 1.0}, warmup_steps=10, learning_rate=1e-4, schedule="constant"
    )
    config.evals = {}
    return config


def model_flops(config: configuration.Config, objective: str) -> tuple[float, float]:
    """FLOPs of a training step per real token, and of BTMLM's generation pass; each row is one example."""
    task, length = tasks.bind(config, objective), config.data.sequence_length
    return flops.per_token(config.model, length, task.predictions() / length, task.written()[0] / length)


def synthetic(config: configuration.Config, objective: str) -> dict[str, np.ndarray]:
    """A full batch of one example a row, with the objective's roles and share of predictions."""
    spec = tasks.bind(config, objective).spec()
    rows, length, keys = config.train.batch_size, config.data.sequence_length, config.objectives[objective]
    made = batches.synthetic(spec, rows, config.model.vocab_size)
    rng = np.random.default_rng(1)
    words = length
    if objective == "camlm":
        words = int(length / (1 + keys.mask_ratio))
        half, slots = words // 2, (length - words) // 2
        layout = [(camlm.SOURCE_WORD, half), (camlm.TARGET_WORD, words - half), (camlm.SOURCE_SLOT, slots)]
        roles = np.concatenate([np.full(count, role) for role, count in layout])
        made["roles"][:] = np.concatenate([roles, np.full(length - len(roles), camlm.TARGET_SLOT)])
    if objective == "btmlm":
        words = int(length / (1 + keys.length_ratio))
        made["roles"][:] = np.where(np.arange(length) < words, btmlm.SOURCE, btmlm.PLACEHOLDER)
        room = made["generate_at"].shape[1]
        made["generate_at"][:] = np.where(words + np.arange(room) < length, words + np.arange(room), length)
    used = np.minimum((words * keys.mask_ratio + rng.random(rows)).astype(int), made["predict_labels"].shape[1])
    made["predict_labels"][np.arange(made["predict_labels"].shape[1]) >= used[:, None]] = IGNORE
    return made


def measure(text: str, trace: str, steps: int) -> dict[str, Any]:
    """Compiles and times one variant."""
    keys = variant(text)
    config = config_of(keys)
    mesh = sharding.make_mesh(config.mesh)
    run = stages.Run(
        config, None, stages.make_model(config, mesh), mesh, {}, Evaluations(dataclasses.replace(config, evals={}))
    )
    stage = stages.make_stage(config, "stage1", pathlib.Path("stage1"))
    step = stages.compiled_steps(run, stage)[keys["objective"]]
    state = stages.initial_state(run, stage, None)
    batch = batches.to_global(
        synthetic(config, keys["objective"]), config.train.batch_size, sharding.batch_sharding(mesh)
    )
    key = loop.run_key(0, mesh)
    began = time.perf_counter()
    compiled = step.lower(state, batch, key).compile()
    compile_seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    seconds = []
    warm = min(WARM, steps)
    for _ in range(warm + steps):
        began = time.perf_counter()
        state, sums = compiled(state, batch, key)
        jax.block_until_ready(sums)
        seconds.append(time.perf_counter() - began)
        loss = float(sums["loss"][0] / sums["loss"][1])
    began = time.perf_counter()  # a loop that never waits, as training runs
    for _ in range(steps):
        state, sums = compiled(state, batch, key)
    jax.block_until_ready(sums)
    free_running = (time.perf_counter() - began) / steps
    tokens = config.train.batch_size * config.data.sequence_length
    flops, generation = model_flops(config, keys["objective"])
    device = jax.devices()[0].device_kind
    chip = topology.chip_of(device)
    peak = chip.teraflops * 1e12 if chip else float("nan")
    result = {
        "variant": text,
        "compile_seconds": compile_seconds,
        "seconds": statistics.median(seconds[warm:]),
        "seconds_free_running": free_running,
        "tokens_per_second": tokens / free_running,
        "gflop_per_token": flops / 1e9,
        "gflop_generation_per_token": generation / 1e9,
        "mfu_percent": 100 * flops * tokens / free_running / peak,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "temporary_gib": memory.temp_size_in_bytes / 2**30,
        "loss": loss,
    }
    if trace:
        where = pathlib.Path(trace) / text.replace(",", "_").replace("=", "-")
        with jax.profiler.trace(str(where)):
            for _ in range(2):
                state, sums = compiled(state, batch, key)
            jax.block_until_ready(sums)
        kernels(where)
    return result


def kernels(folder: pathlib.Path, steps: int = 2, shown: int = 45) -> None:
    """Prints the device's longest kernels of a trace, milliseconds a step."""
    path = next(folder.rglob("*.xplane.pb"))
    total: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        if "/device:" not in plane.name:
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                total[event.name] += event.duration_ns
                count[event.name] += 1
    print(f"  kernels: {sum(total.values()) / steps / 1e6:.2f} ms a step in {len(total)} names", flush=True)
    for name, nanoseconds in total.most_common(shown):
        print(f"  {nanoseconds / steps / 1e6:8.3f} ms {count[name] / steps:6.0f} x {name[:110]}", flush=True)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--output", default="", help="JSON file of the results")
    parser.add_argument("--steps", type=int, default=12, help="timed waiting for each, and as many again without")
    parser.add_argument("--trace", default="", help="folder for profiles")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be positive")
    report = functools.partial(print, flush=True)
    report(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    results = []
    for text in arguments.variants:
        try:
            results.append(measure(text, arguments.trace, arguments.steps))
        except Exception as error:  # a variant that does not fit must not cost the others
            report(f"{text}: {type(error).__name__}: {str(error)[:1500]}")
            continue
        row = results[-1]
        report(
            f"{text}: {row['seconds_free_running'] * 1e3:.1f} ms ({row['seconds'] * 1e3:.1f} waiting), "
            f"{row['tokens_per_second'] / 1e3:.0f}k tokens/s, MFU {row['mfu_percent']:.1f} %, compile "
            f"{row['compile_seconds']:.0f} s, {row['arguments_gib']:.1f} + {row['temporary_gib']:.1f} GiB, "
            f"loss {row['loss']:.3f}"
        )
        if arguments.output:
            about = {"device": jax.devices()[0].device_kind, "processor": processor(), "jax": jax.__version__}
            about["date"] = str(datetime.date.today())
            pathlib.Path(arguments.output).write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
