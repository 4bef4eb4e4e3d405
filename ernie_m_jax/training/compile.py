"""Compiling ahead: a config in, every step compiled without data or parameters, and what it needs on the screen."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import rich.table

from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config
from ernie_m_jax.data import batch as batches
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model import kernels
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.reporting import screen
from ernie_m_jax.training import stages


def compile_steps(config: Config) -> dict[str, dict[str, float]]:
    """Compiles each stage's steps for the devices there are; prints and returns their memory in GiB and GFLOP per step.

    Needs no tokenizer, no corpus and no parameters, so a config that does not fit fails in seconds.
    """
    # How many steps a stage's epochs take does not change what a step needs.
    known = {
        name: dataclasses.replace(stage, steps=stage.steps or max(1, stage.warmup_steps))
        for name, stage in config.stages.items()
    }
    config = dataclasses.replace(config, stages=known)
    mesh = sharding.make_mesh(config.mesh)
    kernels.check(config.compute)
    sharding.check_rows(mesh, config.train.batch_size, config.train.grad_accumulation_steps)
    run = stages.Run(
        config=config,
        tokenizer=None,
        model=ErnieM(config.model, config.compute),
        mesh=mesh,
        entries={},
        evaluations=Evaluations(dataclasses.replace(config, evals={})),
    )
    table = rich.table.Table(
        "step", *(f"{name}, GiB" for name in ("arguments", "temporary")), "GFLOP", title="Compiled steps"
    )
    results: dict[str, dict[str, float]] = {}
    for name in config.stages:
        stage = stages.make_stage(config, name, Path(name))
        for objective, step in stages.compiled_steps(run, stage).items():
            numbers = _measure(run, stage, objective, step)
            results[f"{name}/{objective}"] = numbers
            table.add_row(f"{name}/{objective}", *(f"{value:.3f}" for value in numbers.values()))
    screen.show(table)
    return results


def _measure(run: stages.Run, stage: stages.Stage, objective: str, step: jax.stages.Wrapped) -> dict[str, float]:
    spec = tasks.bind(run.config, objective).spec()
    batch = batches.abstract(spec, run.config.train.batch_size, sharding.batch_sharding(run.mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = step.lower(stages.abstract_state(run, stage), batch, key).compile()
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis() or {}
    return {
        "arguments": memory.argument_size_in_bytes / 2**30,
        "temporary": memory.temp_size_in_bytes / 2**30,
        "gflop": cost.get("flops", float("nan")) / 1e9,
    }
