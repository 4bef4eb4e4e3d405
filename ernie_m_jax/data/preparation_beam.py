"""`prepare.py corpus --runner=...`: a corpus of any size prepared by the workers of an Apache Beam runner.

    config --job--> preparation_shards.Job --pipeline--> shards of token ids --prepare--> their manifest

The same folder as `preparation_corpus.py` makes in one process, in more files: the text is cut into parts, and each
becomes a shard. Records that stand there before are left out. Beam spreads the steps of `preparation_shards.py` over
its workers, and its GroupByKey says when a text's parts are all done; text and ids do not pass through it. For its
local runner keeps what is grouped in memory, and none keeps it when a run is killed.
"""

import contextlib
import dataclasses
import functools
import importlib
import os
from collections.abc import Sequence
from typing import Any

from ernie_m_jax import stores
from ernie_m_jax.config import Config, ConfigError, SourceConfig
from ernie_m_jax.data import mixture, prepared, records, stored_ids
from ernie_m_jax.data import preparation_corpus as corpus
from ernie_m_jax.data.preparation_parts import Text
from ernie_m_jax.data.preparation_shards import Job, Steps, told
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record

SHARD_MEGABYTES = 128
# Beam's DirectRunner first tries to download another runner, Prism; this is the one it takes without.
_RUNNERS = {"DirectRunner": "FnApiRunner"}
# The steps in their order, and whether one takes a text with all that the step before found of it.
_STEPS = (
    ("cut_text", False),
    ("digest", False),
    ("ranges", True),
    ("compare", False),
    ("limits", True),
    ("store", False),
)

_say = functools.partial(print, flush=True)  # a line of what is done


@dataclasses.dataclass(frozen=True)
class Options:
    """How the corpus is prepared.

    Attributes:
      runner: Beam's name of it.
      flags: more of Beam's.
      shard_megabytes: of text per shard.
      max_characters: of each language or pair, about so many are kept; 0: all.
      keep_duplicates: whether repeated records are kept.
    """

    runner: str
    flags: Sequence[str] = ()
    shard_megabytes: float = SHARD_MEGABYTES
    max_characters: float = 0
    keep_duplicates: bool = False


def prepare(config: Config, config_file: str, output: str, options: Options) -> prepared.Manifest:
    """Stores the ids of all text that the config's stages train on.

    Args:
      config: of the run; its tokenizer must be there.
      config_file: its file, for the manifest.
      output: the folder, a path or URL that all workers reach. A URL has no lock: let one preparation write there.
      options: how.

    Raises:
      ConfigError, DataError: what is wrong and where; a folder that is prepared already. What is done is kept.
    """
    _check_free(output)
    pipeline = _pipeline(options)
    asked = corpus.ask(config, mixture.Sources(config, opening=_unopened))
    corpus.check_apart(config, output)
    job = _job(config, output, asked, options)
    work = job.work()
    with contextlib.nullcontext() if stores.is_url(output) else prepared.alone(output):
        _check_free(output)  # another preparation may have finished since
        steps = _begin(job, work)
        _run(pipeline, steps)
        manifest = prepared.Manifest(stored_ids.TASK, (), config_file, steps.stored(), job.fingerprint)
        for text in job.texts.values():
            for _, name in job.files(text):
                _say(_line(name, manifest, options))
        if job.work() != work:
            raise DataError(f"{output}: a source changed while it was read; run the same command again")
        _keep_only(output, manifest)
        _check_free(output)
        prepared.complete(output, manifest)
        stores.remove(steps.work)
    corpus.say_flags(config, output, asked)
    return manifest


def _check_free(output: str) -> None:
    """As `prepared.check_free`; what a preparation that was killed at its very end left is removed before."""
    try:
        prepared.check_free(output)
    except DataError:
        for name in filter(prepared.WORK.fullmatch, stores.names(output)):
            with contextlib.suppress(OSError):  # the other preparation may be removing it
                stores.remove(stores.join(output, name))
        raise


def _keep_only(output: str, manifest: prepared.Manifest) -> None:
    """Removes what the workers of this job, or of one that still lives, left beside the shards.

    Raises:
      DataError: a shard is missing or was overwritten; it is removed, to be made again.
    """
    there = stores.sizes(output)
    for name in there.keys() - manifest.files:
        if prepared.DATA.fullmatch(name) or prepared.UNFINISHED.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                stores.remove(stores.join(output, name))
    for name, file in manifest.files.items():
        if there.get(name, 0) not in (None, file.bytes):
            if name in there:
                stores.remove(stores.join(output, name))
            path = stores.join(output, name)
            raise DataError(f"{path}: another preparation wrote here; cancel it, and run the same command again")


