"""What must fit together in a config, beyond what each field says of itself (`config_fields.py`)."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ernie_m_jax import config_fields
from ernie_m_jax.config_fields import ABOVE_ZERO, Range, raise_problems

# Fine-tuning heads -> their number of outputs; None: `model.num_labels`.
HEADS: Mapping[str, int | None] = {
    "sequence_classification": None,
    "multiple_choice": 1,
    "token_classification": None,
    "question_answering": 2,
    "information_extraction": 2,
}
POOLED_HEADS = ("sequence_classification", "multiple_choice")  # on the pooled vector; the others are on each token


def nearest(key: str, known: Iterable[str]) -> str:
    """` (nearest: name)` for a message about an unknown key."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
    return f" (nearest: {close[0]})" if close else ""


def validate_model(model: Any) -> None:
    """Checks a `ModelConfig` of the right types by itself.

    Raises:
      ConfigError: a line per problem.
    """
    together = [line for check in _MODEL_CHECKS for line in check(model)]
    raise_problems([*together, *config_fields.problems(model, "config.model")])


def validate_stage(stage: Any, path: str) -> None:
    """Checks a `StageConfig` of the right types by itself; `path` is what messages name.

    Raises:
      ConfigError: a line per problem.
    """
    raise_problems([*config_fields.problems(stage, path), *_warmup(stage, path)])


def config_problems(config: Any, training: bool, complete: bool) -> list[str]:
    """What is wrong with a `Config`: what does not fit together, and values outside their limits.

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
    return [*problems, *config_fields.problems(config, "config")]


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
    # No limit of the field: a model that is not trained may state any.
    yield from Range(ABOVE_ZERO).problems(config.model.initializer_range, "config.model.initializer_range")


def _warmup(stage: Any, path: str) -> Iterator[str]:
    yield from Range(0, max(stage.steps, 1)).problems(stage.warmup_steps, f"{path}.warmup_steps")


def _warmups(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        yield from _warmup(stage, f"config.stages.{name}")


def _weights(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        path = f"config.stages.{name}.weights"
        for objective in stage.weights:
            if objective not in config.objectives:
                yield f"{path}.{objective} is unknown{nearest(objective, config.objectives)}"
        if None not in stage.weights.values() and not any(weight > 0 for weight in stage.weights.values()):
            yield f"{path}: at least one objective needs a weight above 0"


_MODEL_CHECKS = (_heads_divide_width, _positions_left, _head_has_pooler, _labels)
_CHECKS = (_lengths, _languages, _attention, _local_paths, _tokenizer, _rows, _warmups, _weights)
_TRAINING_CHECKS = (_some_stage, _initial_weights)
