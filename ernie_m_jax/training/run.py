"""A whole run: a config and a work directory in, trained stages and a summary out.

    workdir/config.json            the resolved config, versions and commit
    workdir/tokenizer/             the tokenizer: trained by the run, or a copy of that of `tokenizer.path`
    workdir/<stage>/               checkpoints/ metrics.jsonl tensorboard/ mixture.json summary.json,
                                   <evaluation>.csv .png
    workdir/goodput.json           where the time of all parts of the run went
    workdir/summary.json           what the screen shows at the end
    workdir/report.html            the run's report
    workdir/evaluation/            of --mode=evaluate: config.json summary.json, <evaluation>.csv .png

`restore` decides where a stage starts, `claim` which config a work directory belongs to.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax import config_files, mirrors, sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import Config, ConfigError, MeshConfig, to_dict
from ernie_m_jax.data import mixture
from ernie_m_jax.evaluation import report
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model import kernels
from ernie_m_jax.reporting import files, goodput, metrics, screen, summary
from ernie_m_jax.reporting.goodput import Goodput
from ernie_m_jax.task import Group
from ernie_m_jax.training import claim, evaluating, lengths, loop, own_tokenizer, restore, stages
from ernie_m_jax.training.phases import Phases
from ernie_m_jax.training.spikes import Losses
from ernie_m_jax.training.watchdog import Watchdog


def open_entries(config: Config, sources: mixture.Sources) -> dict[str, Mapping[str, Group]]:
    """The mixture of each objective that any stage trains.

    So what is wrong with the data of a later stage is said before the first one trains.

    Raises:
      ConfigError, DataError: what is wrong and where.
    """
    active = {name for stage in config.stages.values() for name, weight in stage.weights.items() if weight > 0}
    return {name: tasks.bind(config, name).records(sources) for name in sorted(active)}


def local(workdir: str | os.PathLike[str]) -> Path:
    """The path of a work directory that cannot be behind a URL: a sweep's, whose runs are processes of their own.

    Raises:
      ConfigError: it is a URL.
    """
    if "://" in os.fspath(workdir):
        raise ConfigError(f"--workdir must be a local or mounted directory, got {os.fspath(workdir)!r}")
    return Path(workdir)


def make(config: Config, workdir: Path, training: bool = False, with_evaluations: bool = True) -> stages.Run:
    """Tokenizer, model, mesh, data and evaluations of a run; only training opens the data and makes a tokenizer.

    Without `with_evaluations` the evaluations' data is not opened.
    """
    if jax.process_index() != 0:
        mirrors.follow(workdir)
    mesh = _mesh(config, training)
    kernels.check(config.compute, config.model, mesh, config.data.sequence_length)
    if training and "auto" in (config.compute.attention, config.compute.layer_norm):
        attention = kernels.attention_backend(config.compute, config.model, mesh, config.data.sequence_length)
        screen.show(f"kernels: attention {attention}, layer norm {kernels.layer_norm_kernel(config.compute, mesh)}")
    evaluations = Evaluations(config if with_evaluations else dataclasses.replace(config, evals={}))
    sources = mixture.Sources(config) if training else None
    entries = open_entries(config, sources) if sources is not None else {}
    if training:
        sharding.check_rows(mesh, config.train.batch_size, config.train.grad_accumulation_steps)
        claim.claim(config, workdir)
    opened = own_tokenizer.open_tokenizer(config, workdir, sources)
    if sources is not None:
        sources.check_tokenizer(opened.fingerprint)
    return stages.Run(
        config=config,
        tokenizer=opened,
        model=stages.make_model(config, mesh),
        mesh=mesh,
        entries=entries,
        evaluations=evaluations,
    )


def _mesh(config: Config, training: bool) -> jax.sharding.Mesh:
    """The config's mesh; a model that is evaluated, not trained, takes the devices there are."""
    try:
        return sharding.make_mesh(config.mesh)
    except ConfigError:
        if training:
            raise
        return sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))


def is_complete(run: stages.Run, workdir: Path) -> bool:
    """Whether every stage has the checkpoint of its last step."""
    return all(
        stages.checkpoints(run, workdir / name).latest() == evaluating.last_step(run, name, workdir / name)
        for name in run.config.stages
    )


