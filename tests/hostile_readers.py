"""The readers that take files from anyone: their good files, how these are damaged, and how each ends when it refuses.

`READERS` is what `fuzzing.py` goes through. A reader handles a file where it returns, or raises one of its `refusals`,
which its docstring names; those but of configs are one line.
"""

import contextlib
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.config import ConfigError
from ernie_m_jax.convert import architectures, formats, native, sidecar_files
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import tables
from ernie_m_jax.reporting import metrics, summary
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights import archives, checksums
from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.pickle_values import plain
from ernie_m_jax.weights.safe_pickle import load
from ernie_m_jax.weights.tensors import ConversionError
from ernie_m_jax.weights.torch_tensors import TABLE, storage_of
from launch.ledger import Ledger
from tests import hostile_data, repacking
from tests import hostile_files as made
from tests.mutations import damaged, hostile_json, hostile_json_lines

Case = dict[str, bytes]
TEXTS = ("", "Guten Tag, Welt 3,5 é 😀", "a\u0301\u00a0[MASK] \x00 ﬁ")


class Reader(NamedTuple):
    """One of them.

    Attributes:
      cases: gives the good files.
      mutate: damages a case.
      read: reads whatever lies in a folder, to its end.
      refusals: how it may end otherwise.
      lines: whether a refusal may have more than one.
    """

    cases: Callable[[], list[Case]]
    mutate: Callable[[random.Random, Case], Case]
    read: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...]
    lines: bool = False


def weights(path):
    """Everything that a path has as weights; arrays must be what their headers say."""
    opened = open_weights(path)
    for tensor in opened.tensors.values():
        array = tensor.read()
        if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
            raise AssertionError(f"{tensor.name} is {array.shape} {array.dtype}, its header {tensor.shape}")
    json.dumps(opened.facts, default=str)
    return opened


def _weights_in_file(place):
    weights(hostile_data.first_file(place))


def _variables(place):
    weights(place / "params")


def _checksummed(place):
    opened = open_weights(place)
    for tensor in checksums.guarded(place, opened.tensors).values():
        tensor.read()


def _archive(place):
    with archives.opened(hostile_data.first_file(place), directory=place) as unpacked:
        weights(unpacked)


def _pickle(place):
    path, storages = hostile_data.first_file(place), {}
    with path.open("rb") as file:
        plain(load(file, path.stat().st_size, path, TABLE, lambda identity: storage_of(identity, storages)))


def _tokenizer(style):
    def read(place):
        tokenizer = Tokenizer.load(place, style)
        for text in TEXTS:
            ids = tokenizer.encode_ids(text)
            tokenizer.decode(ids)
            if style != "xlm":
                for start, end in tokenizer.encode(text).offsets:
                    if not 0 <= start <= end <= len(text):
                        raise AssertionError(f"the span {start}, {end} of a text of {len(text)}")
        if tokenizer.vocab_size < 5 or not tokenizer.fingerprint:
            raise AssertionError("a tokenizer without its special tokens")

    return read


@functools.cache
def run_text():
    """The tree of a small run as JSON."""
    tree = base.get_config()
    tree.languages = ("en", "de", "ru")
    tree.data.monolingual.diagnostics = base.source("corpus:diagnostics/mono")
    tree.data.parallel.diagnostics = base.source("corpus:diagnostics/pairs")
    tree.stages.one = base.stage(steps=6, weights={"mmlm": 1.0, "camlm": 1.0}, learning_rate=1e-2, warmup_steps=2)
    return json.dumps(configs.to_dict(configs.resolve(tree.to_dict())))


def _configs():
    tree = json.loads(run_text())
    model = {"model": tree["model"], "tokenizer": tree["tokenizer"], "languages": ["en", "de"]}
    return [{"config.json": json.dumps(found).encode()} for found in ({"config": tree}, {"config": tree}, model)]


def _config(place):
    with contextlib.suppress(ConversionError):
        native.read_config(place, None)
    configs.resolve(config_files.from_workdir(place, training=False), training=False)


