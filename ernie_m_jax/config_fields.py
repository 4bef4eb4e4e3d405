"""What one key of a config may be: the limits that a dataclass's field carries, and what to say of a value outside.

    eps: float = field(metadata=between(ABOVE_ZERO))
    remat: str = field(metadata=one_of("none", "dots", "full"))

The limits stand nowhere else. Whoever takes a value without a whole config checks it here too, with `check` or
`check_value`. What must fit together across fields is in `config_checks.py`.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The least normal number of float32: the device takes what is below for 0.
ABOVE_ZERO = 2.0**-126
_LIMIT = "limit"  # the key of a field's metadata


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key and what is allowed."""


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one `ConfigError` that says everything; nothing if there is no problem."""
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} things are wrong with the config:\n  " + "\n  ".join(problems))


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """A line if the value lies outside; NaN always does."""
        if not self.low <= value <= self.high:
            yield f"{path} is {value}; it must be {self}"

    def __str__(self) -> str:
        if self.low == ABOVE_ZERO:
            return "above 0" if self.high == math.inf else f"above 0 and at most {self.high}"
        return f"at least {self.low}" if self.high == math.inf else f"from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """A line if the value is another."""
        if value not in self.names:
            yield f"{path} is {value!r:.200}; allowed: {', '.join(self.names)}"


def between(low: float, high: float = math.inf) -> Mapping[str, Any]:
    """Metadata of a field whose value, or each value of whose mapping, lies from `low` to `high`."""
    return {_LIMIT: Range(low, high)}


def one_of(*names: str) -> Mapping[str, Any]:
    """Metadata of a field whose value is one of `names`."""
    return {_LIMIT: Choice(names)}


def choices(kind: type, name: str) -> tuple[str, ...]:
    """The names that the field `name` of the dataclass `kind` takes."""
    limit = _limits(kind)[name]
    assert isinstance(limit, Choice)
    return limit.names


def problems(keys: Any, path: str = "") -> Iterator[str]:
    """A line for each value outside its limits, of a dataclass, of those in it and of those in its mappings.

    Args:
      keys: the dataclass. None, which stands where a value is missing or of the wrong type, is passed over.
      path: what messages name before the field; "" for the field alone.
    """
    for name, limit in _limits(type(keys)).items():
        yield from _problems(getattr(keys, name), limit, f"{path}.{name}" if path else name)


def check(keys: Any, path: str) -> None:
    """As `problems`, raised.

    Raises:
      ConfigError: a line per problem.
    """
    raise_problems(list(problems(keys, path)))


def check_value(kind: type, name: str, value: Any, path: str) -> None:
    """Checks a value by itself as the dataclass `kind` would have its field `name`.

    Raises:
      ConfigError: it is outside the limits; `path` is what the message names.
    """
    raise_problems(list(_problems(value, _limits(kind)[name], path)))


def _limits(kind: type) -> dict[str, Range | Choice | None]:
    return {field.name: field.metadata.get(_LIMIT) for field in dataclasses.fields(kind)}


def _problems(value: Any, limit: Range | Choice | None, path: str) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        yield from problems(value, path)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _problems(part, limit, f"{path}.{name}")
    elif limit is not None and value is not None:
        yield from limit.problems(value, path)
