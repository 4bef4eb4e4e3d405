"""What must fit together in a config, beyond what each field says of itself (`config_fields.py`)."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ernie_m_jax import config_fields
from ernie_m_jax import task as tasks
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
# A moment that decays by less than 2^-9 per step is rounded back to what it was; by the recipe's 0.98, ten times that.
SLOWEST_BFLOAT16 = 0.98


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
        except (TypeError, AttributeError):  # None where a key is missing or mistyped, which is reported already
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
        yield f"config.model.head {model.head!r} takes the pooled vector: set config.model.pooler=True"


def _labels(model: Any) -> Iterator[str]:
    if model.labels and len(model.labels) != model.num_labels:
        yield f"config.model.labels names {len(model.labels)} labels, config.model.num_labels is {model.num_labels}"


def _lengths(config: Any) -> Iterator[str]:
    model = config.model
    limit = model.max_positions - model.first_position
    lengths = {
        "data.sequence_length": config.data.sequence_length,
        "encode.max_length": config.encode.max_length,
        **{f"evals.{name}.max_length": getattr(keys, "max_length", None) for name, keys in config.evals.items()},
    }
    for path, length in lengths.items():
        if length is not None and length > limit > 0:
            yield (
                f"config.{path} is {length}, but the model has positions for {limit} tokens "
                f"(config.model.max_positions {model.max_positions} less first_position {model.first_position})"
            )


def _names(config: Any) -> Iterator[str]:
    # They become names of files and directories.
    for section in ("evals", "objectives", "stages"):
        for name in getattr(config, section):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                yield f"config.{section} has the name {name!r}; use letters, digits, '_' and '-' of ASCII"


def _layers(config: Any) -> Iterator[str]:
    layers = {"encode": config.encode.layer} | {
        f"evals.{name}": keys.layer for name, keys in config.evals.items() if hasattr(keys, "layer")
    }
    for path, layer in layers.items():
        yield from Range(-1, config.model.num_layers).problems(layer, f"config.{path}.layer")


def _languages(config: Any) -> Iterator[str]:
    languages, model = config.languages, config.model
    if not languages or len(set(languages)) < len(languages):
        yield f"config.languages must name at least one language, each once; got {languages}"
    if model.language_embedding in ("slots", "all") and model.num_languages < len(languages):
        yield f"config.model.num_languages is {model.num_languages}, but config.languages names {len(languages)}"


def _attention(config: Any) -> Iterator[str]:
    width = config.model.hidden_size // max(1, config.model.num_heads)
    if config.compute.attention == "flash" and width > 128:
        yield f"config.compute.attention 'flash' takes heads of up to 128, but they are {width} wide: set it to 'auto'"
    if config.compute.attention != "cudnn":
        return
    if config.compute.dtype != "bfloat16":
        yield "config.compute.attention 'cudnn' needs config.compute.dtype 'bfloat16'"
    if config.model.attention_dropout > 0:
        yield (
            f"config.compute.attention 'cudnn' has no attention dropout, but config.model.attention_dropout is "
            f"{config.model.attention_dropout}: set that to 0, or config.compute.attention to 'xla'"
        )


def _moments(config: Any) -> Iterator[str]:
    optimizer = config.optimizer
    if optimizer.moments_dtype == "bfloat16" and max(optimizer.b1, optimizer.b2) > SLOWEST_BFLOAT16:
        yield (
            f"config.optimizer.moments_dtype is 'bfloat16', whose 8 bits stand still with b1 {optimizer.b1} and b2 "
            f"{optimizer.b2}: both must be at most {SLOWEST_BFLOAT16}, or moments_dtype 'float32'"
        )


def _tokenizer(config: Any) -> Iterator[str]:
    if config.tokenizer.style in ("bert", "xlm") and config.tokenizer.path == "":
        yield f"config.tokenizer.style is {config.tokenizer.style!r}, which no run trains: set config.tokenizer.path"


def _retention(config: Any) -> Iterator[str]:
    every, saved = config.train.keep_every, config.train.save_every
    if every and (not saved or every % saved):
        yield (
            f"config.train.keep_every is {every}, but a checkpoint is saved every config.train.save_every {saved} "
            "steps: make it a multiple, or 0 to keep none for good"
        )


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


def _trained_tasks(config: Any) -> Iterator[str]:
    weights = {name: weight for stage in config.stages.values() for name, weight in stage.weights.items() if weight}
    for name in weights:
        if name in config.objectives:
            yield from _requirements(config, name)


def _requirements(config: Any, objective: str) -> Iterator[str]:
    task = tasks.bind(config, objective)
    for line in task.task.requires(config, task.keys):
        yield line if line.startswith("config.") else f"config.objectives.{objective}.{line}"


def _stage_lengths(config: Any) -> Iterator[str]:
    for name, stage in config.stages.items():
        if stage.steps == 0 and stage.epochs == 0:
            yield f"config.stages.{name} has neither steps nor epochs; one must be above 0"
        if stage.epochs and not stage.steps and sum(weight > 0 for weight in stage.weights.values()) > 1:
            yield f"config.stages.{name}.epochs is of one objective, but its weights name several: give steps"


def _evals(config: Any) -> Iterator[str]:
    for name, keys in config.evals.items():
        objective = getattr(keys, "objective", None)
        if objective is None:
            continue
        if objective not in config.objectives:
            yield f"config.evals.{name}.objective is {objective!r}{nearest(objective, config.objectives)}"
            continue
        yield from _requirements(config, objective)
        scored = tasks.bind(config, objective).task.is_scored
        if scored != (keys.kind == "task"):
            has, kind = ("splits of its own", "task") if scored else ("no splits to be scored on", "heldout")
            yield f"config.evals.{name}.objective is {objective!r}, which has {has}: set its kind to {kind!r}"
        elif keys.kind == "heldout" and not (keys.monolingual.path or keys.parallel.path):
            yield f"config.evals.{name} has no text: set its monolingual.path or parallel.path"
        if keys.kind == "task" and not keys.splits:
            yield f"config.evals.{name}.splits is empty: name at least one split"


def _selection(config: Any) -> Iterator[str]:
    select = config.train.select
    if not select:
        if config.train.patience:
            yield "config.train.patience counts evaluations of config.train.select, which is empty"
        return
    name, _, metric = select.partition("/")
    if name not in config.evals or not metric:
        yield (
            f"config.train.select is {select!r}; it must be EVALUATION/METRIC, such as 'xnli/dev/accuracy', with an "
            f"evaluation of config.evals: {', '.join(config.evals) or 'none'}"
        )
        return
    keys, first = config.evals[name], metric.split("/")[0]
    if keys.kind == "task" and first not in keys.splits:
        yield f"config.train.select is {select!r}; config.evals.{name} has the splits {', '.join(keys.splits)}"
    means = ("average", "to_en", "from_en")
    if keys.kind == "retrieval" and metric not in means and ">" not in metric and not first.startswith("layer"):
        yield f"config.train.select is {select!r}; {name} finds {', '.join(means)} and directions such as en>de"
    sums = ("loss", "accuracy", *tasks.bind(config, keys.objective).task.columns) if keys.kind == "heldout" else ()
    if sums and metric.split("/")[-1] not in sums:
        yield f"config.train.select is {select!r}; {name} measures {', '.join(sums)}"


def _initial_weights(config: Any) -> Iterator[str]:
    # No limit of the field: a model that is not trained may state any.
    yield from Range(ABOVE_ZERO).problems(config.model.initializer_range, "config.model.initializer_range")


def _warmup(stage: Any, path: str) -> Iterator[str]:
    if stage.steps:
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
_CHECKS = (
    _names,
    _lengths,
    _layers,
    _languages,
    _attention,
    _moments,
    _tokenizer,
    _retention,
    _rows,
    _warmups,
    _weights,
    _evals,
    _selection,
)
_TRAINING_CHECKS = (_some_stage, _initial_weights, _stage_lengths, _trained_tasks)
