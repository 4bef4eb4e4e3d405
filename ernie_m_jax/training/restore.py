"""Where a stage, or the use of a trained model, starts: a run and its directories in, parameters and streams out.

In this order and no other: the stage's own newest checkpoint -> `init.resume` (first stage) -> the stage before it, or
`init.params` -> scratch.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from ernie_m_jax import config as configs
from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.config import ConfigError
from ernie_m_jax.reporting import screen
from ernie_m_jax.training import init_params, stages, state


def begin(
    run: stages.Run, stage: stages.Stage, saved: Checkpoints, previous: Path | None
) -> tuple[state.TrainState, Mapping[str, Any], Mapping[str, Any]]:
    """The state and streams a stage begins with, and the facts kept with them; the order is the module's docstring.

    Of a stage and of `init.resume` the newest good checkpoint counts; the stage's own damaged ones are set aside.

    Raises:
      CheckpointError: none is good, or the last one of the stage before is damaged.
    """
    init = run.config.init
    abstract = stages.abstract_state(run, stage)
    if (step := saved.newest_good(set_aside=True)) is not None:
        restored, streams, meta = saved.restore(step, abstract)
        screen.show(f"{stage.name}: going on from step {step} of {stage.directory}")
        return restored, streams, meta
    if previous is None and init.resume:
        with mirrors.mirrored(init.resume) as place:
            found = find_stage(place)
            _take_mixture(found, stage.directory)
            restored, streams, meta = stages.checkpoints(run, found).restore(None, abstract)
        if meta["stage"] != stage.name:
            raise ConfigError(
                f"config.init.resume {init.resume} is of stage {meta['stage']!r}, but this run begins with "
                f"{stage.name!r}; name a stage of that name, or take only the parameters with config.init.params"
            )
        if int(restored.step) >= stage.config.steps:
            raise ConfigError(
                f"config.init.resume {init.resume} is at step {int(restored.step)} already; "
                f"config.stages.{stage.name}.steps is {stage.config.steps}"
            )
        screen.show(f"{stage.name}: going on from step {int(restored.step)} of init.resume {init.resume}")
        return restored, streams, meta
    source = previous or init.params
    screen.show(f"{stage.name}: starting from {f'the parameters of {source}' if source else 'scratch'}")
    return fresh(run, stage, previous), {}, {}


def _take_mixture(source: Path, directory: Path) -> None:
    """Puts what a stage's data were where `check_data` looks: the streams go on from there."""
    if jax.process_index() != 0:
        return
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mixture.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        shutil.copyfile(source / "mixture.json", directory / "mixture.json")


def check_data(path: Path, found: Mapping[str, Any]) -> None:
    """The data of a run that goes on must be what it was begun with: where a stream stands is a place among records.

    Args:
      path: of the stage's `mixture.json`, perhaps not there or damaged; then nothing is compared.
      found: what it is to hold now.

    Raises:
      ConfigError: an entry has another number of records.
    """
    try:
        stored = json.loads(path.read_text())
        before = {name: {row["name"]: int(row["records"]) for row in rows} for name, rows in stored.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return
    changed = []
    for name, rows in found.items():
        had, has = before.get(name), {row["name"]: row["records"] for row in rows}
        if had is not None and list(had.items()) != list(has.items()):
            entries = [entry for entry in {**had, **has} if had.get(entry) != has.get(entry)]
            changed += [f"{name} {entry} had {had.get(entry, 0)}, has {has.get(entry, 0)}" for entry in entries]
            changed += [] if entries else [f"{name} are in another order"]
    if changed:
        raise ConfigError(
            f"the data has changed since {path.parent} was begun; records of {'; '.join(changed[:5])}: put back what "
            "it was, or take another --workdir (--config.init.params goes on from the parameters)"
        )


def fresh(run: stages.Run, stage: stages.Stage, previous: Path | None) -> state.TrainState:
    """The state at step 0: from the stage before, `init.params` or scratch."""
    params = None
    if previous is not None:
        saved = stages.checkpoints(run, previous)
        params = saved.restore_params(saved.to_use(), stages.abstract_state(run, stage).params)
    elif run.config.init.params:
        params = _params_from(run, stages.abstract_state(run, stage).params)
    return stages.initial_state(run, stage, params)


def _params_from(run: stages.Run, abstract: Any, untrained: bool = True) -> Any:
    """The parameters of `init.params`, placed as `abstract` says."""
    scratch = functools.partial(_scratch, run) if untrained else None
    return init_params.load(run.config.init, run.config.model, run.tokenizer, abstract, scratch)


def _scratch(run: stages.Run) -> Any:
    """Parameters as every run of the config begins with."""
    key = jax.random.fold_in(jax.random.key(run.config.seed), state.Purpose.INIT)
    return state.create_state(run.model, _no_optimizer, run.mesh, key, *stages.init_inputs()).params


def _no_optimizer(params: Any) -> optax.GradientTransformation:
    del params
    return optax.identity()


def find_stage(path: Path) -> Path:
    """A stage's directory, given itself or a run's work directory (whose last trained stage it is).

    Raises:
      ConfigError: there are no checkpoints.
    """
    stages = configs.in_order(child.name for child in path.glob("*") if child.is_dir())
    for candidate in [path, *(path / name for name in reversed(stages))]:
        if saved_steps.complete(candidate / "checkpoints"):
            return candidate
    raise ConfigError(f"{path} holds no checkpoints: name a run's --workdir or one of its stages")


def load_params(run: stages.Run, workdir: Path, untrained: bool = True) -> Any:
    """Parameters to use without training: of the work directory, or else of `init.params`.

    A run's are those of its last trained stage; a stage and a converted model have their own.

    Args:
      run: whose parameters.
      workdir: its directory, perhaps without checkpoints.
      untrained: whether parameters that `init.params` lacks may start from scratch, as `init.fresh` says.

    Raises:
      ConfigError: neither holds a checkpoint, or that of `init.params` does not fit.
    """
    abstract = state.abstract_state(run.model, _no_optimizer, run.mesh, jax.random.key(0), *stages.init_inputs()).params
    places = [workdir, *(workdir / name for name in reversed(list(run.config.stages)))]
    place = next((place for place in places if saved_steps.complete(place / "checkpoints")), None)
    if place is not None:
        saved = stages.checkpoints(run, place)
        step = saved.to_use()
        screen.show(f"parameters of step {step} in {place}")
        return saved.restore_params(step, abstract)
    if not run.config.init.params:
        raise ConfigError(f"{workdir} holds no checkpoints and config.init.params names none: nothing to use")
    screen.show(f"parameters of {run.config.init.params}")
    return _params_from(run, abstract, untrained)
