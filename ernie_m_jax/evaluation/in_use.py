"""A labelled task for a model that is used without a run's config: architecture in, a task bound to it out.

A run's own model knows its tasks and their keys; of another library's, the head says which task's rows and answers
it has.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ernie_m_jax import config as configs
from ernie_m_jax import config_fields
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError, ModelConfig
from ernie_m_jax.config_evals import RetrievalEval
from ernie_m_jax.data import given as givens
from ernie_m_jax.evaluation import encode, predicted, similar
from ernie_m_jax.task import Bound, Task

Answer = Callable[[list[givens.Given]], list[dict[str, Any]]]

# The task that shows how a head is used, whatever its labels: any of those with the same rows and answers.
BY_HEAD = {"sequence_classification": "xnli", "token_classification": "conll", "question_answering": "mlqa"}
# Keys of the data sets of a run, which are not opened.
NO_DATA = ("train", "dev", "test", "train_languages", "languages")
HOW_TO_NAME = "objective=NAME"


@dataclasses.dataclass(frozen=True)
class _Layout:
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
    data: _Layout
    tokenizer: _Style
    objectives: Mapping[str, Any]
    seed: int = 0


def with_use(objectives: Mapping[str, Any], named: str = "") -> dict[str, Task]:
    """The tasks among some entries of `config.objectives` that answer a user's rows.

    Args:
      objectives: the entries' keys, as a mapping or as the task's dataclass.
      named: an entry whose task may be outside the package: only who names it has it imported.
    """
    found = {}
    for name, keys in objectives.items():
        module = (keys.get("task") if isinstance(keys, Mapping) else keys.task) or name
        if tasks.is_outside(module) and name != named and isinstance(keys, Mapping):
            continue
        task = tasks.load(module)
        if task.use is not None:
            found[name] = task
    return found


def chosen(objectives: Mapping[str, Any], named: str, how: str = HOW_TO_NAME) -> str:
    """The entry to use: the one that is named, or the only one that answers a user's rows; "" where there is none.

    Raises:
      ValueError: none of that name answers rows, or there are several and none is named; `how` is said to name one.
    """
    found = with_use(objectives, named)
    if named and named not in found:
        raise ValueError(f"there is no objective {named!r} to predict with{_listed(found)}")
    if len(found) > 1 and not named:
        raise ValueError(f"several objectives can predict: say {how}, one of {', '.join(found)}")
    return named or next(iter(found), "")


def _listed(found: Mapping[str, Task]) -> str:
    return f"; there are {', '.join(found)}" if found else ""


def bound(
    model: ModelConfig,
    *,
    language: str,
    languages: Sequence[str] = (),
    pair_positions: str = "continued",
    style: str = "ernie",
    objectives: Mapping[str, Mapping[str, Any]] | None = None,
    objective: str = "",
    **keys: Any,
) -> Bound:
    """A task bound to a model.

    Args:
      model: the architecture, with head and labels.
      language: of the texts.
      languages: names of the language table's rows, where every token gets one.
      pair_positions: `config.data.pair_positions` of the training.
      style: of the tokenizer.
      objectives: entries of the run's `config.objectives`, if it is known.
      objective: which of them; otherwise the only one that fits, or the head's.
      **keys: the task's own keys, over those of the run.

    Raises:
      ValueError: no task fits the head, or a key does not.
    """
    own = objectives or {}
    name = objective if objective and objective not in own else chosen(own, objective)
    name = name or BY_HEAD.get(model.head, "")
    if not name:
        raise ValueError(
            f"the model's head is {model.head!r}; what predicts has one of {', '.join(BY_HEAD)}, or its task is named"
        )
    stated = dict(own.get(name, {}))
    try:
        task = tasks.load(stated.get("task") or name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if task.use is None:
        raise ValueError(f"{name} is no task that answers a user's rows")
    room = model.max_positions - model.first_position
    merged = {**task.use.keys, **stated, **{key: task.use.keys[key] for key in NO_DATA if key in task.use.keys}, **keys}
    if "max_length" not in keys and isinstance(merged.get("max_length"), int):
        merged["max_length"] = min(merged["max_length"], room)
    built = configs.build(task.config, merged, name)
    config_fields.check(built, "")
    length = getattr(built, "max_length", room)
    spoken = tuple(languages) if model.language_embedding == "all" else (language,)
    part = _Part(model, spoken, _Layout(length, pair_positions), _Style(style), {name: built})
    if length > room:
        raise ValueError(f"max_length is {length}; the model has positions for {room} tokens")
    problems = [line for line in task.requires(part, built) if not line.startswith("config.model.labels")]
    if problems:
        raise ValueError("; ".join(problems))
    return Bound(name, task, part, built)


def answering(
    config: Config, model: Any, params: Any, tokenizer: Any, objective: str, language: str
) -> tuple[Answer, givens.Inputs, int]:
    """How a model answers rows: a function from rows to answers, the parts of a row, and how many it takes at a time.

    Args:
      config: the whole; of its objectives one that predicts is used, otherwise the head's task, and without a head
        sentences are searched for as in the config's first evaluation of retrieval.
      model: the encoder.
      params: its parameters, perhaps on a mesh.
      tokenizer: the model's.
      objective: the entry to use; "" where only one predicts.
      language: of the rows; "" where it does not matter, or there is only one.

    Raises:
      ConfigError: no entry fits, or the language is needed or unknown.
    """
    batch_size = config.encode.batch_size
    if config.model.head == "none" and not objective:
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
        similarity = getattr(keys, "similarity", "cosine")
        return (lambda rows: similar.answers(encoded, rows, similarity)), similar.INPUTS, sys.maxsize
    task, spoken = _of_config(config, objective, language, tokenizer.style)
    assert task.task.use is not None
    return (
        lambda rows: predicted.answers(task, model, params, tokenizer, rows, spoken, batch_size),
        task.task.use.inputs,
        predicted.CHUNK,
    )


def _of_config(config: Config, objective: str, language: str, style: str) -> tuple[Bound, str]:
    """The task of a run's config, or of a model whose config has none, and the language of the rows."""
    embedded = config.model.language_embedding == "all"
    if embedded and language not in config.languages and (language or len(config.languages) > 1):
        raise ConfigError(
            f"--language is {language!r}; every token gets its language's embedding: one of "
            f"{', '.join(config.languages)}"
        )
    spoken = language if language in config.languages else config.languages[0]
    try:
        if with_use(config.objectives):
            return tasks.bind(config, chosen(config.objectives, objective, "--objective=NAME")), spoken
        made = bound(
            config.model,
            language=spoken,
            languages=config.languages,
            pair_positions=config.data.pair_positions,
            style=style,
            objective=objective,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return made, spoken
