"""Seconds, tokens and model FLOPs of training steps, on whatever device there is.

    python benchmarks/step_speed.py --output benchmarks/results/step_speed.json \
        size=base,length=512,rows=128 size=base,length=512,rows=128,attention=xla

Each argument is a variant: keys of the list below joined by commas. Batches are synthetic and full: random tokens, as
many positions to predict as the objective asks for. A row of the table has the compile time, the median seconds of a
step, real tokens a second, the share of the device's peak (model FLOPs by the formula of `ernie_m_jax/model/flops.py`,
not what the compiler counts) and the program's memory. `--turns` takes a step of each variant in turns. `--trace DIR`
writes a profile of each variant's last steps and prints the kernels that took longest. Keys: size, length, rows
(computed at a time), objective, attention, remat, chunk (compute.vocab_chunk), keep (compute.keep_logits), norm
(compute.layer_norm), dtype, float8, dropout (hidden and attention), micro (parts of a batch), scan, layers (0: the
size's).
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

from benchmarks import step_variants
from benchmarks.machine import processor
from ernie_m_jax import sharding, topology
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import loop, stages

WARM = 3  # steps that are not timed, or as few as are


class Variant:
    """A variant's compiled step, its state and a batch."""

    def __init__(self, text: str):
        self.text = text
        keys = step_variants.variant(text)
        self.objective = keys["objective"]
        self.config = step_variants.config_of(keys)
        mesh = sharding.make_mesh(self.config.mesh)
        evaluations = Evaluations(dataclasses.replace(self.config, evals={}))
        run = stages.Run(self.config, None, stages.make_model(self.config, mesh), mesh, {}, evaluations)
        stage = stages.make_stage(self.config, "stage1", pathlib.Path("stage1"))
        step = stages.compiled_steps(run, stage)[self.objective]
        self.state = stages.initial_state(run, stage, None)
        made = step_variants.synthetic(self.config, self.objective)
        self.batch = batches.to_global(made, self.config.train.batch_size, sharding.batch_sharding(mesh))
        self.key = loop.run_key(0, mesh)
        began = time.perf_counter()
        self.compiled = step.lower(self.state, self.batch, self.key).compile()
        self.compile_seconds = time.perf_counter() - began

    def run(self, steps: int = 1) -> float:
        """Seconds of so many steps without waiting between them, as training runs."""
        began = time.perf_counter()
        for _ in range(steps):
            self.state, self.sums = self.compiled(self.state, self.batch, self.key)
        jax.block_until_ready(self.sums)
        return time.perf_counter() - began

    def result(self, seconds: list[float], free_running: float | None) -> dict[str, Any]:
        """A row of the report, of the seconds of steps waited for, and of one of several that were not, if measured."""
        tokens = self.config.train.batch_size * self.config.data.sequence_length
        flops, generation = step_variants.model_flops(self.config, self.objective)
        chip = topology.chip_of(jax.devices()[0].device_kind)
        rate = tokens / (free_running or statistics.median(seconds))
        memory: Any = self.compiled.memory_analysis()
        loss = self.sums["loss"]
        return {
            "variant": self.text,
            "compile_seconds": self.compile_seconds,
            "seconds": statistics.median(seconds),
            "seconds_of_each": seconds,
            "seconds_free_running": free_running,
            "tokens_per_second": rate,
            "gflop_per_token": flops / 1e9,
            "gflop_generation_per_token": generation / 1e9,
            "model_gflop_per_second": flops * rate / 1e9,
            "mfu_percent": 100 * flops * rate / (chip.teraflops * 1e12) if chip else None,
            "arguments_gib": memory.argument_size_in_bytes / 2**30,
            "temporary_gib": memory.temp_size_in_bytes / 2**30,
            "loss": float(loss[0] / loss[1]),
        }


def one_by_one(text: str, trace: str, steps: int) -> dict[str, Any]:
    """Compiles and times one variant."""
    measured = Variant(text)
    measured.run(min(WARM, steps))
    seconds = [measured.run() for _ in range(steps)]
    result = measured.result(seconds, measured.run(steps) / steps)
    if trace:
        where = pathlib.Path(trace) / text.replace(",", "_").replace("=", "-")
        with jax.profiler.trace(str(where)):
            measured.run(2)
        kernels(where)
    return result


def in_turns(texts: list[str], steps: int) -> list[dict[str, Any]]:
    """Compiles all variants and times a step of each in turns, for a machine whose speed changes as it measures."""
    variants = [Variant(text) for text in texts]
    for measured in variants:
        measured.run()
    seconds: list[list[float]] = [[] for _ in variants]
    for turn in range(steps):
        for index in range(len(variants))[:: 1 if turn % 2 else -1]:
            seconds[index].append(variants[index].run())
    return [measured.result(own, None) for measured, own in zip(variants, seconds, strict=True)]


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


def row(result: dict[str, Any]) -> str:
    """A line of the report."""
    waiting, free = result["seconds"], result["seconds_free_running"]
    share = result["mfu_percent"]
    return (
        f"{result['variant']}: {(free or waiting) * 1e3:.1f} ms ({waiting * 1e3:.1f} waiting), "
        f"{result['tokens_per_second']:,.0f} tokens/s, {result['model_gflop_per_second']:,.1f} GFLOP/s"
        f"{f', MFU {share:.1f} %' if share else ''}, compile {result['compile_seconds']:.0f} s, "
        f"{result['arguments_gib']:.1f} + {result['temporary_gib']:.1f} GiB, loss {result['loss']:.3f}"
    )


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--output", default="", help="JSON file of the results")
    parser.add_argument("--steps", type=int, default=12, help="timed waiting for each, and as many again without")
    parser.add_argument("--turns", action="store_true", help="a step of each variant in turns; all must fit together")
    parser.add_argument("--trace", default="", help="folder for profiles")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be positive")
    if arguments.turns and arguments.trace:
        parser.error("--trace is for variants that are timed one by one, without --turns")
    for text in arguments.variants:
        step_variants.variant(text)  # a slip in the last is told before the first is timed
    report = functools.partial(print, flush=True)
    kind = jax.devices()[0].device_kind
    report(f"{kind}, jax {jax.__version__}")
    results = []

    def keep(result: dict[str, Any]) -> None:
        results.append(result)
        report(row(result))
        if arguments.output:
            about = {"device": kind, "processor": processor(), "jax": jax.__version__}
            about["date"] = str(datetime.date.today())
            pathlib.Path(arguments.output).write_text(json.dumps(about | {"results": results}, indent=1) + "\n")

    if arguments.turns:
        for result in in_turns(arguments.variants, arguments.steps):
            keep(result)
        return
    for text in arguments.variants:
        try:
            keep(one_by_one(text, arguments.trace, arguments.steps))
        except Exception as error:  # a variant that does not fit must not cost the others
            report(f"{text}: {type(error).__name__}: {str(error)[:1500]}")


if __name__ == "__main__":
    main()
