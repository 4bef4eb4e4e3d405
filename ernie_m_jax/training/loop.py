"""The loop: one stage of training, from its first or last saved step to its end.

A `Run` and a stage come in (`stages`); checkpoints, metrics and the stage's summary go out. It never changes when an
objective is added. The order within a step is contract 5 of docs/design.md.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.reporting import files, metrics, screen
from ernie_m_jax.training import guard, preemption, restore, stages, state
from ernie_m_jax.training.evaluating import Evaluating
from ernie_m_jax.training.host_times import HostTimes
from ernie_m_jax.training.profile import Profile
from ernie_m_jax.training.selection import Selection
from ernie_m_jax.training.spikes import Losses
from ernie_m_jax.training.waiting import SlowData, Waiting


def show_mixtures(stage: stages.Stage, config: Config, loaders: Mapping[str, loader.Loader], going_on: bool) -> None:
    """Prints each objective's mixture over languages, pairs or directions, and writes it into `mixture.json`.

    Raises:
      ConfigError: going on, the data is not what it was.
    """
    total = sum(stage.config.weights.values())
    rows = stage.config.steps * config.train.batch_size
    found = {}
    for name, source in loaders.items():
        drawn = rows * stage.config.weights[name] / total * source.records_per_row()
        found[name] = mixture.table(source.entries, source.shares(), source.tokens, drawn)
        table = [screen.MixtureRow(**row) for row in found[name]]
        screen.show(screen.mixture_table(table, title=f"{stage.name}: {name}"))
    if going_on:
        restore.check_data(stage.directory / "mixture.json", found)
    if jax.process_index() == 0:
        files.write_json(stage.directory / "mixture.json", found)


def train_stage(
    run: stages.Run,
    stage: stages.Stage,
    start: state.TrainState,
    streams: Mapping[str, Any],
    selection: Selection,
    losses: Losses,
) -> state.TrainState:
    """Trains from `start` (at whatever step it is) to the stage's last step and saves that.

    Before that the evaluation that selects judges it, if there is one and it has not yet. The last step comes earlier
    where `train.patience` ends the stage. `selection` is what is selected so far, and takes what the stage's
    evaluations find; `losses` are the last ones before `start`.

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
        show_mixtures(stage, config, loaders, first > 0)
        writer = stack.enter_context(metrics.MetricsWriter(stage.directory, first))
        progress = stack.enter_context(screen.Progress(stage.name, stage.config.steps, first, config.train.log_every))
        stop = stack.enter_context(preemption.StopRequest())
        waiting = Waiting()
        stack.callback(waiting.close)
        profile = Profile(config.train, stage.directory / "tensorboard")
        stack.callback(profile.close)
        evaluating = Evaluating(run, stage, first, writer, selection)
        stack.enter_context(run.phases.of("step"))
        loop = _Loop(
            run, stage, start, loaders, losses, metrics.Meter(writer), waiting, profile, evaluating, progress, stop
        )
        try:
            trained = loop.train()
        except Exception:
            loop.finish_save()
            raise
    if stop.signal is not None:  # it came after the loop last looked
        raise preemption.Interrupted(f"stopped at the end of {stage.name}, saved", stop.signal)
    return trained


