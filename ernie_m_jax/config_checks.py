"""What a config's values may be, beyond their types: ranges, choices, and what must fit together."""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# The least normal number of float32: the device takes what is below for 0.
ABOVE_ZERO = 2.0**-126
# Key -> least and greatest value. A dropout rate of 1 would leave nothing.
MODEL_RANGES: Mapping[str, tuple[float, float]] = {
    "vocab_size": (8, math.inf),
    "hidden_size": (1, math.inf),
    "num_layers": (1, math.inf),
    "num_heads": (1, math.inf),
    "ffn_size": (1, math.inf),
    "first_position": (0, math.inf),
    "num_token_types": (0, math.inf),
    "num_labels": (1, math.inf),
    "layer_norm_eps": (ABOVE_ZERO, math.inf),
    "hidden_dropout": (0, 0.99),
    "attention_dropout": (0, 0.99),
}
RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.sequence_length": (16, math.inf),
    "data.sampling_exponent": (0, 10),
    "data.virtual_streams": (1, math.inf),
    "data.packing_bins": (1, math.inf),
    "data.prefetch": (1, math.inf),
    "optimizer.b1": (0, 0.999999),
    "optimizer.b2": (0, 0.999999),
    "optimizer.eps": (ABOVE_ZERO, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.layer_decay": (ABOVE_ZERO, 1),
    "optimizer.clip_norm": (0, math.inf),
    "train.batch_size": (1, math.inf),
    "train.grad_accumulation_steps": (1, math.inf),
    "train.log_every": (1, math.inf),
    "train.evaluate_every": (0, math.inf),
    "train.save_every": (0, math.inf),
    "train.max_to_keep": (0, math.inf),
    "train.max_skipped": (1, math.inf),
    "retrieval.batch_size": (1, math.inf),
    "retrieval.max_length": (8, math.inf),
}
# The same for the keys that objectives have, whichever has them.
OBJECTIVE_RANGES: Mapping[str, tuple[float, float]] = {
    "mask_ratio": (0.01, 1),
    "length_ratio": (0.1, 4),
    "temperature": (0, math.inf),
    "passes": (1, 100),
    "join_to_characters": (0, math.inf),
}
# The same for the keys of a stage.
STAGE_RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (1, math.inf),
    "learning_rate": (0, 1e30),  # times Adam's step, which is below 1000, it stays finite in float32
    "final_fraction": (0, 1),
}
PAIR_POSITIONS = ("continued", "restarted")
SCHEDULES = ("linear", "linear_from_zero", "cosine", "constant")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "data.pair_positions": PAIR_POSITIONS,
    "compute.dtype": ("float32", "bfloat16"),
    "compute.remat": ("none", "dots", "full"),
    "compute.attention": ("xla", "cudnn"),
    "tokenizer.style": ("ernie", "huggingface", "xlm-roberta", "bert", "xlm"),
    "retrieval.pooling": ("mean", "cls", "max"),
}
# Fine-tuning heads -> their number of outputs; None: `model.num_labels`.
HEADS: Mapping[str, int | None] = {
    "sequence_classification": None,
    "multiple_choice": 1,
    "token_classification": None,
    "question_answering": 2,
    "information_extraction": 2,
}
POOLED_HEADS = ("sequence_classification", "multiple_choice")  # on the pooled vector; the others are on each token


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key and what is allowed."""


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one `ConfigError` that says everything; nothing if there is no problem."""
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} things are wrong with the config:\n  " + "\n  ".join(problems))


