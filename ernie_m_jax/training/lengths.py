"""How many steps a stage has: those of its epochs, and which other numbers a run that goes on may be given.

A stage may get another length if nothing done would have been different: the learning rates of its steps, and what
later stages started from.
"""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import Config, ConfigError, StageConfig, build, warmed_up
from ernie_m_jax.config_files import stored_config_tree
from ernie_m_jax.data import loader
from ernie_m_jax.reporting import screen
from ernie_m_jax.training import optimizer, stages


def as_stored(config: Config, workdir: Path) -> Config:
    """The config with the steps that a run's epochs were found to take, so that they are not measured again."""
    if not (workdir / "config.json").exists():
        return config
    try:
        stored = stored_config_tree(workdir).get("stages", {})
    except ConfigError:  # `claim` says it, where it matters
        return config
    known = {}
    for name, stage in config.stages.items():
        before = stored.get(name, {}) if isinstance(stored, Mapping) else {}
        if not stage.steps and stage.epochs == before.get("epochs") and type(before.get("steps")) is int:
            stage = warmed_up(dataclasses.replace(stage, steps=before["steps"]))
        known[name] = stage
    return dataclasses.replace(config, stages=known)


def measured(run: stages.Run) -> Config:
    """The config with the steps that the stages' epochs take; what they take is printed.

    An epoch is as many records as the objective's training data has. How many of them a step takes is measured on the
    first packed rows.
    """
    config, known = run.config, {}
    for name, stage in config.stages.items():
        if not stage.steps:
            (objective,) = [entry for entry, weight in stage.weights.items() if weight > 0]
            entries = run.entries[objective]
            with contextlib.closing(loader.Loader(tasks.bind(config, objective), run.tokenizer, entries)) as source:
                per_step = source.records_per_row() * config.train.batch_size
            records = sum(len(group.records) for group in entries.values())
            steps = max(1, round(stage.epochs * records / per_step))
            if not stage.warmup_fraction and stage.warmup_steps > steps:
                raise ConfigError(
                    f"config.stages.{name}.warmup_steps is {stage.warmup_steps}, but {stage.epochs:g} epochs are only "
                    f"{steps} steps: lower it, or set warmup_fraction instead"
                )
            stage = warmed_up(dataclasses.replace(stage, steps=steps))
            screen.show(
                f"{name}: {stage.epochs:g} epochs of {records:,} records are {steps:,} steps of {per_step:.1f} records"
            )
        known[name] = stage
    return dataclasses.replace(config, stages=known)


def unfit(lines: list[str], stored: Mapping[str, Any], config: Config, workdir: Path) -> list[str]:
    """Of `config.differences` between the stored and the given config, the lines that keep the run from going on."""
    kept = []
    for line in lines:
        found = re.match(r"config\.stages\.(.+)\.(steps|warmup_steps):", line)
        name, key = found.groups() if found else ("", "")
        if name in config.stages and not config.stages[name].steps:
            continue  # both follow from the epochs, which have a line of their own
        if key != "steps" or name not in config.stages or name not in stored.get("stages", {}):
            kept.append(line)
        elif reason := _why_length_is_fixed(name, stored["stages"][name], config, workdir):
            kept.append(f"{line} ({reason}{_way_on(name, stored, config, workdir)})")
    return kept


def _way_on(name: str, stored: Mapping[str, Any], config: Config, workdir: Path) -> str:
    """How a longer stage can be had all the same; `init.resume` is the first stage's."""
    if config.stages[name].steps <= stored["stages"][name]["steps"]:
        return ""
    if name == next(iter(config.stages)):
        return f"; with --config.init.resume={workdir / name} a run in another --workdir trains on from there"
    return f"; with --config.init.params={workdir / name} a run in another --workdir starts from its parameters"


def _why_length_is_fixed(name: str, stored: Mapping[str, Any], config: Config, workdir: Path) -> str:
    """Why a stage may not get the config's number of steps instead of the stored one; empty if it may."""
    later = list(config.stages)[list(config.stages).index(name) + 1 :]
    if begun := [other for other in later if saved_steps.complete(workdir / other / "checkpoints")]:
        return f"{begun[0]} started from its old end"
    done, new = max(saved_steps.complete(workdir / name / "checkpoints"), default=0), config.stages[name]
    if done > new.steps:
        return f"{done} steps are done"
    selecting = config.evals.get(config.train.select.partition("/")[0])
    if selecting is not None and done == stored["steps"] and (not selecting.every or done % selecting.every):
        return f"train.select took its last step, {done}, into account, at which a longer stage is not evaluated"
    old = build(StageConfig, stored, f"config.stages.{name}")
    before, after = (np.asarray(optimizer.schedule(stage)(np.arange(done))) for stage in (old, new))
    if not np.array_equal(before, after):
        return f"the {done} steps done would have had other learning rates, schedule {new.schedule!r}"
    return ""
