"""--mode=replay: one recorded step of a run once more, to look for what went wrong in it.

A work directory and the number of a step come in. The stage goes on from its nearest good checkpoint at or before the
step, as it did when it was trained, and what the step says then is held against its line in `metrics.jsonl`: data,
parameters and arithmetic are the same to the bit, or it is said what differs. Nothing is written.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m_jax import config_files, sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data import mixture
from ernie_m_jax.reporting import files, metrics, screen
from ernie_m_jax.training import claim, guard, lengths, loop, restore, run, stages, state
from ernie_m_jax.training.spikes import Losses


def replay(config: Config, workdir: Path, step: int) -> dict[str, float]:
    """Runs the step again, prints what it says and returns it.

    Args:
      config: the run's own.
      workdir: the run's, whose last trained stage is meant, or a stage's.
      step: its number within the stage, as in `metrics.jsonl`.

    Raises:
      ConfigError: it is another run's config, or the stage has no such step.
      TrainingError: what it says is not what was recorded.
    """
    home = config_files.home(workdir)
    claim.check(config, home)
    directory = restore.find_stage(workdir)
    if directory.name not in config.stages:
        raise ConfigError(f"{directory} is no stage of its run, which has {', '.join(config.stages)}")
    made = run.make(lengths.as_stored(config, home), home, with_evaluations=False)
    stage = stages.make_stage(made.config, directory.name, directory)
    if not 0 <= step < stage.config.steps:
        raise ConfigError(f"--step={step}: {stage.name} has the steps 0 to {stage.config.steps - 1}")
    sharding.check_rows(made.mesh, config.train.batch_size, config.train.grad_accumulation_steps)
    sources = mixture.Sources(config)
    made = dataclasses.replace(
        made, entries={name: tasks.bind(made.config, name).records(sources) for name in stage.active}
    )
    current, streams, meta = _start(made, stage, home, step)
    begun = int(current.step)
    where = f"the checkpoint of step {begun}" if meta else "the stage's beginning"
    screen.show(f"{stage.name}: {step + 1 - begun} steps from {where} in {directory}")
    objective, values, records = _steps(
        made, stage, current, streams, Losses(config.train.spike_sigmas, meta.get("losses")), step
    )
    screen.show(f"step {step} ({objective}): loss {values.get('loss')!r}", f"its records: {guard.described(records)}")
    _compare(stage, step, objective, values, _elsewhere(made, meta))
    return values


def _start(
    made: stages.Run, stage: stages.Stage, home: Path, step: int
) -> tuple[state.TrainState, Mapping[str, Any], Mapping[str, Any]]:
    """State, streams and facts of the nearest good checkpoint at or before a step, or of the stage's beginning."""
    saved = stages.checkpoints(made, stage.directory)
    for candidate in reversed([number for number in saved.steps() if number <= step]):
        try:
            return saved.restore(candidate, stages.abstract_state(made, stage))
        except CheckpointError as error:
            screen.show(f"step {candidate} is passed over: {error}")
    before = list(itertools.takewhile(lambda name: name != stage.name, made.config.stages))
    if not before and made.config.init.resume:
        raise ConfigError(
            f"{stage.directory} has no checkpoint at or before step {step}, and its run began with "
            f"config.init.resume={made.config.init.resume}: replay there"
        )
    return restore.fresh(made, stage, home / before[-1] if before else None), {}, {}


def _steps(
    made: stages.Run,
    stage: stages.Stage,
    current: state.TrainState,
    streams: Mapping[str, Any],
    losses: Losses,
    last: int,
) -> tuple[str, dict[str, float], Any]:
    """Trains up to `last` and returns its objective, its numbers and the records of its rows."""
    key, rows_sharding = loop.run_key(stage.seed, made.mesh), sharding.batch_sharding(made.mesh)
    steps, (objective, values, records) = stages.compiled_steps(made, stage), ("", {}, [])
    with contextlib.ExitStack() as stack:
        loaders = stages.open_loaders(made, stage)
        for source in loaders.values():
            stack.callback(source.close)
        loop.restore_streams(loaders, streams)
        for index in range(int(current.step), last + 1):
            objective = stage.objective(index)
            before = loaders[objective].state()
            batch = batches.to_global(next(loaders[objective]), made.config.train.batch_size, rows_sharding)
            limit = loop.step_limit(made, losses.limit(objective, index))
            current, sums = steps[objective](current, batch, key, *limit)
            values = metrics.of_step(sums)
            losses.note(objective, index, values.get("loss"))
            if index == last:
                records = loaders[objective].trace(before)
    return objective, values, records


def _elsewhere(made: stages.Run, meta: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written, of what may change a number's last bits."""
    mesh, now = meta.get("mesh"), dict(made.mesh.shape)
    lines = [] if mesh in (None, now) else [f"mesh: {now} now, {mesh} then"]
    versions, here = meta.get("versions") or {}, files.versions()
    changed = [name for name in versions if name in here and versions[name] != here[name]]
    return lines + [f"{name}: {here[name]} now, {versions[name]} then" for name in changed]


def _compare(stage: stages.Stage, step: int, objective: str, values: Mapping[str, float], elsewhere: list[str]) -> None:
    """Holds a step's numbers against its line.

    Raises:
      TrainingError: one of them differs in a bit.
    """
    line = metrics.line_of(stage.directory / metrics.FILE, step)
    if line is None:
        screen.show(f"{stage.directory / metrics.FILE} has no line of step {step}: there is nothing to compare with")
        return
    found = json.loads(json.dumps(files.json_value({"objective": objective, **values})))
    names = sorted({*found, *line} - {"step"})
    differ = [
        f"{name}: {found.get(name)!r} now, {line.get(name)!r} recorded"
        for name in names
        if found.get(name) != line.get(name)
    ]
    if differ:
        raise guard.TrainingError(
            f"step {step} of {stage.name} is not what was recorded: {'; '.join(differ)}"
            + (f"; not as it was then: {'; '.join(elsewhere)}" if elsewhere else "")
        )
    screen.show(f"the same bits as recorded: {', '.join(names)}")
