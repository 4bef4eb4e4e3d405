"""A whole run: a config and a work directory in, trained stages and a summary out.

    workdir/config.json            the resolved config, versions and commit
    workdir/tokenizer/             the tokenizer, if the run trained it
    workdir/<stage>/               checkpoints/ metrics.jsonl tensorboard/ retrieval.csv retrieval.png summary.json
    workdir/summary.json           what the screen shows at the end

Where a stage starts is `start`'s business.
"""

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from ernie_m_jax import encode, tokenizer
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError, RetrievalConfig, differences, to_dict
from ernie_m_jax.data import mixture
from ernie_m_jax.data.records import DataError
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Group
from ernie_m_jax.training import evaluate, files, optimizer, report, sharding, start, summary, train

# Keys that change how fast a run goes or what it keeps, not its numbers; a run may go on with others.
FREE_KEYS = (
    "config.mesh",
    "config.compute.attention",
    "config.compute.remat",
    "config.compute.vocab_chunk",
    "config.data.prefetch",
    "config.train.evaluate_every",
    "config.train.keep",
    "config.train.log_every",
    "config.train.max_skipped",
    "config.train.save_every",
)
USE_KEYS = (*FREE_KEYS, "config.retrieval")  # of a run that is only used


def check(config: Config, workdir: Path, free: tuple[str, ...] = FREE_KEYS) -> None:
    """A work directory in which something was made must hold a run of this config, but for the `free` keys.

    Raises:
      ConfigError: it is of another config; each differing key is named.
    """
    made = [workdir / "tokenizer", *workdir.glob("*/checkpoints")]
    if not any(path.exists() for path in made):
        return
    lines = differences(stored_config_tree(workdir), to_dict(config))
    lines = [line for line in lines if not line.startswith(free)]
    if lines:
        raise ConfigError(
            f"{workdir} holds a run of a different config; choose another --workdir, or make these keys agree:\n  "
            + "\n  ".join(lines)
        )


def claim(config: Config, workdir: Path) -> None:
    """Checks the work directory and writes `config.json` into it."""
    check(config, workdir)
    if jax.process_index() == 0:
        files.write_json(workdir / "config.json", {"config": to_dict(config), "versions": files.versions()})


def stored_config_tree(workdir: Path) -> dict[str, Any]:
    """The resolved config of the run in `workdir`, as dictionaries.

    Raises:
      ConfigError: no run there, or its `config.json` cannot be read.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text("utf-8"))["config"]
    except FileNotFoundError:
        raise ConfigError(f"{workdir} holds no run: there is no {path.name} in it") from None
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it, or choose another --workdir") from None


def open_tokenizer(config: Config, workdir: Path, training: bool) -> tokenizer.Tokenizer:
    """The tokenizer of `tokenizer.path`, or the work directory's own, which training makes if it is not there yet.

    Raises:
      ConfigError: there is none, it cannot be used, or its vocabulary does not match `model.vocab_size`.
    """
    if training and config.tokenizer.style in ("bert", "xlm"):
        # Their special tokens stand elsewhere, and the objectives draw random words from between [UNK] and [MASK].
        raise ConfigError(
            f"config.tokenizer.style {config.tokenizer.style!r} is for using a model, not pre-training it"
        )
    own = workdir / "tokenizer"
    path = config.tokenizer.path or own
    missing = not config.tokenizer.path and not (own / "vocab.txt").exists()
    if missing and not training:
        raise ConfigError(f"{workdir} holds no tokenizer and config.tokenizer.path names none")
    if missing and jax.process_index() == 0:
        report.show(f"training a tokenizer of {config.model.vocab_size} entries")
        try:
            tokenizer.train(training_text(config), config.model.vocab_size, own, config.tokenizer.character_coverage)
        except DataError:
            raise
        except ValueError as error:
            raise ConfigError(f"config.model.vocab_size and config.tokenizer: {error}") from None
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("tokenizer")
    try:
        loaded = tokenizer.Tokenizer.load(path, config.tokenizer.style)
    except ValueError as error:
        raise ConfigError(f"config.tokenizer.path: {error}") from None
    if loaded.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"config.model.vocab_size is {config.model.vocab_size}, but the tokenizer in {path} has "
            f"{loaded.vocab_size} entries"
        )
    return loaded


def training_text(config: Config) -> Any:
    """Every line of the training data, for training a tokenizer on."""
    opened: list[Mapping[str, Any]] = []
    if config.data.monolingual:
        opened.append(mixture.open_monolingual(config))
    if config.data.parallel:
        opened.append(mixture.open_parallel(config))
    if not opened:
        raise ConfigError("config.data names no source, and config.tokenizer.path no tokenizer")
    seen = set()
    for sequences in opened:
        for sequence in sequences.values():
            for index in range(len(sequence)):
                for text in sequence[index].texts:
                    if (mark := hash(text)) not in seen:
                        seen.add(mark)
                        yield text


def open_entries(config: Config) -> dict[str, Mapping[str, Group]]:
    """The mixture of each objective that any stage trains; every stage's schedule is checked too.

    So what is wrong with the data or with a later stage is said before the first one trains.

    Raises:
      ConfigError, DataError: what is wrong and where.
    """
    for stage in config.stages.values():
        optimizer.schedule(stage)
    active = {name for stage in config.stages.values() for name, weight in stage.weights.items() if weight > 0}
    return {name: tasks.load(name).records(config) for name in sorted(active)}


def make(config: Config, workdir: Path, training: bool = False) -> train.Run:
    """Tokenizer, model, mesh, data and evaluation of a run; only training opens the data and makes a tokenizer."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_rows(mesh, config.train.batch_rows, config.train.microbatches)
    sentences = evaluate.aligned_sentences(config.retrieval.source, config.languages) if has_retrieval(config) else {}
    entries = open_entries(config) if training else {}
    if training:
        claim(config, workdir)
    loaded = open_tokenizer(config, workdir, training)
    model = ErnieM(config.model, config.compute)
    return train.Run(
        config=config,
        tokenizer=loaded,
        model=model,
        mesh=mesh,
        entries=entries,
        evaluate=functools.partial(retrieve, model, loaded, config.retrieval, sentences),
    )