def train(config: Config, workdir: Path, age: float = 0.0) -> dict[str, Any]:
    """Trains every stage, evaluates before the first and after each, and writes and returns the summary.

    Args:
      config: the whole run.
      workdir: local; of a URL, its mirror.
      age: seconds that the process has run already, to be counted as its start.

    Raises:
      ConfigError, DataError, CheckpointError: what is wrong and where; what is on disk stays intact.
      Interrupted: a signal asked to stop; the same command goes on from there.
    """
    phases = Phases()
    with claim.alone(workdir):
        begun = claim.is_begun(workdir)
        config = lengths.as_stored(config, workdir) if begun else config
        claim.check(config, workdir)
        with Goodput(workdir / goodput.FILE, begun, phases.seconds, age) as account:
            return _train(config, workdir, begun, phases, account)


def _train(config: Config, workdir: Path, begun: bool, phases: Phases, account: Goodput) -> dict[str, Any]:
    """See `train`; `begun` says that there is a checkpoint, `account` is of the time that passes in `phases`."""
    run = dataclasses.replace(make(config, workdir, training=True), goodput=account, phases=phases)
    config = lengths.measured(run)
    if config != run.config:
        run = dataclasses.replace(run, config=config)
        claim.claim(config, workdir)
    if not begun and jax.process_index() == 0:
        (workdir / report.FILE).unlink(missing_ok=True)  # of another run that was here
    done = workdir / "summary.json"
    stored = summary.stored(done, summary.is_of_run) if is_complete(run, workdir) else None
    if stored is not None:
        screen.show(f"{workdir} is complete")
        account.forget()
        if not _is_of_the_end(workdir / report.FILE, done):
            make_report(workdir, config)
        return stored
    if jax.process_index() == 0:
        done.unlink(missing_ok=True)  # of another run that was here, or of this one before its stages became longer
    keys = config.train
    with Watchdog(phases, workdir, keys.watchdog_seconds, other=keys.watchdog_other_seconds):
        numbers = _run_stages(run, workdir)
    if jax.process_index() != 0:
        return {}
    numbers |= summary.totals(numbers["stages"].values())
    numbers["goodput"] = account.summary()
    numbers["wall_seconds"] = sum(numbers["goodput"]["seconds"].values())
    numbers["versions"] = files.versions()
    files.write_json(workdir / "summary.json", numbers)
    own = {name: value for name, value in numbers.items() if name not in ("evals", "objectives", "stages", "versions")}
    own["goodput"] = numbers["goodput"]["productive"]
    columns = {key: title for name in run.entries for key, title in tasks.bind(config, name).task.columns.items()}
    screen.show(screen.objectives_table(numbers["objectives"], columns), screen.summary_table(numbers["evals"] | own))
    account.keep()  # the report shows it
    make_report(workdir, config)
    return numbers


def _is_of_the_end(page: Path, done: Path) -> bool:
    """Whether a report was made after the summary: it may be of a run under way, and a kill have come before the last.

    Behind a URL the times are those of the download; there both are put at once, the report first.
    """
    if not page.exists():
        return False
    return mirrors.of(page) is not None or page.stat().st_mtime_ns >= done.stat().st_mtime_ns


def _run_stages(run: stages.Run, workdir: Path) -> dict[str, Any]:
    """Runs every stage from wherever it stands; returns their numbers on the first process."""
    config = run.config
    numbers: dict[str, Any] = {"evals": {name: {} for name in run.evaluations.keys}, "objectives": {}, "stages": {}}
    previous: Path | None = None
    for name, following in itertools.zip_longest(config.stages, list(config.stages)[1:]):
        stage = stages.make_stage(config, name, workdir / name)
        needed = following is not None and not saved_steps.complete(workdir / following / "checkpoints")
        stage_numbers = run_stage(run, stage, previous, needed)
        mirrors.push(workdir)
        previous = stage.directory
        if jax.process_index() != 0:
            continue  # the first process has the numbers
        for moment, found in (("untrained", stage_numbers.pop("start", {})), (name, stage_numbers["evals"])):
            for evaluation in found.keys() & run.evaluations.keys.keys():  # it may have been begun with others
                if (shown := run.evaluations.headline(evaluation, found[evaluation])) is not None:
                    numbers["evals"][evaluation][moment] = shown
        numbers["objectives"][name] = stage_numbers.pop("objectives")
        numbers["stages"][name] = stage_numbers
    return numbers


