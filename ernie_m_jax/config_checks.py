"""What a config's values may be, beyond their types: ranges, choices, and what must fit together."""

import difflib
import functools
import math
from collections.abc import Mapping
from typing import Any

# Key -> least and greatest value. A dropout rate of 1 would leave nothing.
RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "model.vocab_size": (8, math.inf),
    "model.hidden_size": (1, math.inf),
    "model.num_layers": (1, math.inf),
    "model.num_heads": (1, math.inf),
    "model.ffn_size": (1, math.inf),
    "model.first_position": (0, math.inf),
    "model.num_token_types": (0, math.inf),
    "model.num_labels": (1, math.inf),
    "model.hidden_dropout": (0, 0.99),
    "model.attention_dropout": (0, 0.99),
    "data.sequence_length": (16, math.inf),
    "data.alpha": (0, 10),
    "data.virtual_streams": (1, math.inf),
    "data.packing_bins": (1, math.inf),
    "data.prefetch": (1, math.inf),
    "optimizer.b1": (0, 0.999999),
    "optimizer.b2": (0, 0.999999),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.layer_decay": (0, 1),
    "optimizer.clip_norm": (0, math.inf),
    "train.batch_rows": (1, math.inf),
    "train.microbatches": (1, math.inf),
    "train.log_every": (1, math.inf),
    "train.evaluate_every": (0, math.inf),
    "train.save_every": (0, math.inf),
    "train.keep": (0, math.inf),
    "train.max_skipped": (1, math.inf),
    "retrieval.batch_rows": (1, math.inf),
    "retrieval.length": (8, math.inf),
}
# The same for the keys that objectives have, whichever has them.
OBJECTIVE_RANGES: Mapping[str, tuple[float, float]] = {
    "mask_ratio": (0.01, 1),
    "length_ratio": (0.1, 4),
    "temperature": (0, math.inf),
    "passes": (1, 100),
    "join_characters": (0, math.inf),
}
# Fine-tuning heads -> their number of outputs; None: `model.num_labels`.
HEADS: Mapping[str, int | None] = {
    "sequence_classification": None,
    "multiple_choice": 1,
    "token_classification": None,
    "question_answering": 2,
    "information_extraction": 2,
}
PAIR_POSITIONS = ("continued", "restarted")
POOLED_HEADS = ("sequence_classification", "multiple_choice")  # on the pooled vector; the others are on each token


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key and what is allowed."""


def nearest(key: str, known: Any) -> str:
    """` (nearest: name)` for a message about an unknown key."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
    return f" (nearest: {close[0]})" if close else ""