def has_retrieval(config: Config) -> bool:
    """Whether the config names a parallel set to search."""
    return bool(config.retrieval.source.path)


def retrieve(
    model: ErnieM,
    loaded: tokenizer.Tokenizer,
    config: RetrievalConfig,
    sentences: Mapping[str, Any],
    params: Any,
    directory: Path,
    name: str,
) -> float | None:
    """Average retrieval accuracy over all language pairs, percent; writes CSV and PNG. None without a parallel set."""
    if not sentences:
        return None
    vectors = functools.partial(
        encode.encode_texts,
        model,
        params,
        loaded,
        layer=config.layer,
        pooling=config.pooling,
        max_length=config.length,
        batch_rows=config.batch_rows,
    )
    result = evaluate.retrieval(vectors, sentences)
    if jax.process_index() == 0:
        evaluate.write_retrieval(directory, name, result)
        report.show(report.retrieval_table(result.languages, result.matrix / 100, title=f"{directory.name}: {name}, %"))
    return result.average


def pretrain(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains every stage, evaluates before and after each, and writes and returns the summary.

    Raises:
      ConfigError, DataError, CheckpointError: what is wrong and where; what is on disk stays intact.
      Interrupted: a signal asked to stop; the same command goes on from there.
    """
    began = time.perf_counter()
    check(config, workdir)
    run = make(config, workdir, training=True)
    if train.is_complete(run, workdir) and (workdir / "summary.json").exists():
        report.show(f"{workdir} is complete")
        return json.loads((workdir / "summary.json").read_text("utf-8"))
    numbers: dict[str, Any] = {"retrieval": {}, "objectives": {}, "stages": {}}
    previous: Path | None = None
    for name in sorted(config.stages):
        stage = train.make_stage(config, name, workdir / name)
        stage_numbers = run_stage(run, stage, previous)
        previous = stage.directory
        if jax.process_index() != 0:
            continue  # the first process has the numbers
        if "retrieval_start" in stage_numbers:
            numbers["retrieval"].setdefault("untrained", stage_numbers.pop("retrieval_start"))
        if "retrieval" in stage_numbers:
            numbers["retrieval"][name] = stage_numbers.pop("retrieval")
        numbers["objectives"][name] = stage_numbers.pop("objectives")
        numbers["stages"][name] = stage_numbers
    if jax.process_index() != 0:
        return {}
    numbers |= summary.totals(numbers["stages"].values())
    numbers["wall_seconds"] = time.perf_counter() - began
    numbers["versions"] = files.versions()
    files.write_json(workdir / "summary.json", numbers)
    shown = {name: value for name, value in numbers.items() if name not in ("objectives", "stages", "versions")}
    report.show(report.objectives_table(numbers["objectives"]), report.summary_table(shown))
    return numbers


def run_stage(run: train.Run, stage: train.Stage, previous: Path | None) -> dict[str, Any]:
    """Runs one stage from wherever it stands; returns its numbers."""
    done = stage.directory / "summary.json"
    saved = train.checkpoints(run, stage.directory)
    if saved.latest() == stage.config.steps and done.exists():
        report.show(f"{stage.name} is complete: {stage.directory}")
        return json.loads(done.read_text("utf-8"))
    numbers: dict[str, Any] = {}
    current, streams = start.begin(run, stage, saved, previous)
    first = stage.directory / "retrieval-start.json"
    if int(current.step) == 0 and previous is None:
        average = run.evaluate(current.params, stage.directory, "retrieval-start")
        if average is not None and jax.process_index() == 0:
            files.write_json(first, average)
    if first.exists():
        numbers["retrieval_start"] = json.loads(first.read_text("utf-8"))
    if int(current.step) < stage.config.steps:
        current = train.train_stage(run, stage, current, streams)
    average = run.evaluate(current.params, stage.directory, "retrieval")
    if jax.process_index() != 0:
        return {}
    numbers |= summary.of_stage(stage.directory / "metrics.jsonl")
    if average is not None:
        numbers["retrieval"] = average
    files.write_json(done, numbers)
    return numbers