@dataclasses.dataclass
class _Loop:
    """The steps of one stage; see `train_stage`.

    Attributes:
      current: the newest state; it may still be being computed.
    """

    run: stages.Run
    stage: stages.Stage
    current: state.TrainState
    loaders: Mapping[str, loader.Loader]
    losses: Losses
    meter: metrics.Meter
    waiting: Waiting
    profile: Profile
    evaluating: Evaluating
    progress: screen.Progress
    stop: preemption.StopRequest

    def __post_init__(self) -> None:
        run, stage, self.keys = self.run, self.stage, self.run.config.train
        self.first, self.last = int(self.current.step), stage.config.steps
        self.saved, self.steps = stages.checkpoints(run, stage.directory), stages.compiled_steps(run, stage)
        self.key, self.rows_sharding = run_key(stage.seed, run.mesh), sharding.batch_sharding(run.mesh)
        _, self.writes_streams = sharding.owned_parts(run.mesh, run.config.data.virtual_streams)
        self.meta = {"stage": stage.name, "versions": files.versions(), "mesh": dict(run.mesh.shape)}
        self.finite = guard.Guard(
            self.keys.max_skipped,
            stage.directory,
            lambda name, streams: self.loaders[name].trace(streams),
            self.progress.log,
        )
        self.slow_data = SlowData(run.config.data)
        self.hosts = HostTimes(
            self.keys.host_times_every, run.phases, functools.partial(screen.show, console=self.progress.console)
        )
        self.compiled: set[str] = set()  # objectives that have had a step
        self.pending: metrics.Step | None = None  # dispatched, and its numbers not read
        self.shown = self.first

    def train(self) -> state.TrainState:
        """All steps in the order of contract 5, and the last save."""
        for index in range(self.first, self.last):
            better = self.evaluate(index)
            if self.evaluating.selection.ended == index:
                self.last, best = index, self.evaluating.selection.best
                since = "at any step" if best is None else f"since step {best}"
                what = f"{self.stage.name}: {self.keys.select} was not better {since}, it ends at step {index}"
                self.progress.log(what)
                break
            if due(index, self.keys.save_every, self.first) or better:
                self.read(index)  # first: a kill during the save must not lose its line
                if not self.finite.in_row:
                    self.save(index)
            self.profile.before(index, self.current)
            self.hosts.before(index, self.current)
            self.step(index)
            if self.stop.due(index + 1) and index + 1 < self.last:
                self.interrupt(index + 1)
        return self.end()

    def evaluate(self, index: int) -> bool:
        """Runs the evaluations that are due before step `index`; returns whether the state is the best now."""
        names = self.evaluating.due(index)
        if names:
            self.read(index)  # first: so the lines of the metrics have one order, wherever a run was stopped
        if not names or self.finite.in_row:
            return False
        try:
            with self.stop.at_once():
                return self.evaluating.evaluate(index, self.current.params, names)
        except preemption.Stopped:
            self.interrupt(index)

    def compile(self, index: int, objective: str) -> None:
        """Compiles an objective's step, before a batch is drawn for it: a signal meanwhile finds nothing begun."""
        with self.run.phases.of("compile"):
            spec = tasks.bind(self.run.config, objective).spec()
            batch = batches.abstract(spec, self.keys.batch_size, self.rows_sharding)
            limit = step_limit(self.run, math.inf)
            done = self.stop.awaited(self.steps[objective].lower(self.current, batch, self.key, *limit).compile)
        self.compiled.add(objective)
        if not done:
            self.interrupt(index, busy=True)

    def step(self, index: int) -> None:
        """Dispatches step `index`, then reads the one before."""
        objective = self.stage.objective(index)
        first = objective not in self.compiled
        if first:
            self.compile(index, objective)
        source = self.loaders[objective]
        with self.run.phases.of("start" if first else "data"):  # a first batch is not made ahead
            before = source.state()
            try:
                with self.stop.at_once():
                    rows = self.waiting.draw(source)
            except preemption.Stopped:
                self.interrupt(index, drawn=named_streams(objective, before))
            guard.check_rows(index, objective, rows)
            batch = batches.to_global(rows, self.keys.batch_size, self.rows_sharding)
            limit = step_limit(self.run, self.losses.limit(objective, index))
        with jax.transfer_guard("disallow"):
            self.current, sums = self.steps[objective](self.current, batch, self.key, *limit)
        self.waiting.dispatched(sums)
        self.read(index)
        self.pending = metrics.Step(index, objective, sums, before)

    def read(self, done: int) -> None:
        """Reads the last of `done` steps, unless it has been, and shows the window that ends with it."""
        if self.pending is not None:
            step, self.pending = self.pending, None
            values = self.meter.read(step)
            self.run.phases.done(self.stage.name, step.index)
            self.losses.note(step.objective, step.index, values.get("loss"))
            self.finite.note(step, values)
        if done > self.shown and (done % self.keys.log_every == 0 or done == self.last):
            waited = self.waiting.seconds()
            spent = self.run.goodput.window(waited, self.meter.skipped())
            losses, timing = self.meter.window(done - 1, waited, spent)
            self.progress.update(done, losses, timing["tokens_per_second"])
            if text := self.slow_data.text(timing):
                self.progress.log(text)
            self.shown = done

    def save(self, index: int, wait: bool = False, drawn: Mapping[str, Any] | None = None) -> None:
        """Saves the state before step `index`; without `wait` the disk gets it while training goes on.

        `drawn` are streams whose batch was drawn and is not trained on, as they were before.
        """
        with self.run.phases.of("checkpoint"):
            chosen = self.evaluating.selection
            meta = self.meta | ({"selection": chosen.state()} if chosen.evaluation else {})
            meta |= {"losses": self.losses.state()} if self.keys.spike_sigmas else {}
            streams = stream_states(self.loaders) | dict(drawn or {}) if self.writes_streams else {}
            self.saved.save(index, self.current, streams, meta, selected=chosen.best == index)
            self.run.goodput.saved(self.stage.name, index)
            if wait:
                self.saved.wait()

    def finish_save(self) -> None:
        """Lets the save under way end, which the end of the process would cut short; several would wait for another."""
        if jax.process_count() == 1:
            with contextlib.suppress(CheckpointError):  # it is on the screen, and another error ends the run
                self.saved.wait()

    def interrupt(self, done: int, drawn: Mapping[str, Any] | None = None, busy: bool = False) -> NoReturn:
        """Saves the state after `done` steps, if it can be, and ends the run; see `save` and `Interrupted`."""
        self.read(done)
        where = "saved"
        if self.finite.in_row:
            with self.run.phases.of("checkpoint"):
                self.saved.wait()
            where = f"not saved, since its update was skipped; the last checkpoint is of step {self.saved.latest()}"
        else:
            self.save(done, wait=True, drawn=drawn)
        what = f"stopped after step {done} of {self.last} of {self.stage.name}, {where}{self.stop.after()}"
        raise preemption.Interrupted(what, self.stop.signal, busy)

    def end(self) -> state.TrainState:
        """The last evaluation and save; returns the state that the stage ends with."""
        self.read(self.last)
        self.finite.end()
        try:
            with self.stop.at_once():
                self.evaluating.evaluate(self.last, self.current.params, self.evaluating.due_at_end(self.last))
        except preemption.Stopped:
            self.interrupt(self.last)
        except ConfigError:  # what it is to be selected by is not there; that must not cost the training
            self.save(self.last, wait=True)
            raise
        self.save(self.last, wait=True)
        if self.stop.due(self.last):
            raise preemption.Interrupted(f"stopped at the end of {self.stage.name}, saved", self.stop.signal)
        return self.current


def run_key(seed: int, mesh: jax.sharding.Mesh) -> jax.Array:
    """The key that every step gets, whole on every device of all processes."""
    return jax.jit(lambda: jax.random.key(seed), out_shardings=sharding.replicated(mesh))()


def step_limit(run: stages.Run, limit: float) -> tuple[jax.Array, ...]:
    """What a step gets beside its key: the limit of its loss, whole on every device, where there are limits."""
    if not run.config.train.spike_sigmas:
        return ()
    return (jax.make_array_from_callback((), sharding.replicated(run.mesh), lambda _: np.float32(limit)),)


def due(index: int, every: int, first: int) -> bool:
    """Whether something that happens every `every` steps happens before step `index`; not where the run begins."""
    return every > 0 and index > first and index % every == 0


def stream_states(loaders: Mapping[str, loader.Loader]) -> dict[str, Any]:
    """State of every owned stream, by `objective-stream`."""
    return {
        key: value for name, source in loaders.items() for key, value in named_streams(name, source.state()).items()
    }


def named_streams(objective: str, states: Mapping[str, Any]) -> dict[str, Any]:
    """The states of one objective's streams, by `objective-stream`."""
    return {f"{objective}-{number}": value for number, value in states.items()}


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