FLAGS = (
    "--config.model.hidden_size=96",
    "--config.languages=en,de,fr",
    "--config.languages=('en','de')",
    "--config.stages.one.weights={'mmlm': 1.0}",
    "--config.data.monolingual.more.path=x.txt",
    "--config.train.log_every",
    "5",
    "--config.evals.own.kind=retrieval",
    "--config.objectives.mmlm.task=mmlm",
    "--config.model.labels=['a','b']",
    "--config.optimizer.b2=0.9",
)


def _flags(place):
    text = (place / "flags").read_bytes().decode("utf-8", "surrogateescape")
    rest, settings = config_files.split(text.split("\n"))
    tree = json.loads(run_text())
    configs.resolve(tree, problems=[*config_files.override(tree, settings), *(f"what is {one!r:.80}?" for one in rest)])


def _released(place):
    opened = open_weights(place)
    config = sidecar_files.config(place, opened.facts)
    form, tensors = formats.recognise(opened.tensors, config, str(place), "")
    model = architectures.model_config(form, config, tensors, str(place), 0)
    architectures.language_names(config, model)


def _checkpoint(place):
    with contextlib.suppress(CheckpointError):
        saved_steps.selected_good(place)
    step = saved_steps.newest_good(epath.Path(place), set_aside=True)
    good = made.checkpoint()[0]
    found = {name: content for name, content in made.folder(place / str(step)).items() if not name.endswith(".json")}
    if any(good[f"{step}/{name}"] != content for name, content in found.items()):
        raise AssertionError(f"step {step} is taken for good and is not what was written")


def _metrics(place):
    metrics.evaluations(place / "metrics.jsonl")
    summary.of_stage(metrics.repair(place / "metrics.jsonl"))
    stage = summary.stored(place / "stage.json", summary.is_of_stage)
    summary.stored(place / "summary.json", summary.is_of_run)
    if stage is not None:
        summary.totals([stage])


def _runs():
    tree = config_files.from_file("configs/finetune/xnli.py:size=tiny")
    found = {"xnli": {f"test/{language}/accuracy": 50.0 for language in tree["languages"]}}
    tree = configs.to_dict(configs.resolve(tree, training=False))
    last = {"selected": {"step": 3, "value": 0.5}, "evals": found}
    definition = {"config": "x.py", "settings": [], "grid": {"train.seed": ["1"]}, "seeds": [1], "tree": tree}
    run = {"status": "done", "combination": "a", "seed": 1, "pid": None, "exit": 0, "seconds": 1.0, **last}
    return [
        {
            "run/config.json": json.dumps({"config": tree}).encode(),
            "run/summary.json": json.dumps({"stages": {"finetune": last}}).encode(),
            "sweep/sweep.json": json.dumps({"definition": definition, "runs": {"a": run}, "best": None}).encode(),
        }
    ]


def _tables(place):
    with contextlib.suppress(ConfigError):
        Ledger(place / "sweep", None)
    tables.read(str(place / "run"))


ANY, JSON, LINES = (repacking.with_one(change) for change in (damaged, hostile_json, hostile_json_lines))
SAFETENSORS = repacking.with_one(repacking.safetensors)
RECORDS = repacking.of_kind(hostile_json_lines, ".jsonl")
LEGACY = ("torch_legacy.pt", "fairseq_legacy.pt", "parameters_legacy.pt", "veco.pt")
ZIPS = ("torch_zip.pt", "fairseq_zip.pt", "parameters_zip.pt", "attributed_zip.pt")
PADDLE = ("paddle_2.pdparams", "paddle_4.pdparams", "pairs.pdparams", "parts.pdparams")


def _packed(rng, case):
    name = rng.choice(sorted(case))
    change = hostile_json_lines if "jsonl" in name else damaged
    return {**case, name: repacking.gzipped(change)(rng, case[name])}