def nearest(key: str, known: Iterable[str]) -> str:
    """` (nearest: name)` for a message about an unknown key."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
    return f" (nearest: {close[0]})" if close else ""


def validate_model(model: Any) -> None:
    """Checks a `ModelConfig` of the right types by itself.

    Raises:
      ConfigError: a line per problem.
    """
    raise_problems([line for check in _MODEL_CHECKS for line in check(model)])


def config_problems(config: Any, training: bool, complete: bool) -> list[str]:
    """What is wrong with a `Config`: ranges, choices, and what must fit together.

    Args:
      config: None stands where a key is missing or of the wrong type.
      training: whether its stages will be trained.
      complete: whether there is no such None. If there is, the checks that would need its value are passed over.
    """
    checks: list[tuple[Callable[..., Iterator[str]], Any]] = [(check, config.model) for check in _MODEL_CHECKS]
    checks += [(check, config) for check in _CHECKS]
    checks += [(check, config) for check in _TRAINING_CHECKS if training]
    problems: list[str] = []
    for check, part in checks:
        try:
            for line in check(part):
                problems.append(line)
        except (TypeError, AttributeError):  # None where a key is missing or mistyped, which is said already
            if complete:
                raise
    return problems


def _choice(path: str, value: str | None, allowed: tuple[str, ...]) -> Iterator[str]:
    if value is not None and value not in allowed:
        yield f"{path} is {value!r}; allowed: {', '.join(allowed)}"


def _between(path: str, value: float | None, low: float, high: float) -> Iterator[str]:
    if value is not None and not low <= value <= high:
        if low == ABOVE_ZERO:
            limit = "above 0" if high == math.inf else f"above 0 and at most {high}"
        else:
            limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        yield f"{path} is {value}; it must be {limit}"


def _ranges(config: Any, root: str, ranges: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for path, (low, high) in ranges.items():
        value = functools.reduce(lambda part, key: getattr(part, key, None), path.split("."), config)
        yield from _between(f"{root}.{path}", value, low, high)


def _model_ranges(model: Any) -> Iterator[str]:
    yield from _ranges(model, "config.model", MODEL_RANGES)
    yield from _choice("config.model.language_embedding", model.language_embedding, ("slots", "all", "none"))
    yield from _choice("config.model.mlm_head", model.mlm_head, ("dense", "plain", "none"))
    yield from _choice("config.model.head", model.head, ("none", *HEADS))


def _heads_divide_width(model: Any) -> Iterator[str]:
    if model.num_heads > 0 and model.hidden_size % model.num_heads:
        yield f"config.model.hidden_size {model.hidden_size} is not a multiple of num_heads {model.num_heads}"


def _positions_left(model: Any) -> Iterator[str]:
    rows, first = model.max_positions, model.first_position
    if rows <= first:
        yield f"config.model.max_positions {rows} has no room behind first_position {first}"


def _head_has_pooler(model: Any) -> Iterator[str]:
    if model.head in POOLED_HEADS and model.pooler is False:
        yield f"config.model.head {model.head!r} stands on the pooled vector: set config.model.pooler=True"


def _labels(model: Any) -> Iterator[str]:
    if model.labels and len(model.labels) != model.num_labels:
        yield f"config.model.labels names {len(model.labels)} labels, config.model.num_labels is {model.num_labels}"


def _config_ranges(config: Any) -> Iterator[str]:
    yield from _ranges(config, "config", RANGES)
    for name, keys in (config.objectives or {}).items():
        yield from _ranges(keys, f"config.objectives.{name}", OBJECTIVE_RANGES)


def _choices(config: Any) -> Iterator[str]:
    for path, allowed in CHOICES.items():
        group, key = path.split(".")
        yield from _choice(f"config.{path}", getattr(getattr(config, group), key, None), allowed)


def _lengths(config: Any) -> Iterator[str]:
    model = config.model
    limit = model.max_positions - model.first_position
    for path, length in (
        ("data.sequence_length", config.data.sequence_length),
        ("retrieval.max_length", config.retrieval.max_length),
    ):
        if length > limit > 0:
            yield (
                f"config.{path} is {length}, but the model has positions for {limit} tokens "
                f"(config.model.max_positions {model.max_positions} less first_position {model.first_position})"
            )


def _languages(config: Any) -> Iterator[str]:
    languages, model = config.languages, config.model
    if not languages or len(set(languages)) < len(languages):
        yield f"config.languages must name at least one language, each once; got {languages}"
    if model.language_embedding in ("slots", "all") and model.num_languages < len(languages):
        yield f"config.model.num_languages is {model.num_languages}, but config.languages names {len(languages)}"


def _attention(config: Any) -> Iterator[str]:
    if config.compute.attention != "cudnn":
        return
    if config.compute.dtype != "bfloat16":
        yield "config.compute.attention 'cudnn' needs config.compute.dtype 'bfloat16'"
    if config.model.attention_dropout > 0:
        yield (
            f"config.compute.attention 'cudnn' has no attention dropout, but config.model.attention_dropout is "
            f"{config.model.attention_dropout}: set that to 0, or config.compute.attention to 'xla'"
        )


def _local_paths(config: Any) -> Iterator[str]:
    for key in ("resume", "params"):
        if "://" in getattr(config.init, key):
            yield f"config.init.{key} must be a local directory, got {getattr(config.init, key)!r}"


def _tokenizer(config: Any) -> Iterator[str]:
    if config.tokenizer.style in ("bert", "xlm") and config.tokenizer.path == "":
        yield f"config.tokenizer.style is {config.tokenizer.style!r}, which no run trains: set config.tokenizer.path"


def _rows(config: Any) -> Iterator[str]:
    rows = config.train.batch_size
    for key in ("data.virtual_streams", "train.grad_accumulation_steps"):
        group, name = key.split(".")
        parts = getattr(getattr(config, group), name, None)
        if parts is not None and parts > 0 and rows % parts:
            yield f"config.train.batch_size {rows} is not a multiple of config.{key} {parts}"


def _some_stage(config: Any) -> Iterator[str]:
    if not config.stages:
        yield "config.stages is empty: name at least one stage"
    if config.model.mlm_head == "none":
        yield "config.model.mlm_head is 'none', but the objectives of config.stages predict words with it"


def _initial_weights(config: Any) -> Iterator[str]:
    yield from _between("config.model.initializer_range", config.model.initializer_range, ABOVE_ZERO, math.inf)


def _stages(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        path = f"config.stages.{name}"
        yield from _ranges(stage, path, STAGE_RANGES)
        yield from _choice(f"{path}.schedule", getattr(stage, "schedule", None), SCHEDULES)


def _warmups(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        yield from _between(f"config.stages.{name}.warmup_steps", stage.warmup_steps, 0, max(stage.steps, 1))


def _weights(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        path = f"config.stages.{name}.weights"
        for objective, weight in stage.weights.items():
            if objective not in config.objectives:
                yield f"{path}.{objective} is unknown{nearest(objective, config.objectives)}"
            yield from _between(f"{path}.{objective}", weight, 0, math.inf)
        if None not in stage.weights.values() and not any(weight > 0 for weight in stage.weights.values()):
            yield f"{path}: at least one objective needs a weight above 0"


_MODEL_CHECKS = (_model_ranges, _heads_divide_width, _positions_left, _head_has_pooler, _labels)
_CHECKS = (
    _config_ranges,
    _lengths,
    _languages,
    _choices,
    _attention,
    _local_paths,
    _tokenizer,
    _rows,
    _stages,
    _warmups,
    _weights,
)
_TRAINING_CHECKS = (_some_stage, _initial_weights)
