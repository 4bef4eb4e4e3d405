"""Configuration: ml_collections files in, frozen dataclasses out.

A config file (`configs/*.py`) starts from `configs.base`, where every key stands once with its meaning. Here the
resolved `ConfigDict` becomes a tree of frozen dataclasses. Every unknown, missing or mistyped key, and every value that
does not fit, is a line of one `ConfigError`. Everything else in the package reads the dataclasses only. Each field
carries its limits (`config_fields.py`). The objectives' own keys are dataclasses in their modules
(`ernie_m_jax/objectives/`).
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from ernie_m_jax.config_build import build as build
from ernie_m_jax.config_build import collect
from ernie_m_jax.config_checks import HEADS, config_problems
from ernie_m_jax.config_evals import EvalKeys, RetrievalEval
from ernie_m_jax.config_evals import SourceConfig as SourceConfig
from ernie_m_jax.config_fields import ABOVE_ZERO, between, one_of, raise_problems
from ernie_m_jax.config_fields import ConfigError as ConfigError
from ernie_m_jax.task import TaskKeys

# Keys that change how fast a run goes or what it keeps, not its numbers; a run may go on with others.
FREE_KEYS = (
    "config.mesh",
    "config.compute.attention",
    "config.compute.remat",
    "config.compute.vocab_chunk",
    "config.compute.layer_norm",
    "config.data.prefetch",
    "config.data.workers",
    "config.encode",
    "config.train.max_to_keep",
    "config.train.keep_every",
    "config.train.log_every",
    "config.train.host_times_every",
    "config.train.profile_from",
    "config.train.profile_steps",
    "config.train.max_skipped",
    "config.train.save_every",
    "config.train.watchdog_seconds",
    "config.train.watchdog_other_seconds",
)

_MOST_DROPPED = 0.99  # a dropout rate of 1 would leave nothing
_EMPTY: tuple[Any, ...] = ("", [], {}, None)  # values that state nothing
_HIGHEST_RATE = 1e30  # times Adam's step, which is below 1000, it stays finite in float32


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of the encoder; the meaning of each key stands in `configs/base.py`."""

    vocab_size: int = field(metadata=between(8))
    hidden_size: int = field(metadata=between(1))
    num_layers: int = field(metadata=between(1))
    num_heads: int = field(metadata=between(1))
    ffn_size: int = field(metadata=between(1))
    max_positions: int
    first_position: int = field(metadata=between(0))
    pad_id: int
    layer_norm_eps: float = field(metadata=between(ABOVE_ZERO))
    initializer_range: float
    hidden_dropout: float = field(metadata=between(0, _MOST_DROPPED))
    attention_dropout: float = field(metadata=between(0, _MOST_DROPPED))
    num_languages: int
    language_embedding: str = field(metadata=one_of("slots", "all", "none"))
    num_token_types: int = field(metadata=between(0))
    pooler: bool
    mlm_head: str = field(metadata=one_of("dense", "plain", "none"))
    head: str = field(metadata=one_of("none", *HEADS))
    num_labels: int = field(metadata=between(1))
    labels: tuple[str, ...] = ()
    key_init: str = field(default="own", metadata=one_of("own", "query"))
    position_init: str = field(default="normal", metadata=one_of("normal", "sinusoidal"))


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How the same architecture is computed: precision, scan, rematerialisation, attention kernel, loss chunk."""

    dtype: str = field(metadata=one_of("float32", "bfloat16"))
    scan_layers: bool
    remat: str = field(metadata=one_of("none", "dots_attention", "dots", "attention", "full"))
    attention: str = field(metadata=one_of("auto", "xla", "cudnn", "flash"))
    vocab_chunk: int
    keep_logits: bool = False
    layer_norm: str = field(default="auto", metadata=one_of("auto", "xla", "fused"))
    float8: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Where the tokenizer comes from."""

    path: str
    style: str = field(metadata=one_of("ernie", "huggingface", "xlm-roberta", "bert", "xlm"))
    character_coverage: float


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Sources, mixture and packing."""

    sequence_length: int = field(metadata=between(16))
    pair_positions: str = field(metadata=one_of("continued", "restarted"))
    monolingual: Mapping[str, SourceConfig]
    parallel: Mapping[str, SourceConfig]
    sampling_exponent: float = field(metadata=between(0, 10))
    virtual_streams: int = field(metadata=between(1))
    packing_bins: int = field(metadata=between(1))
    prefetch: int = field(metadata=between(1))
    workers: int = field(default=0, metadata=between(0))


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of training: its length, its objectives' weights and its learning rate."""

    steps: int = field(metadata=between(0))
    weights: Mapping[str, float] = field(metadata=between(0))
    learning_rate: float = field(metadata=between(0, _HIGHEST_RATE))
    warmup_steps: int
    schedule: str = field(metadata=one_of("linear", "linear_from_zero", "cosine", "constant"))
    final_fraction: float = field(metadata=between(0, 1))
    epochs: float = field(default=0.0, metadata=between(0))
    warmup_fraction: float = field(default=0.0, metadata=between(0, 1))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW."""

    b1: float = field(metadata=between(0, 0.999999))
    b2: float = field(metadata=between(0, 0.999999))
    eps: float = field(metadata=between(ABOVE_ZERO))
    weight_decay: float = field(metadata=between(0))
    layer_decay: float = field(metadata=between(ABOVE_ZERO, 1))
    clip_norm: float = field(metadata=between(0))
    moments_dtype: str = field(default="float32", metadata=one_of("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop: batch size, logging, evaluation and checkpoints."""

    batch_size: int = field(metadata=between(1))
    grad_accumulation_steps: int = field(metadata=between(1))
    log_every: int = field(metadata=between(1))
    save_every: int = field(metadata=between(0))
    max_to_keep: int = field(metadata=between(0))
    keep_every: int = field(default=0, metadata=between(0))
    max_skipped: int = field(default=10, metadata=between(1))
    spike_sigmas: float = field(default=0.0, metadata=between(0))
    profile_from: int = field(default=20, metadata=between(0))
    profile_steps: int = field(default=0, metadata=between(0))
    host_times_every: int = field(default=1000, metadata=between(0))
    watchdog_seconds: float = field(default=600.0, metadata=between(0))
    watchdog_other_seconds: float = field(default=0.0, metadata=between(0))
    select: str = ""
    patience: int = field(default=0, metadata=between(0))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """How a sentence becomes a vector."""

    layer: int
    pooling: str = field(metadata=one_of("mean", "cls", "max"))
    batch_size: int = field(metadata=between(1))
    max_length: int = field(metadata=between(2))


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where training starts."""

    resume: str
    params: str
    fresh: tuple[str, ...]
    drop: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole tree; `configs/base.py` holds each key's meaning. `stages` are in the order they run."""

    seed: int = field(metadata=between(0, 2**31 - 1))
    languages: tuple[str, ...]
    model: ModelConfig
    compute: ComputeConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    objectives: Mapping[str, TaskKeys]
    stages: Mapping[str, StageConfig]
    optimizer: OptimizerConfig
    train: TrainConfig
    mesh: MeshConfig
    encode: EncodeConfig
    init: InitConfig
    evals: Mapping[str, EvalKeys] = field(default_factory=dict)


