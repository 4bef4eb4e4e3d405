"""Keys and texts in, typed values out: the dataclasses of `config.py` are the schema, whoever states a value.

`collect` builds a dataclass out of a tree and notes every problem; `parse` reads one value off the command line.
"""

import ast
import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ernie_m_jax import config_renames
from ernie_m_jax import task as tasks
from ernie_m_jax.config_checks import nearest
from ernie_m_jax.config_evals import EvalKeys
from ernie_m_jax.config_fields import ConfigError, raise_problems

_LARGEST = 3.4028234e38  # of float32, which numbers are on a device
_INTEGERS = 2**63  # from minus this to below it: int64
_TRUTH = {"true": True, "false": False}


def build(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type `kind`; `path` is the key that messages name.

    Raises:
      ConfigError: a line per key that is unknown, missing or of the wrong type.
    """
    problems: list[str] = []
    built = collect(kind, value, path, problems)
    raise_problems(problems)
    return built


def collect(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """As `build`, but what is wrong is added to `problems`, and None stands in place of it."""
    if dataclasses.is_dataclass(kind):
        return _collect_keys(kind, value, path, problems)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        item = typing.get_args(kind)[0]
        return tuple(collect(item, part, f"{path}[{place}]", problems) for place, part in enumerate(value))
    if is_mapping(kind) and isinstance(value, Mapping):
        return {key: _collect_named(kind, key, value[key], path, problems) for key in sorted(value)}
    if type(value) is int and not -_INTEGERS <= value < _INTEGERS:
        problems.append(f"{path} is a number of more than 64 bits")
        return None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        problems.append(f"{path} must be {expected(kind)}, got {value!r:.200} ({type(value).__name__})")
        return None
    if kind is float and not abs(value) <= _LARGEST:
        problems.append(f"{path} is {value}; it must be a finite number in float32")
        return None
    return value


def _collect_named(kind: Any, name: str, value: Any, path: str, problems: list[str]) -> Any:
    """The entry `name` of the mapping `path`."""
    try:
        item = named_kind(kind, name, value, path)
    except ConfigError as error:
        problems.append(str(error))
        return None
    return collect(item, value, f"{path}.{name}", problems)


def _collect_keys(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """A dataclass out of a mapping with exactly its fields; those with a default may be missing."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{path} must hold keys, got {value!r:.200}")
        return None
    hints = typing.get_type_hints(kind)
    problems += [unknown(path, key, hints) for key in value if key not in hints]
    made = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            made[field.name] = collect(hints[field.name], value[field.name], f"{path}.{field.name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(
                f"{path}.{field.name} is missing; start the config from configs.base, or give --{path}.{field.name}"
            )
            made[field.name] = None
    return kind(**made)


def with_defaults(kind: Any, tree: Any) -> Any:
    """The tree with the defaults of keys that are newer than it; no task is imported, and nothing is checked."""
    if not isinstance(tree, Mapping):
        return tree
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {name: with_defaults(hints.get(name), value) for name, value in tree.items()}
        return {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING} | known
    if is_mapping(kind) and typing.get_args(kind)[1] is EvalKeys:
        return {name: with_defaults(EvalKeys.kinds.get(_kind_of(keys)), keys) for name, keys in tree.items()}
    if is_mapping(kind) and typing.get_args(kind)[1] is not tasks.TaskKeys:
        return {name: with_defaults(typing.get_args(kind)[1], value) for name, value in tree.items()}
    return dict(tree)


def unknown(path: str, key: str, known: Iterable[str]) -> str:
    """What to say about a key that is not among `known`: its new name, if it was renamed."""
    if renamed := config_renames.new_name(f"{path}.{key}"):
        return f"{path}.{key} is now {renamed}"
    return f"{path}.{key} is unknown{nearest(key, known)}; keys here: {', '.join(known) or 'none'}"


def is_mapping(kind: Any) -> bool:
    """Whether the type is a mapping from names that a user chooses."""
    origin = typing.get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def named_kind(kind: Any, name: str, value: Any, path: str) -> Any:
    """The type of an entry of a mapping; for an objective the keys of its task, for an evaluation those of its kind.

    Args:
      kind: the mapping's type.
      name: the entry's.
      value: the entry as it is so far; its key `task` may name another module than its own name, `kind` says the kind.
      path: of the mapping, for messages.

    Raises:
      ConfigError: there is no such task or kind.
    """
    item = typing.get_args(kind)[1]
    if item is EvalKeys:
        return _eval_kind(value, f"{path}.{name}")
    if item is not tasks.TaskKeys:
        return item
    chosen = value.get("task", "") if isinstance(value, Mapping) else getattr(value, "task", "")
    if not isinstance(chosen, str):
        raise ConfigError(f"{path}.{name}.task must be {expected(str)}, got {chosen!r:.200} ({type(chosen).__name__})")
    if tasks.is_outside(name):
        raise ConfigError(f"{path}.{name}: a name has no dot; the key task names a module: {{'task': {name!r}, ...}}")
    try:
        return tasks.load(chosen or name).config
    except KeyError as error:
        where = f"{path}.{name}.task" if chosen else f"{path}.{name}"
        close = "" if tasks.is_outside(chosen) else nearest(chosen or name, tasks.names())
        raise ConfigError(f"{where}: {error.args[0]}{close}") from None


def _eval_kind(value: Any, path: str) -> type[EvalKeys]:
    kind = _kind_of(value)
    if kind not in EvalKeys.kinds:
        raise ConfigError(f"{path}.kind is {kind!r}; allowed: {', '.join(EvalKeys.kinds)}")
    return EvalKeys.kinds[kind]


def _kind_of(value: Any) -> Any:
    """The kind that an evaluation states."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


def expected(kind: Any) -> str:
    """A type in words."""
    if dataclasses.is_dataclass(kind) or is_mapping(kind):
        return "a mapping of names"
    return "a list" if typing.get_origin(kind) is tuple else f"of type {kind.__name__}"


def parse(kind: Any, text: str, path: str) -> Any:
    """A value off the command line; `collect` checks what a list or mapping holds.

    Lists are words with commas (`en,de`) or a Python tuple (`('en','de')`); mappings are Python dictionaries.

    Raises:
      ConfigError: the text is no value of the type.
    """
    try:
        if kind is str:
            return text
        if kind is bool:
            return _TRUTH[text.lower()]
        if kind in (int, float):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            return _words(text)
        value = ast.literal_eval(text)
        if isinstance(value, dict):
            return value
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # of Python's parser, too deep
        pass
    raise ConfigError(f"{path} must be {expected(kind)}, got {text!r:.200}")


def _words(text: str) -> tuple[Any, ...]:
    if not text.startswith(("(", "[", "'", '"')):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, tuple | list) else (value,)
