"""Compiling ahead: a config in, every step compiled without data or parameters, and what it needs on the screen.

For the devices there are, or for a machine that is not here (`topology`): memory by kind, floating point operations by
the formula and in the program's own products, what it moves through memory, its largest arrays, collectives by kind and
bytes, and how fast the step would be at a share of the chips' peak.
"""

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ernie_m_jax import atomic, sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model import flops, kernels
from ernie_m_jax.reporting import files
from ernie_m_jax.topology import Chip, Topology, chip_of
from ernie_m_jax.training import compile_report, stages
from ernie_m_jax.training.collectives import collectives
from ernie_m_jax.training.memory_traffic import moved
from ernie_m_jax.training.products import products
from ernie_m_jax.training.program import Program

UTILISATION = 0.4  # of the peak, which well-tuned steps of this size reach; seconds are not known from here
GIB = 2**30
LARGEST = 5  # arrays of a program that are told of


def compile_steps(config: Config, topology: Topology | None = None, output: str = "") -> dict[str, dict[str, Any]]:
    """Compiles each stage's steps; prints what they need, returns it and writes it to `output` as JSON.

    Needs no tokenizer, no corpus and no parameters, so a config that does not fit fails before anything is begun.

    Args:
      config: what would be trained.
      topology: chips to compile for; None: the devices there are.
      output: file to write; empty: none.

    Returns:
      "STAGE/OBJECTIVE" -> what `measure` returns. A step that the compiler finds no room for is one of the results.

    Raises:
      ConfigError: the config does not fit the devices.
    """
    # How many steps a stage's epochs take does not change what a step needs.
    known = {
        name: dataclasses.replace(stage, steps=stage.steps or max(1, stage.warmup_steps))
        for name, stage in config.stages.items()
    }
    config = dataclasses.replace(config, stages=known)
    run, chip = _run(config, topology), topology.chip if topology else chip_of(jax.devices()[0].device_kind)
    about = _about(run, topology, chip)
    compile_report.show_about(about)
    results: dict[str, dict[str, Any]] = {}
    for name in config.stages:
        stage = stages.make_stage(config, name, Path(name))
        for objective, step in stages.compiled_steps(run, stage).items():
            results[f"{name}/{objective}"] = measure(run, stage, objective, step, chip)
    compile_report.show_results(about, results)
    if output:
        atomic.write(output, (json.dumps(about | {"steps": results}, indent=1) + "\n").encode())
    return results


def _run(config: Config, topology: Topology | None) -> stages.Run:
    """A run without tokenizer, data and evaluations, on the devices of the topology."""
    mesh = sharding.make_mesh(config.mesh, topology.devices if topology else None)
    kernels.check(config.compute, config.model, mesh, config.data.sequence_length)
    if topology and config.compute.attention == "cudnn":
        raise ConfigError(
            "config.compute.attention is 'cudnn', which is compiled only where a GPU is: "
            "--config.compute.attention=auto"
        )
    sharding.check_rows(mesh, config.train.batch_size, config.train.grad_accumulation_steps)
    evaluations = Evaluations(dataclasses.replace(config, evals={}))
    return stages.Run(config, None, stages.make_model(config, mesh), mesh, {}, evaluations)


def _about(run: stages.Run, topology: Topology | None, chip: Chip | None) -> dict[str, Any]:
    """What all steps of the config have in common."""
    config, versions = run.config, files.versions()
    return {
        "topology": topology.name if topology else "",
        "virtual": bool(topology and topology.is_virtual),
        "device": topology.devices[0].device_kind if topology else versions["device"],
        "chips": run.mesh.size,
        "chip": dataclasses.asdict(chip) if chip else None,
        "mesh": dict(run.mesh.shape),
        "dtype": config.compute.dtype,
        "remat": config.compute.remat,
        "attention": kernels.attention_backend(config.compute, config.model, run.mesh, config.data.sequence_length),
        "layer_norm": kernels.layer_norm_kernel(config.compute, run.mesh),
        "batch_size": config.train.batch_size,
        "grad_accumulation_steps": config.train.grad_accumulation_steps,
        "sequence_length": config.data.sequence_length,
        "utilisation": UTILISATION,
        "versions": {key: versions[key] for key in ("python", "jax", "jaxlib", "flax", "libtpu", "commit")},
    }


