"""Where a stage, or the use of a trained model, starts: a run and its directories in, parameters and streams out.

In this order and no other: the stage's own newest checkpoint -> `init.resume` (first stage) -> the stage before it, or
`init.params` -> scratch.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m_jax.config import ConfigError
from ernie_m_jax.training import checkpoint, init_params, report, state, train


def begin(
    run: train.Run, stage: train.Stage, saved: checkpoint.Checkpoints, previous: Path | None
) -> tuple[state.TrainState, Mapping[str, Any]]:
    """The state and streams a stage begins with; the order is the module's docstring."""
    init = run.config.init
    abstract = train.abstract_state(run, stage)
    if saved.latest() is not None:
        restored, streams, _ = saved.restore(None, abstract)
        report.show(f"{stage.name}: going on from step {int(restored.step)} of {stage.directory}")
        return restored, streams
    if previous is None and init.resume:
        restored, streams, _ = train.checkpoints(run, find_stage(Path(init.resume))).restore(None, abstract)
        if int(restored.step) >= stage.config.steps:
            raise ConfigError(
                f"config.init.resume {init.resume} is at step {int(restored.step)} already; "
                f"config.stages.{stage.name}.steps is {stage.config.steps}"
            )
        report.show(f"{stage.name}: going on from step {int(restored.step)} of init.resume {init.resume}")
        return restored, streams
    params = None
    if previous is not None:
        params = train.checkpoints(run, previous).restore_params(None, abstract.params)
    elif init.params:
        params = _params_from(run, stage)
    source = previous or init.params
    report.show(f"{stage.name}: starting from {f'the parameters of {source}' if source else 'scratch'}")
    return train.initial_state(run, stage, params), {}


def _params_from(run: train.Run, stage: train.Stage) -> Any:
    """The parameters of `init.params`, placed for the stage."""
    abstract = train.abstract_state(run, stage).params
    scratch = functools.partial(_scratch, run, stage)
    return init_params.load(run.config.init, run.config.model, run.tokenizer, abstract, scratch)


def _scratch(run: train.Run, stage: train.Stage) -> Any:
    return train.initial_state(run, stage, None).params


def find_stage(path: Path) -> Path:
    """A stage's directory, given itself or a run's work directory (whose last trained stage it is).

    Raises:
      ConfigError: there are no checkpoints.
    """
    candidates = [path, *sorted((child for child in path.glob("*") if child.is_dir()), reverse=True)]
    for candidate in candidates:
        if checkpoint.complete_steps(candidate / "checkpoints"):
            return candidate
    raise ConfigError(f"{path} holds no checkpoints: name a run's --workdir or one of its stages")


def load_params(run: train.Run, workdir: Path) -> Any:
    """Parameters to use without training: the work directory's last trained stage, or `init.params`.

    Raises:
      ConfigError: neither holds a checkpoint, or that of `init.params` does not fit.
    """
    trained = [name for name in sorted(run.config.stages) if checkpoint.complete_steps(workdir / name / "checkpoints")]
    name = sorted(run.config.stages)[0]
    stage = train.make_stage(run.config, name, workdir / name)
    if not trained and run.config.init.params:
        report.show(f"parameters of {run.config.init.params}")
        return _params_from(run, stage)
    if not trained:
        raise ConfigError(f"{workdir} holds no checkpoints and config.init.params names none: nothing to use")
    directory = workdir / trained[-1]
    abstract = train.abstract_state(run, stage)
    saved = train.checkpoints(run, directory)
    report.show(f"parameters of step {saved.latest()} in {directory}")
    return saved.restore_params(None, abstract.params)