def make_report(workdir: Path, config: Config) -> None:
    """Makes the report, on the first process. The run is done: what is wrong with its report is printed."""
    if jax.process_index() != 0:
        return
    # The command line has allowed them: these modules are imported already.
    allowed = [f"{config_files.PREFIX}objectives.{name}.task={keys.task}" for name, keys in config.objectives.items()]
    try:
        screen.show(f"report: {report.write(workdir, [setting for setting in allowed if not setting.endswith('=')])}")
    except Exception as error:
        screen.show(f"no {report.FILE} ({type(error).__name__}: {error}); --mode=report makes it later")


def run_stage(run: stages.Run, stage: stages.Stage, previous: Path | None, needed: bool) -> dict[str, Any]:
    """Runs one stage from wherever it stands; returns its numbers.

    `needed` says that the next stage will start from this one's last checkpoint, which then must be a good one.
    """
    done, first = stage.directory / "summary.json", stage.directory / "start.json"
    saved = stages.checkpoints(run, stage.directory)
    newest, last = saved.latest(), evaluating.last_step(run, stage.name, stage.directory)
    if needed and newest == last:
        newest = saved.newest_good(set_aside=True)
    if newest == last and (stored := summary.stored(done, summary.is_of_stage)) is not None:
        screen.show(f"{stage.name} is complete: {stage.directory}")
        return stored
    if newest != last and jax.process_index() == 0:
        done.unlink(missing_ok=True)  # of fewer steps, or of a start that failed
    if newest is None and jax.process_index() == 0:
        for path in (first, stage.directory / metrics.FILE):  # of a start that failed
            path.unlink(missing_ok=True)
    elif newest is not None and first.exists() and summary.stored(first, summary.is_of_start) is None:
        _evaluate_start(run, stage, restore.fresh(run, stage, previous).params, first)
    current, streams, meta = restore.begin(run, stage, saved, previous)
    run.goodput.began(stage.name, int(current.step))
    if int(current.step) == 0 and previous is None:
        evaluating.record(stage.directory, 0, _evaluate_start(run, stage, current.params, first))
    chosen = evaluating.taken(run, stage.directory, saved, int(current.step))
    saved_steps.select(saved.directory, chosen.best)  # a kill may have come between a checkpoint and this
    if int(current.step) < last or chosen.lacks(last):  # a signal may have kept it from judging the last state
        losses = Losses(run.config.train.spike_sigmas, meta.get("losses"))
        current = loop.train_stage(run, stage, current, streams, chosen, losses)
    params = current.params
    if chosen.best not in (None, int(current.step)):
        screen.show(f"{stage.name}: step {chosen.best} is the best, {run.config.train.select} {chosen.value:.4f}")
        params = saved.restore_params(chosen.best, stages.abstract_state(run, stage).params)
    found = {name: run.evaluate(name, params, stage.directory, name).metrics for name in run.evaluations.keys}
    if jax.process_index() != 0:
        return {}
    evaluating.record(stage.directory, chosen.best or int(current.step), found)
    numbers = summary.of_stage(metrics.repair(stage.directory / metrics.FILE)) | {"evals": found}
    if chosen.best is not None:
        numbers["selected"] = {"step": chosen.best, "metric": run.config.train.select, "value": chosen.value}
    if (untrained := summary.stored(first, summary.is_of_start)) is not None:
        numbers["start"] = untrained
    files.write_json(done, numbers)
    return numbers


def evaluate(run: stages.Run, params: Any, directory: Path) -> None:
    """Runs every evaluation on parameters; what is found stands in `directory`, with the config.

    Raises:
      ConfigError: there is no evaluation.
    """
    if not run.config.evals:
        raise ConfigError(
            "config.evals is empty, or its sources' paths are: nothing to evaluate on. For instance "
            "--config.evals.retrieval.source.path=FILE has sentences searched that are each other's translations; a "
            "task's data are config.objectives.NAME.dev and test"
        )
    found = {name: run.evaluate(name, params, directory, name).metrics for name in run.evaluations.keys}
    if jax.process_index() == 0:
        files.write_json(directory / "config.json", {"config": to_dict(run.config), "versions": files.versions()})
        files.write_json(directory / "summary.json", {"evals": found})


def _evaluate_start(run: stages.Run, stage: stages.Stage, params: Any, path: Path) -> dict[str, dict[str, float]]:
    """Evaluates what the first stage starts from, keeps the numbers in `path` and returns them."""
    names = run.evaluations.at_start()
    found = {name: run.evaluate(name, params, stage.directory, f"{name}-start").metrics for name in names}
    if found and jax.process_index() == 0:
        files.write_json(path, found)
    return found
