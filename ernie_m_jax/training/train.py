"""The loop: one stage of training, from its first or last saved step to its end.

A `Run` (what stays the same over the stages) and a stage come in; checkpoints, metrics and the stage's summary go out.
It never changes when an objective is added. The order within a step is contract 5 of docs/design.md.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError, StageConfig
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.model.visibility import FULL
from ernie_m_jax.task import Group
from ernie_m_jax.training import (
    checkpoint,
    files,
    guard,
    metrics,
    optimizer,
    report,
    sharding,
    state,
    step,
    watch,
)


def init_inputs() -> tuple[Any, ...]:
    """What `model.init` is called with; only that it is a row of tokens matters."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    return Inputs(*(tokens for _ in Inputs._fields)), FULL


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage of a run shares; `entries` are the mixtures of all objectives with a weight in any stage.

    `keep_time` is called with every save.
    """

    config: Config
    tokenizer: Any
    model: Any
    mesh: jax.sharding.Mesh
    entries: Mapping[str, Mapping[str, Group]]
    evaluate: Callable[[Any, Path, str], float | None]
    keep_time: Callable[[], None] = lambda: None


@dataclasses.dataclass
class Stage:
    """One stage, ready to run."""

    name: str
    config: StageConfig
    directory: Path
    seed: int

    @property
    def active(self) -> list[str]:
        """The objectives with a weight above 0, by name."""
        return sorted(name for name, weight in self.config.weights.items() if weight > 0)

    def objective(self, index: int) -> str:
        """The objective of step `index`: drawn from (seed, step) with the stage's weights."""
        weights = np.array([self.config.weights[name] for name in self.active])
        draw = np.random.default_rng((self.seed, loader.purpose("objective"), index)).random()
        return self.active[int(np.searchsorted(np.cumsum(weights) / weights.sum(), draw, side="right"))]


def make_stage(config: Config, name: str, directory: Path) -> Stage:
    """The stage `name`; its seed differs from the other stages', so it does not repeat their data order."""
    return Stage(name, config.stages[name], directory, (config.seed + loader.purpose(name)) % 2**31)


def checkpoints(run: Run, directory: Path) -> checkpoint.Checkpoints:
    """The checkpoints of a stage's directory."""
    return checkpoint.Checkpoints(directory / "checkpoints", run.config.train.keep, run.tokenizer.fingerprint)


def is_complete(run: Run, workdir: Path) -> bool:
    """Whether every stage has the checkpoint of its last step."""
    return all(checkpoints(run, workdir / name).latest() == stage.steps for name, stage in run.config.stages.items())


def optimizer_factory(run: Run, stage: Stage) -> state.OptimizerFactory:
    """Parameter tree -> optimizer of the stage."""
    schedule = optimizer.schedule(stage.config)
    config = run.config
    return lambda params: optimizer.make_optimizer(config.optimizer, schedule, params, config.model.num_layers)


def abstract_state(run: Run, stage: Stage) -> state.TrainState:
    """Shapes and shardings of the stage's state."""
    return state.abstract_state(run.model, optimizer_factory(run, stage), run.mesh, jax.random.key(0), *init_inputs())


def initial_state(run: Run, stage: Stage, params: Any | None) -> state.TrainState:
    """A state at step 0: from `params` if given, otherwise from scratch."""
    if params is None:
        key = jax.random.fold_in(jax.random.key(run.config.seed), state.Purpose.INIT)
        return state.create_state(run.model, optimizer_factory(run, stage), run.mesh, key, *init_inputs())
    return state.state_from_params(params, optimizer_factory(run, stage)(params), abstract_state(run, stage))


def open_loaders(run: Run, stage: Stage) -> dict[str, loader.Loader]:
    """A loader for each active objective; reads this host's streams."""
    config = dataclasses.replace(run.config, seed=stage.seed)
    hosts = (jax.process_index(), jax.process_count())
    return {
        name: loader.Loader(name, tasks.load(name), run.tokenizer, config, *hosts, run.entries[name])
        for name in stage.active
    }


def compiled_steps(run: Run, stage: Stage) -> dict[str, jax.stages.Wrapped]:
    """One jitted step an objective; nothing branches inside."""
    abstract = abstract_state(run, stage)
    factory = optimizer_factory(run, stage)(abstract.params)
    schedule = optimizer.schedule(stage.config)
    return {
        name: step.make_train_step(
            functools.partial(counted_loss, tasks.load(name).loss, run.config, run.model),
            factory,
            schedule,
            run.config.train.microbatches,
            run.mesh,
            state.shardings(abstract),
        )
        for name in stage.active
    }


def counted_loss(loss: Any, config: Config, model: Any, params: Any, batch: tasks.Batch, rng: jax.Array) -> tasks.Sums:
    """An objective's sums, and `fill`: real tokens of all of the batch's."""
    segments = batch["segments"]
    fill = (jnp.sum(segments > 0).astype(jnp.float32), jnp.float32(segments.size))
    return loss(config, model, params, batch, rng) | {"fill": fill}


