"""The loop: one stage of training, from its first or last saved step to its end.

A `Run` and a stage come in (`stages`); checkpoints, metrics and the stage's summary go out. It never changes when an
objective is added. The order within a step is contract 5 of docs/design.md.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax

from ernie_m_jax import sharding
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.reporting import files, metrics, screen
from ernie_m_jax.training import guard, preemption, stages, state
from ernie_m_jax.training.evaluating import Evaluating
from ernie_m_jax.training.profile import Profile
from ernie_m_jax.training.selection import Selection
from ernie_m_jax.training.waiting import SlowData, Waiting


def show_mixtures(stage: stages.Stage, config: Config, loaders: Mapping[str, loader.Loader]) -> None:
    """Prints each objective's mixture over languages, pairs or directions."""
    total = sum(stage.config.weights.values())
    rows = stage.config.steps * config.train.batch_size
    for name, source in loaders.items():
        drawn = rows * stage.config.weights[name] / total * source.records_per_row()
        table = [
            screen.MixtureRow(**row) for row in mixture.table(source.entries, source.shares(), source.tokens, drawn)
        ]
        screen.show(screen.mixture_table(table, title=f"{stage.name}: {name}"))


def train_stage(
    run: stages.Run, stage: stages.Stage, start: state.TrainState, streams: Mapping[str, Any], selection: Selection
) -> state.TrainState:
    """Trains from `start` (at whatever step it is) to the stage's last step and saves that.

    The last step comes earlier where `train.patience` ends the stage. `selection` is what is selected so far, and takes
    what the stage's evaluations find.

    Raises:
      Interrupted: a signal asked to stop; state and streams are saved.
      CheckpointError: a save failed; earlier checkpoints are intact.
      TrainingError: the loss or gradient was not finite too often in a row.
    """
    config, first = run.config, int(start.step)
    with contextlib.ExitStack() as stack:
        loaders = stages.open_loaders(run, stage)
        for source in loaders.values():
            stack.callback(source.close)
        restore_streams(loaders, streams)
        for source in loaders.values():
            source.start()
        show_mixtures(stage, config, loaders)
        writer = stack.enter_context(metrics.MetricsWriter(stage.directory, first))
        progress = stack.enter_context(screen.Progress(stage.name, stage.config.steps, first, config.train.log_every))
        stop = stack.enter_context(preemption.StopRequest())
        waiting = Waiting()
        stack.callback(waiting.close)
        profile = Profile(config.train, stage.directory / "tensorboard")
        stack.callback(profile.close)
        evaluating = Evaluating(run, stage, first, writer, selection)
        return _loop(run, stage, start, loaders, metrics.Meter(writer), waiting, profile, evaluating, progress, stop)


def _loop(
    run: stages.Run,
    stage: stages.Stage,
    current: state.TrainState,
    loaders: Mapping[str, loader.Loader],
    meter: metrics.Meter,
    waiting: Waiting,
    profile: Profile,
    evaluating: Evaluating,
    progress: screen.Progress,
    stop: preemption.StopRequest,
) -> state.TrainState:
    """The steps themselves, in the order of contract 5; see `train_stage`."""
    config, first, last = run.config, int(current.step), stage.config.steps
    saved, steps = stages.checkpoints(run, stage.directory), stages.compiled_steps(run, stage)
    rows_sharding = sharding.batch_sharding(run.mesh)
    key = run_key(stage.seed, run.mesh)
    meta = {"stage": stage.name, "versions": files.versions()}
    finite = guard.Guard(
        config.train.max_skipped, stage.directory, lambda name, streams: loaders[name].trace(streams), progress.log
    )
    _, writes_streams = sharding.owned_parts(run.mesh, config.data.virtual_streams)
    slow_data = SlowData(config.data)
    pending: metrics.Step | None = None
    shown = first

    def save(index: int) -> None:
        chosen = evaluating.selection
        found = {"selection": chosen.state()} if chosen.evaluation else {}
        streams = stream_states(loaders) if writes_streams else {}
        saved.save(index, current, streams, meta | found, selected=chosen.best == index)
        run.keep_time()

    def read(done: int) -> None:
        """Reads the last of `done` steps, unless it has been, and shows the window that ends with it."""
        nonlocal pending, shown
        if pending is not None:
            step, pending = pending, None
            finite.note(step, meter.read(step))
        if done > shown and (done % config.train.log_every == 0 or done == last):
            losses, timing = meter.window(done - 1, waiting.seconds())
            progress.update(done, losses, timing["tokens_per_second"])
            if text := slow_data.text(timing):
                progress.log(text)
            shown = done

    for index in range(first, last):
        better = False
        if names := evaluating.due(index):
            read(index)  # first: so the lines of the metrics have one order, wherever a run was stopped
            if not finite.in_row:
                better = evaluating.evaluate(index, current.params, names)
        if evaluating.selection.ended == index:
            last, best = index, evaluating.selection.best
            since = "at any step" if best is None else f"since step {best}"
            progress.log(f"{stage.name}: {config.train.select} was not better {since}, it ends at step {index}")
            break
        if due(index, config.train.save_every, first) or better:
            read(index)  # first: a kill during the save must not lose its line
            if not finite.in_row:
                save(index)
        profile.before(index, current)
        objective = stage.objective(index)
        before = loaders[objective].state()
        rows = waiting.draw(loaders[objective])
        batch = batches.to_global(rows, config.train.batch_size, rows_sharding)
        with jax.transfer_guard("disallow"):
            current, sums = steps[objective](current, batch, key)
        waiting.dispatched(sums)
        read(index)
        pending = metrics.Step(index, objective, sums, before)
        if stop.due(index + 1) and index + 1 < last:
            read(index + 1)
            where = "saved"
            if finite.in_row:
                saved.wait()
                where = f"not saved, since its update was skipped; the last checkpoint is of step {saved.latest()}"
            else:
                save(index + 1)
                saved.wait()
            what = f"stopped after step {index + 1} of {last} of {stage.name}, {where}"
            raise preemption.Interrupted(what, stop.signal)
    read(last)
    finite.end()
    try:
        evaluating.evaluate(last, current.params, evaluating.due_at_end(last))
    except ConfigError:  # what it is to be selected by is not there; that must not cost the training
        save(last)
        saved.wait()
        raise
    save(last)
    saved.wait()
    if stop.due(last):
        raise preemption.Interrupted(f"stopped at the end of {stage.name}, saved", stop.signal)
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
        parts = [(key.rpartition("-"), value) for key, value in streams.items()]
        own = {number: value for (objective, _, number), value in parts if objective == name}
        if not own:
            raise ConfigError(f"the checkpoint holds no data streams of {name}: its stage trained other objectives")
        source.restore(own)
