"""A run that is asked for other numbers of steps: which of its stages may go on, and why the others may not.

A stage may get another length if nothing done would have been different: the learning rates of its steps, and what
later stages started from.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import Config, StageConfig, build
from ernie_m_jax.training import optimizer


def unfit(lines: list[str], stored: Mapping[str, Any], config: Config, workdir: Path) -> list[str]:
    """Of `config.differences` between the stored and the given config, the lines that keep the run from going on."""
    kept = []
    for line in lines:
        found = re.match(r"config\.stages\.(.+)\.steps:", line)
        name = found[1] if found else ""
        if not (name in config.stages and name in stored.get("stages", {})):
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
    old = build(StageConfig, stored, f"config.stages.{name}")
    before, after = (np.asarray(optimizer.schedule(stage)(np.arange(done))) for stage in (old, new))
    if not np.array_equal(before, after):
        return f"the {done} steps done would have had other learning rates, schedule {new.schedule!r}"
    return ""