def measure(
    run: stages.Run, stage: stages.Stage, objective: str, step: jax.stages.Wrapped, chip: Chip | None
) -> dict[str, Any]:
    """Compiles one step.

    Returns:
      "gib": memory per chip in GiB by kind, and their sum "total"; or None where the compiler found no room, then
      "refused" has what it said, and "missing_gib" how much is missing, if it said so. "fits": None where the memory of
      a chip is not known. "gflop_per_token", "gflop_written_per_token" (the pass without gradient), "pflop_per_step",
      "tokens_per_step", "tokens_per_second" at `UTILISATION` of the peak, over all chips; "compile_seconds"; and what
      `read` returns.
    """
    config, task = run.config, tasks.bind(run.config, objective)
    length = config.data.sequence_length
    number, passes = task.written()
    training, written = flops.per_token(config.model, length, task.predictions() / length, number / length)
    tokens = config.train.batch_size * length
    total = (training + passes * written) * tokens
    result: dict[str, Any] = {
        "gflop_per_token": training / 1e9,
        "gflop_written_per_token": passes * written / 1e9,
        "pflop_per_step": total / 1e15,
        "tokens_per_step": tokens,
        "tokens_per_second": tokens * UTILISATION * chip.teraflops * 1e12 * run.mesh.size / total if chip else None,
    }
    batch = batches.abstract(task.spec(), config.train.batch_size, sharding.batch_sharding(run.mesh))
    more = [jax.ShapeDtypeStruct((), np.float32)] if config.train.spike_sigmas else []
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = step.lower(stages.abstract_state(run, stage), batch, key, *more)
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return result | _refused(str(error))
    seconds = time.perf_counter() - began
    gib = _memory(compiled)
    room = chip.gib - gib["total"] if chip else None
    return result | {
        "gib": gib,
        "fits": None if room is None else room >= 0,
        "missing_gib": None if room is None or room >= 0 else -room,
        "compile_seconds": seconds,
        **read(compiled, run.mesh.size),
    }


def read(compiled: Any, devices: int) -> dict[str, Any]:
    """What a program's text tells.

    Returns:
      "collectives" by kind and "unknown_loops" (`collectives`); "products_pflop" and "products_pflop_at_most" over all
      devices (`products`); "moved_gib" by products and kernels and "moved_gib_besides", of one device (`moved`);
      "largest": arrays with "shape", "gib" and "made_by". Where a newer compiler's program cannot be read, no
      collectives, and "unreadable" says why.
    """
    try:
        program = Program(compiled.as_text() or "")
        traffic, (multiplied, unknown), (by_products, besides, loops) = (
            collectives(program, devices),
            products(program),
            moved(program),
        )
    except (jax.errors.JaxRuntimeError, LookupError, ValueError, RecursionError) as error:
        return {
            "collectives": {},
            "unknown_loops": 0,
            "unreadable": (str(error) or type(error).__name__).splitlines()[0],
        }
    return {
        "collectives": {
            kind: {"count": one.count, "bytes": one.total, "at_most": one.at_most}
            for kind, one in sorted(traffic.kinds.items())
        },
        "unknown_loops": max(traffic.unknown_loops, unknown, loops),
        "products_pflop": multiplied.total * devices / 1e15,
        "products_pflop_at_most": multiplied.at_most * devices / 1e15,
        "moved_gib": by_products.total / GIB,
        "moved_gib_besides": besides.total / GIB,
        "largest": [
            {"shape": shape, "gib": size / GIB, "made_by": name} for shape, size, name in program.largest(LARGEST)
        ],
    }


def _memory(compiled: Any) -> dict[str, float]:
    """Of each chip, in GiB; what is aliased of the outputs lies in the donated arguments."""
    memory = compiled.memory_analysis()
    kinds = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    kinds["total"] = sum(kinds.values()) - 2 * kinds["aliased"]
    return {kind: size / GIB for kind, size in kinds.items()}


def _refused(message: str) -> dict[str, Any]:
    """A step that the compiler found no room for: "... (30.25G) exceeds available HBM (15.75G)"."""
    sizes = re.search(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", message)
    return {
        "gib": None,
        "fits": False,
        "missing_gib": float(sizes[1]) - float(sizes[2]) if sizes else None,
        "refused": message.splitlines()[0],
        "collectives": {},
        "unknown_loops": 0,
    }