def resolve(tree: Mapping[str, Any], *, training: bool = True, problems: Sequence[str] = ()) -> Config:
    """The frozen config behind a `ConfigDict` (or the dictionary out of a `config.json`).

    A source of `data` and a retrieval evaluation whose path is empty are left out.

    Args:
      tree: the keys.
      training: whether the stages will be trained; a model that is evaluated, not trained, needs none.
      problems: what is known to be wrong with the tree already; raised together with the rest.

    Raises:
      ConfigError: keys are unknown, missing or of the wrong type, or values do not fit together; a line per problem.
    """
    tree = tree.to_dict() if hasattr(tree, "to_dict") else dict(tree)
    found = list(problems)
    config: Config = collect(Config, tree, "config", found)
    if config.data is not None:
        kinds = {kind: _with_paths(getattr(config.data, kind)) for kind in ("monolingual", "parallel")}
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **kinds))
    if config.stages is not None:
        ordered = {name: config.stages[name] for name in in_order(config.stages)}
        config = dataclasses.replace(config, stages={name: warmed_up(stage) for name, stage in ordered.items()})
    if config.evals is not None:
        config = dataclasses.replace(config, evals=_with_sources(config.evals))
    if config.model is not None and config.languages is not None and (config.model.num_languages or 0) < 0:
        model = dataclasses.replace(config.model, num_languages=len(config.languages))
        config = dataclasses.replace(config, model=model)
    found += config_problems(config, training, complete=not found)
    raise_problems(list(dict.fromkeys(found)))
    return config


def _with_paths(sources: Mapping[str, SourceConfig] | None) -> Any:
    """The sources without those of an empty path; what could not be built stays for the checks."""
    return sources and {name: source for name, source in sources.items() if source is None or source.path != ""}


def _with_sources(evals: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluations without those of retrieval that have no set to search."""

    def is_empty(keys: Any) -> bool:
        return isinstance(keys, RetrievalEval) and keys.source is not None and keys.source.path == ""

    return {name: keys for name, keys in evals.items() if not is_empty(keys)}


def warmed_up(stage: Any) -> Any:
    """A stage whose `warmup_steps` are its `warmup_fraction` of its steps, where it has both."""
    if stage is None or not stage.warmup_fraction or not stage.steps:
        return stage
    return dataclasses.replace(stage, warmup_steps=int(stage.warmup_fraction * stage.steps))


def in_order(stages: Iterable[str]) -> list[str]:
    """Names of stages in the order they run: as strings, but their numbers as numbers, so stage2 before stage10.

    Not the order they are written in: a `ConfigDict` does not tell it.
    """
    return sorted(stages, key=lambda name: ([int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", name)], name))


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain, JSON-able dictionaries; `resolve(to_dict(config)) == config`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "config") -> list[str]:
    """One line for each key in which two resolved configs differ.

    A key that one of them lacks and that is empty in the other is no difference: one is older than the key.
    """
    lines = []
    for key in sorted({*first, *second}):
        one, other = first.get(key), second.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{prefix}.{key}")
        elif one != other and not (key not in first and other in _EMPTY) and not (key not in second and one in _EMPTY):
            lines.append(f"{prefix}.{key}: {one!r} there, {other!r} here")
    return lines