def show_mixtures(stage: Stage, config: Config, loaders: Mapping[str, loader.Loader]) -> None:
    """Prints each objective's mixture over languages, pairs or directions."""
    total = sum(stage.config.weights.values())
    rows = stage.config.steps * config.train.batch_rows
    for name, source in loaders.items():
        drawn = rows * stage.config.weights[name] / total * source.records_per_row()
        table = [report.MixtureRow(**row) for row in mixture.table(source.entries, source.tokens, drawn)]
        report.show(report.mixture_table(table, title=f"{stage.name}: {name}"))


def train_stage(run: Run, stage: Stage, start: state.TrainState, streams: Mapping[str, Any]) -> state.TrainState:
    """Trains from `start` (at whatever step it is) to the stage's last step and saves that.

    Raises:
      Interrupted: a signal asked to stop; state and streams are saved.
      CheckpointError: a save failed; earlier checkpoints are intact.
      TrainingError: the loss or gradient was not finite too often in a row.
    """
    config, first = run.config, int(start.step)
    with contextlib.ExitStack() as stack:
        loaders = open_loaders(run, stage)
        for source in loaders.values():
            stack.callback(source.close)
        restore_streams(loaders, streams)
        show_mixtures(stage, config, loaders)
        writer = stack.enter_context(metrics.MetricsWriter(stage.directory, first))
        progress = stack.enter_context(report.Progress(stage.name, stage.config.steps, first, config.train.log_every))
        stop = stack.enter_context(watch.StopRequest())
        return _loop(run, stage, start, loaders, metrics.Meter(writer), progress, stop)


def _loop(
    run: Run,
    stage: Stage,
    current: state.TrainState,
    loaders: Mapping[str, loader.Loader],
    meter: metrics.Meter,
    progress: report.Progress,
    stop: watch.StopRequest,
) -> state.TrainState:
    """The steps themselves, in the order of contract 5; see `train_stage`."""
    config, first, last = run.config, int(current.step), stage.config.steps
    saved, steps = checkpoints(run, stage.directory), compiled_steps(run, stage)
    rows_sharding = sharding.batch_sharding(run.mesh)
    key = run_key(stage.seed, run.mesh)
    meta = {"stage": stage.name, "versions": files.versions()}
    finite = guard.Guard(
        config.train.max_skipped, stage.directory, lambda name, streams: loaders[name].trace(streams), progress.log
    )
    pending: metrics.Step | None = None

    def save(index: int) -> None:
        saved.save(index, current, stream_states(loaders), meta)
        run.keep_time()

    def read() -> None:
        nonlocal pending
        if pending is not None:
            step, pending = pending, None
            finite.note(step, meter.read(step))

    for index in range(first, last):
        if due(index, config.train.evaluate_every, first):
            run.evaluate(current.params, stage.directory, f"retrieval-{index}")
        if due(index, config.train.save_every, first):
            read()  # first: a kill during the save must not lose its line
            if not finite.in_row:
                save(index)
        objective = stage.objective(index)
        before = loaders[objective].state()
        rows = next(loaders[objective])
        batch = batches.to_global(rows, config.train.batch_rows, rows_sharding)
        with jax.transfer_guard("disallow"):
            current, sums = steps[objective](current, batch, key)
        read()
        pending = metrics.Step(index, objective, sums, before)
        if (index + 1) % config.train.log_every == 0:
            progress.update(index + 1, *meter.window(index))
        if stop.due(index + 1) and index + 1 < last:
            read()
            where = "saved"
            if finite.in_row:
                where = f"not saved, for its update was skipped; the last checkpoint is of step {saved.latest()}"
            else:
                save(index + 1)
                saved.wait()
            raise watch.Interrupted(f"stopped after step {index + 1} of {last} of {stage.name}, {where}")
    read()
    if last % config.train.log_every:
        progress.update(last, *meter.window(last - 1))
    save(last)
    saved.wait()
    if stop.due(last):
        raise watch.Interrupted(f"stopped at the end of {stage.name}, saved")
    return current


def run_key(seed: int, mesh: jax.sharding.Mesh) -> jax.Array:
    """The key that every step gets, whole on every device of all processes."""
    return jax.jit(lambda: jax.random.key(seed), out_shardings=sharding.replicated(mesh))()


def due(index: int, every: int, first: int) -> bool:
    """Whether something that happens every `every` steps happens before step `index`; not where the run begins."""
    return every > 0 and index > first and index % every == 0


def stream_states(loaders: Mapping[str, loader.Loader]) -> dict[str, Any]:
    """State of every owned stream, by `objective-stream`."""
    return {f"{name}-{number}": value for name, source in loaders.items() for number, value in source.state().items()}


def restore_streams(loaders: Mapping[str, loader.Loader], streams: Mapping[str, Any]) -> None:
    """Puts every loader where `streams` says; without streams all start at the beginning.

    Raises:
      ConfigError: an objective has no state in the checkpoint.
    """
    if not streams:
        return
    for name, source in loaders.items():
        own = {key.removeprefix(f"{name}-"): value for key, value in streams.items() if key.startswith(f"{name}-")}
        if not own:
            raise ConfigError(f"the checkpoint holds no data streams of {name}: its stage trained other objectives")
        source.restore(own)