def _choice(path: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{path} is {value!r}; allowed: {', '.join(allowed)}")


def _between(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ConfigError(f"{path} is {value}; it must be {limit}")


def validate_model(model: Any) -> None:
    """Checks a `ModelConfig` of the right types by itself.

    Raises:
      ConfigError: the first key that is wrong.
    """
    for path, (low, high) in RANGES.items():
        if path.startswith("model."):
            _between(f"config.{path}", getattr(model, path.removeprefix("model.")), low, high)
    if model.hidden_size % model.num_heads:
        raise ConfigError(
            f"config.model.hidden_size {model.hidden_size} is not a multiple of num_heads {model.num_heads}"
        )
    if model.max_positions <= model.first_position:
        raise ConfigError(
            f"config.model.max_positions {model.max_positions} has no room behind first_position {model.first_position}"
        )
    _choice("config.model.language_embedding", model.language_embedding, ("slots", "all", "none"))
    _choice("config.model.mlm_head", model.mlm_head, ("dense", "plain", "none"))
    _choice("config.model.head", model.head, ("none", *HEADS))
    if model.labels and len(model.labels) != model.num_labels:
        raise ConfigError(
            f"config.model.labels names {len(model.labels)} labels, config.model.num_labels is {model.num_labels}"
        )
    if model.head in POOLED_HEADS and not model.pooler:
        raise ConfigError(f"config.model.head {model.head!r} stands on the pooled vector: set config.model.pooler=True")


def _validate_ranges(config: Any) -> None:
    for path, (low, high) in RANGES.items():
        if not path.startswith("model."):
            _between(f"config.{path}", functools.reduce(getattr, path.split("."), config), low, high)
    for name, keys in config.objectives.items():
        for key, (low, high) in OBJECTIVE_RANGES.items():
            if hasattr(keys, key):
                _between(f"config.objectives.{name}.{key}", getattr(keys, key), low, high)


def validate(config: Any) -> None:
    """Checks a `Config` of the right types: ranges, choices, and what must fit together.

    Raises:
      ConfigError: the first key that is wrong.
    """
    model, data, train = config.model, config.data, config.train
    validate_model(model)
    _validate_ranges(config)
    limit = model.max_positions - model.first_position
    for path, length in (("data.sequence_length", data.sequence_length), ("retrieval.length", config.retrieval.length)):
        if length > limit:
            raise ConfigError(
                f"config.{path} is {length}, but the model has positions for {limit} tokens "
                f"(config.model.max_positions {model.max_positions} less first_position {model.first_position})"
            )
    if model.language_embedding != "none" and model.num_languages < len(config.languages):
        raise ConfigError(
            f"config.model.num_languages is {model.num_languages}, but config.languages names {len(config.languages)}"
        )
    _choice("config.data.pair_positions", data.pair_positions, PAIR_POSITIONS)
    _choice("config.compute.dtype", config.compute.dtype, ("float32", "bfloat16"))
    _choice("config.compute.remat", config.compute.remat, ("none", "dots", "full"))
    _choice("config.compute.attention", config.compute.attention, ("xla", "cudnn"))
    if config.compute.attention == "cudnn" and config.compute.dtype != "bfloat16":
        raise ConfigError("config.compute.attention 'cudnn' needs config.compute.dtype 'bfloat16'")
    for key in ("resume", "params"):
        if "://" in getattr(config.init, key):
            raise ConfigError(f"config.init.{key} must be a local directory, got {getattr(config.init, key)!r}")
    _choice("config.tokenizer.style", config.tokenizer.style, ("ernie", "huggingface", "xlm-roberta", "bert", "xlm"))
    if config.tokenizer.style in ("bert", "xlm") and not config.tokenizer.path:
        raise ConfigError(
            f"config.tokenizer.style is {config.tokenizer.style!r}, which no run trains: set config.tokenizer.path"
        )
    _choice("config.retrieval.pooling", config.retrieval.pooling, ("mean", "cls", "max"))
    if not config.languages or len(set(config.languages)) < len(config.languages):
        raise ConfigError(f"config.languages must name at least one language, each once; got {config.languages}")
    for key, parts in (("data.virtual_streams", data.virtual_streams), ("train.microbatches", train.microbatches)):
        if train.batch_rows % parts:
            raise ConfigError(f"config.train.batch_rows {train.batch_rows} is not a multiple of config.{key} {parts}")
    if not config.stages:
        raise ConfigError("config.stages is empty: name at least one stage")
    if model.mlm_head == "none":
        raise ConfigError("config.model.mlm_head is 'none', but the objectives of config.stages predict words with it")
    for name, stage in config.stages.items():
        _validate_stage(f"config.stages.{name}", stage, config.objectives)


def _validate_stage(path: str, stage: Any, objectives: Mapping[str, Any]) -> None:
    _between(f"{path}.steps", stage.steps, 1, math.inf)
    _between(f"{path}.warmup_steps", stage.warmup_steps, 0, stage.steps)
    _between(f"{path}.learning_rate", stage.learning_rate, 0, math.inf)
    _between(f"{path}.final_fraction", stage.final_fraction, 0, 1)
    _choice(f"{path}.schedule", stage.schedule, ("linear", "linear_from_zero", "cosine", "constant"))
    for name, weight in stage.weights.items():
        if name not in objectives:
            raise ConfigError(f"{path}.weights.{name} is unknown{nearest(name, objectives)}")
        _between(f"{path}.weights.{name}", weight, 0, math.inf)
    if not sum(stage.weights.values()) > 0:
        raise ConfigError(f"{path}.weights: at least one objective needs a weight above 0")