def _numbers(rng, case):
    name = rng.choice(sorted(case))
    return {**case, name: (hostile_json_lines if name.endswith("l") else hostile_json)(rng, case[name])}


def _named(*names):
    """Cases of recorded files, each under a name without meaning."""
    return lambda: [{"x": content} for case in made.golden(*names) for content in case.values()]


READERS = {
    "safetensors": Reader(
        lambda: [{"x": made.golden("bert_safetensors")[0]["model.safetensors"]}],
        SAFETENSORS,
        _weights_in_file,
        (ConversionError,),
    ),
    "safetensors index": Reader(
        lambda: made.golden("bert_safetensors_sharded"),
        lambda rng, case: {**case, (name := "model.safetensors.index.json"): hostile_json(rng, case[name])},
        weights,
        (ConversionError,),
    ),
    "safetensors digests": Reader(made.checksummed, SAFETENSORS, _checksummed, (ConversionError,)),
    "torch zip": Reader(_named(*ZIPS), repacking.with_one(repacking.zipped), _weights_in_file, (ConversionError,)),
    "torch legacy": Reader(_named(*LEGACY), ANY, _weights_in_file, (ConversionError,)),
    "pdparams": Reader(_named(*PADDLE), repacking.with_one(repacking.pickled), _weights_in_file, (ConversionError,)),
    "paddle variables": Reader(lambda: made.golden("variables"), ANY, _variables, (ConversionError,)),
    "pickle": Reader(_named(*PADDLE), repacking.with_one(repacking.pickled), _pickle, (ConversionError,)),
    "archive": Reader(made.archived, repacking.with_one(repacking.tarred), _archive, (ConversionError,)),
    "released config": Reader(
        lambda: made.golden("bert_safetensors", "bert_bin"),
        lambda rng, case: {**case, "config.json": hostile_json(rng, case["config.json"])},
        _released,
        (ConversionError,),
    ),
    "sentencepiece": Reader(made.sentencepiece, ANY, _tokenizer("huggingface"), (ValueError,)),
    "ernie vocabulary": Reader(
        made.sentencepiece,
        lambda rng, case: {**case, "vocab.txt": damaged(rng, case["vocab.txt"])},
        _tokenizer("ernie"),
        (ValueError,),
    ),
    "wordpiece": Reader(made.wordpiece, repacking.of_kind(hostile_json, ".json"), _tokenizer("bert"), (ValueError,)),
    "xlm": Reader(made.byte_pairs, repacking.of_kind(hostile_json, ".json"), _tokenizer("xlm"), (ValueError,)),
    "records": Reader(made.texts, RECORDS, hostile_data.read_records, (DataError,)),
    "records, packed": Reader(made.packed_texts, _packed, hostile_data.read_records, (DataError,)),
    "array record": Reader(
        made.array_record, repacking.with_one(repacking.array_record_lines), hostile_data.read_records, (DataError,)
    ),
    "sentence pairs": Reader(made.pairs, RECORDS, hostile_data.read_pairs, (DataError,)),
    "tagged words": Reader(made.tagged, ANY, hostile_data.read_tagged, (DataError,)),
    "questions": Reader(made.questions, JSON, hostile_data.read_questions, (DataError,)),
    "rows to answer": Reader(made.given, RECORDS, hostile_data.read_given, (DataError,)),
    "prepared folder": Reader(
        made.prepared_folders, repacking.prepared_files, hostile_data.read_prepared, (DataError,)
    ),
    "config.json": Reader(_configs, JSON, _config, (ConfigError,), lines=True),
    "flags": Reader(lambda: [{"flags": "\n".join(FLAGS).encode()}], ANY, _flags, (ConfigError,), lines=True),
    "checkpoint": Reader(made.checkpoint, repacking.sealed, _checkpoint, (CheckpointError,)),
    "metrics": Reader(made.metrics, _numbers, _metrics, ()),
    "finished run": Reader(_runs, JSON, _tables, (ConfigError,), lines=True),
}
