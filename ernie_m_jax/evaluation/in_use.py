"""A labelled task for a model that is used without a run's config: architecture in, a task bound to it out.

A run's own model knows its tasks and their keys; of another library's, the head says which task's rows and answers
it has.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ernie_m_jax import config as configs
from ernie_m_jax import config_fields
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError, ModelConfig
from ernie_m_jax.config_evals import RetrievalEval
from ernie_m_jax.data import given as givens
from ernie_m_jax.evaluation import encode, predicted, similar
from ernie_m_jax.task import Bound

# The task that shows how a head is used, whatever its labels: any of those with the same rows and answers.
BY_HEAD = {"sequence_classification": "xnli", "token_classification": "conll", "question_answering": "mlqa"}


class Answering(NamedTuple):
    """How a model answers rows.

    Attributes:
      inputs: the parts of a row; see `task.Use`.
      check: raises `DataError` for a row that cannot be used.
      answer: rows to answers, in their order.
      at_once: whether it needs all rows at once.
    """

    inputs: givens.Inputs
    check: Callable[[givens.Given], object]
    answer: Callable[[list[givens.Given]], list[dict[str, Any]]]
    at_once: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """Keys of `config.data` that an example depends on."""

    sequence_length: int
    pair_positions: str


@dataclasses.dataclass(frozen=True)
class _Style:
    """Keys of `config.tokenizer` that a task asks for."""

    style: str


@dataclasses.dataclass(frozen=True)
class _Part:
    """The part of a `Config` that a labelled task reads when it predicts."""

    model: ModelConfig
    languages: tuple[str, ...]
    data: Layout
    tokenizer: _Style
    objectives: Mapping[str, Any]
    seed: int = 0


def _entry(objectives: Mapping[str, Mapping[str, Any]], named: str) -> tuple[str, str]:
    """The entry to use and its task's module, "" where no entry answers rows.

    An entry whose task is outside the package is used only if the module itself is named, for it is executed.

    Raises:
      ValueError: what is named answers no rows, or several do and none is named.
    """
    modules = {name: keys.get("task") or name for name, keys in objectives.items()}
    usable = {
        name: module
        for name, module in modules.items()
        if tasks.is_outside(module) or (module in tasks.names() and tasks.load(module).use is not None)
    }
    if named:
        usable = {name: module for name, module in usable.items() if named in (name, module)} or usable
        if not usable:
            return "", named
        if len(usable) > 1 or named not in (*usable, *usable.values()):
            raise ValueError(f"there is no objective {named!r} to predict with; there are {', '.join(usable)}")
    if len(usable) > 1:
        raise ValueError(f"several objectives can predict: say objective=NAME, one of {', '.join(usable)}")
    for name, module in usable.items():
        if tasks.is_outside(module) and named != module:
            raise ValueError(f"{name} is the task {module}, code outside the package: to execute it, say {module!r}")
        return name, module
    return "", ""


def bound(
    model: ModelConfig,
    *,
    language: str,
    languages: Sequence[str] = (),
    pair_positions: str = "continued",
    style: str = "ernie",
    objectives: Mapping[str, Mapping[str, Any]] | None = None,
    objective: str = "",
    keys: Mapping[str, Any],
) -> Bound:
    """A task bound to a model.

    Args:
      model: the architecture, with head and labels.
      language: of the texts.
      languages: names of the language table's rows, where every token gets one.
      pair_positions: `config.data.pair_positions` of the training.
      style: of the tokenizer.
      objectives: entries of the run's `config.objectives`, if it is known.
      objective: which of them, or a task's module; otherwise the only one that fits, or the head's. A task outside the
        package is named by its module, for it is executed.
      keys: the task's own, over those of the run.

    Raises:
      ValueError: no task fits the head, or a key does not.
    """
    own = objectives or {}
    name, module = _entry(own, objective)
    by_head = "" if module else BY_HEAD.get(model.head, "")
    if not module and not by_head:
        raise ValueError(
            f"the model's head is {model.head!r}; what predicts has one of {', '.join(BY_HEAD)}, or its task is named"
        )
    try:
        task = tasks.load(module or by_head)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if task.use is None:
        raise ValueError(f"{module} is no task that answers a user's rows")
    if len(set(model.labels)) < len(model.labels):
        raise ValueError(f"the model's labels are not all different: {', '.join(model.labels)}")
    room = model.max_positions - model.first_position
    merged = {**task.use.keys, **own.get(name, {}), **task.use.fixed, "task": module or by_head, **keys}
    if "max_length" not in keys and isinstance(merged.get("max_length"), int):
        merged["max_length"] = min(merged["max_length"], room)
    name = name or by_head or module
    if taken := [key for key in keys if key in task.use.fixed]:
        raise ValueError(f"{taken[0]} counts in training and scoring alone; leave it out")
    built = configs.build(task.config, merged, name)
    config_fields.check(built, "")
    length = getattr(built, "max_length", room)
    spoken = tuple(languages) if model.language_embedding == "all" else (language,)
    part = _Part(model, spoken, Layout(length, pair_positions), _Style(style), {name: built})
    if length > room:
        raise ValueError(f"max_length is {length}; the model has positions for {room} tokens")
    # Whose rows and answers are like the task's may have labels of its own.
    other = "config.model.labels" if by_head else "\0"
    problems = [line for line in task.requires(part, built) if not line.startswith(other)]
    if problems:
        raise ValueError("; ".join(problems))
    return Bound(name, task, part, built)


def answering(
    config: Config,
    model: Any,
    params: Any,
    tokenizer: Any,
    objectives: Mapping[str, Mapping[str, Any]],
    objective: str,
    language: str,
) -> Answering:
    """How a model with a config answers rows.

    Args:
      config: the whole; one of its objectives that predicts is used, or else those of `objectives`, or the head's task;
        without a head sentences are searched for, as in the config's first evaluation of retrieval.
      model: the encoder.
      params: its parameters, perhaps on a mesh.
      tokenizer: the model's.
      objectives: entries that a converted model knows, whose config has none.
      objective: the entry to use; "" where only one predicts.
      language: of the rows; "" where it does not matter, or there is only one.

    Raises:
      ConfigError: no entry fits, or the language is needed, not needed or unknown.
    """
    embedded = config.model.language_embedding == "all"
    if language and not embedded:
        raise ConfigError("--language: this model adds no embedding of the texts' language; leave it out")
    if embedded and language not in config.languages and (language or len(config.languages) > 1):
        raise ConfigError(
            f"--language is {language!r}; every token gets its language's embedding: one of "
            f"{', '.join(config.languages)}"
        )
    batch_size = config.encode.batch_size
    usable = {name for name in config.objectives if tasks.bind(config, name).task.use is not None}
    if config.model.head == "none" and not usable and not objective:
        searching = [keys for keys in config.evals.values() if isinstance(keys, RetrievalEval)]
        keys: Any = searching[0] if searching else config.encode
        encoded = functools.partial(
            encode.encode_texts,
            model,
            params,
            tokenizer,
            layer=keys.layer,
            pooling=keys.pooling,
            max_length=keys.max_length,
            batch_size=batch_size,
        )
        return searching_for(encoded, getattr(keys, "similarity", "cosine"))
    spoken = language or config.languages[0]
    try:
        if usable:
            chosen = objective or next(iter(usable))
            if chosen not in usable or (len(usable) > 1 and not objective):
                raise ConfigError(f"--objective must name what is to predict: {', '.join(sorted(usable))}")
            task = tasks.bind(config, chosen)
        else:
            task = bound(
                config.model,
                language=spoken,
                languages=config.languages,
                pair_positions=config.data.pair_positions,
                style=tokenizer.style,
                objectives=objectives,
                objective=objective,
                keys={},
            )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return of_task(task, model, params, tokenizer, spoken, batch_size)


def of_task(task: Bound, model: Any, params: Any, tokenizer: Any, language: str, batch_size: int) -> Answering:
    """How a model answers the rows of a task that has `use`; the arguments are those of `predicted.answers`."""
    assert task.task.use is not None
    return Answering(
        task.task.use.inputs,
        lambda given: predicted.record(task, given, language),
        lambda rows: predicted.answers(task, model, params, tokenizer, rows, language, batch_size),
    )


def searching_for(encoded: Callable[[list[str]], np.ndarray], similarity: str) -> Answering:
    """How sentences are searched for; see `similar.answers`."""
    return Answering(similar.INPUTS, similar.check, lambda rows: similar.answers(encoded, rows, similarity), True)