def _pipeline(options: Options) -> Any:
    """An empty `beam.Pipeline` for the runner.

    Raises:
      ConfigError: Beam is not installed, or does not know the runner or a flag.
    """
    try:
        beam = importlib.import_module("apache_beam")
        flags = importlib.import_module("apache_beam.options.pipeline_options").PipelineOptions
    except ImportError as error:
        raise ConfigError(f"--runner needs apache-beam: pip install 'ernie_m_jax[prepare]' ({error})") from error
    made = flags([f"--runner={_RUNNERS.get(options.runner, options.runner)}", *options.flags])
    known, given = (made.get_all_options(retain_unknown_options=keep) for keep in (False, True))
    if unknown := sorted(given.keys() - known.keys()):
        raise ConfigError(f"--{unknown[0]}: neither this command nor Apache Beam knows the flag")
    try:
        return beam.Pipeline(options=made)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"--runner={options.runner}: {error}") from error


def _unopened(
    shown: str, source: SourceConfig, languages: tuple[str, ...], kind: records.Kind, takes_ids: bool = False
) -> dict[str, Any]:
    """In place of `records.open_source`: a record for each language or pair, for objectives that only ask which."""
    del takes_ids
    try:
        groups = records.groups_of(source, languages, kind)
    except DataError as error:
        raise DataError(f"source {shown!r}: {error}") from error
    return {"-".join(group): [Record(("text",) * len(group), group)] for group in groups}


def _job(config: Config, output: str, asked: corpus.Asked, options: Options) -> Job:
    """What the config says, for the workers.

    Raises:
      ConfigError: no tokenizer, or another one than the model's; ids instead of text.
    """
    path = config.tokenizer.path
    if not path:
        raise ConfigError(
            "config.tokenizer.path is empty: with --runner the tokenizer must be there before; train it with "
            "`python -m ernie_m_jax.tokenizer train` on a sample of the text"
        )
    texts = {}
    for kind in asked.opened:
        found: dict[tuple[str, ...], list[tuple[str, SourceConfig]]] = {}
        for name, source in getattr(config.data, kind).items():
            for group in dict.fromkeys(records.groups_of(source, config.languages, kind)):
                found.setdefault(group, []).append((f"data.{kind}.{name}", source))
        for group, sources in found.items():
            text = Text(kind, group, config.languages, tuple(sources))
            if any(text.files(number)[0] == "ids" for number in range(len(sources))):
                raise ConfigError(corpus.HELD)
            texts[text.name] = text
    return Job(
        output=output if stores.is_url(output) else os.path.abspath(output),
        texts=texts,
        joins=tuple(sorted(asked.joins)),
        tokenizer=path if stores.is_url(path) else os.path.abspath(path),
        style=config.tokenizer.style,
        fingerprint=corpus.load_tokenizer(config, path).fingerprint,
        part_bytes=max(1, round(options.shard_megabytes * 1e6)),
        max_characters=options.max_characters,
        keep_duplicates=options.keep_duplicates,
    )


def _begin(job: Job, work: str) -> Steps:
    """The steps of a job, with what an earlier start of it has done; what another one left is removed."""
    left = list(filter(prepared.is_left, stores.names(job.output)))
    for name in left:
        if name != work and not (work in left and prepared.DATA.fullmatch(name)):
            stores.remove(stores.join(job.output, name))
    steps = Steps(job, stores.join(job.output, work))
    if not stores.is_url(job.output):
        os.makedirs(steps.work, exist_ok=True)
    for name in stores.names(steps.work):
        if name.startswith("error-"):
            stores.remove(stores.join(steps.work, name))
    return steps


def _run(pipeline: Any, steps: Steps) -> None:
    """Runs the steps on Beam's workers, and waits.

    Raises:
      DataError: the runner failed.
    """
    beam = importlib.import_module("apache_beam")
    found = pipeline | beam.Create(sorted(steps.job.texts))
    for step, gathers in _STEPS:
        found |= f"before {step}" >> (beam.GroupByKey() if gathers else beam.Reshuffle())
        found |= step >> beam.FlatMap(functools.partial(told, steps, step))
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has exceptions of its own
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"Beam's runner failed: {said[-1]}; the same command goes on from what is done") from error
    if state not in (None, "DONE"):
        raise DataError(f"Beam's runner ended as {state}; the same command goes on from what is done")


def _line(name: str, manifest: prepared.Manifest, options: Options) -> str:
    """What is said of a language's or pair's files.

    Raises:
      DataError: there are none.
    """
    shards = stored_ids.shards(manifest, name)
    if not shards:
        raise DataError(f"--max_characters {options.max_characters:g} leaves nothing of {name}; raise it")
    files = [manifest.files[shard] for shard in shards]
    counts = {key: sum(getattr(file, key) for file in files) for key in ("records", "tokens", "bytes")}
    for file in files:
        for reason, count in file.skipped.items():
            counts[reason] = counts.get(reason, 0) + count
    said = [f"{count:,} {key}" for key, count in counts.items()]
    return f"{name}: {', '.join(said)}, in {len(files):,} {'file' if len(files) == 1 else 'files'}"
