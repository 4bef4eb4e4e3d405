"""What a run's stages are made of: a `Run`, shared by them, and for each its state, data, checkpoints and steps.

A config comes in; what `loop` trains with, and what `restore` and `compile` need of it, goes out.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.config import Config, StageConfig
from ernie_m_jax.data import loader
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.model.visibility import FULL
from ernie_m_jax.reporting.goodput import Goodput
from ernie_m_jax.task import Group
from ernie_m_jax.training import optimizer, state, step
from ernie_m_jax.training.phases import Phases


def init_inputs() -> tuple[Any, ...]:
    """What `model.init` is called with; only that it is a row of tokens matters."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    return Inputs(*(tokens for _ in Inputs._fields)), FULL


def make_model(config: Config, mesh: jax.sharding.Mesh) -> ErnieM:
    """The config's model; its tables have as many rows as the mesh asks for."""
    return ErnieM(config.model, config.compute, table_rows=sharding.table_rows(mesh, config.model.vocab_size))


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage of a run shares.

    Attributes:
      entries: the mixtures of all objectives with a weight in any stage.
      evaluations: those of `config.evals`, opened.
      goodput: where its time goes; is told of every save.
      phases: what the run is doing.
    """

    config: Config
    tokenizer: Any
    model: Any
    mesh: jax.sharding.Mesh
    entries: Mapping[str, Mapping[str, Group]]
    evaluations: Evaluations
    goodput: Goodput = dataclasses.field(default_factory=Goodput)
    phases: Phases = dataclasses.field(default_factory=Phases)

    def evaluate(self, name: str, params: Any, directory: Path, stem: str) -> Outcome:
        """Runs one evaluation, shows it and writes `<stem>.csv` and the like."""
        with self.phases.of("evaluation"):
            return self.evaluations.run(name, self.model, params, self.tokenizer, directory, stem)


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


def checkpoints(run: Run, directory: Path) -> Checkpoints:
    """The checkpoints of a stage's directory."""
    config = run.config
    return Checkpoints(
        directory / "checkpoints",
        config.train.max_to_keep,
        run.tokenizer.fingerprint,
        config.model.vocab_size,
        config.train.keep_every,
    )


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
    """A loader for each active objective; reads the streams of the rows that this process's devices hold."""
    config = dataclasses.replace(run.config, seed=stage.seed)
    owned, _ = sharding.owned_parts(run.mesh, config.data.virtual_streams)
    return {
        name: loader.Loader(tasks.bind(config, name), run.tokenizer, run.entries[name], owned) for name in stage.active
    }


def compiled_steps(run: Run, stage: Stage) -> dict[str, jax.stages.Wrapped]:
    """One jitted step per objective; nothing branches inside."""
    abstract = abstract_state(run, stage)
    factory = optimizer_factory(run, stage)(abstract.params)
    schedule = optimizer.schedule(stage.config)
    model = run.model.clone(mesh=run.mesh)
    bound = {name: tasks.bind(run.config, name) for name in stage.active}
    return {
        name: step.make_train_step(
            functools.partial(counted_loss, task.loss, model),
            factory,
            schedule,
            run.config.train.grad_accumulation_steps,
            run.mesh,
            state.shardings(abstract),
            limited=run.config.train.spike_sigmas > 0,
        )
        for name, task in bound.items()
    }


def counted_loss(loss: Any, model: Any, params: Any, batch: tasks.Batch, rng: jax.Array) -> tasks.Sums:
    """An objective's sums, and `fill`: real tokens of all of the batch's."""
    segments = batch["segments"]
    fill = (jnp.sum(segments > 0).astype(jnp.float32), jnp.float32(segments.size))
    return loss(model, params, batch, rng, False) | {"fill": fill}
