"""The contract that every pre-training objective and every fine-tuning task fulfils.

A module ends in one `TASK = Task(...)`; the module's name is its registration, so adding one is one file and one
config. `data` calls the host part (records, examples, spec), `training` the device part (loss); neither knows a task by
name.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

IGNORE = -1  # label of a position that is not scored

Example = dict[str, np.ndarray]
Batch = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
Spec = dict[str, tuple[tuple[int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class Record:
    """Raw text with its language: one text for monolingual data, two for a parallel pair.

    Attributes:
      texts: one or two strings.
      languages: the language code of each text; back-translation adds the language to write.
      fields: what a labelled task knows beside them, such as `label` and `id`; never changed.
    """

    texts: tuple[str, ...]
    languages: tuple[str, ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class RandomAccess(Protocol):
    """A sequence of records that is read by index and may be larger than memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclasses.dataclass(frozen=True)
class Group:
    """One entry of a mixture.

    Attributes:
      records: the entry's records.
      weight: how often it is drawn, relative to the other entries of the mixture.
    """

    records: RandomAccess
    weight: float


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective or a fine-tuning task as data.

    Attributes:
      config: frozen dataclass of the task's own keys (`config.objectives.<name>`).
      records: `(cfg) -> {key: Group}`, host: the mixture, an entry a language or language pair.
      examples: `(record, tokenizer, cfg, rng) -> [Example, ...]`, host, pure; none, one or several for one record
        (windows of a long text). Token features are int32 `[n]`, features whose name ends in `_at` hold indices into
        the example's tokens.
      spec: `(cfg) -> {name: (shape, dtype)}` of one packed row; drives packing, synthetic data, initialisation,
        compile.
      loss: `(cfg, model, params, batch, rng) -> Sums`, device; never divides. `Sums["loss"]` is what is trained on.
    """

    config: type
    records: Callable[[Any], Mapping[str, Group]]
    examples: Callable[[Record, Any, Any, np.random.Generator], Sequence[Example]]
    spec: Callable[[Any], Spec]
    loss: Callable[[Any, Any, Any, Batch, jax.Array], Sums]


PACKAGES = ("ernie_m_jax.objectives",)


def names() -> Sequence[str]:
    """Names of all modules that may hold a task, read off the packages' files."""
    found = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found += [module.name for module in pkgutil.iter_modules(path) if module.name != "masking"]
    return sorted(found)


def load(name: str) -> Task:
    """The task that the module `name` registers.

    Raises:
      KeyError: no module of that name; the message lists the names there are.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(f"{package}.{name}") is not None:
            task = getattr(importlib.import_module(f"{package}.{name}"), "TASK", None)
            if isinstance(task, Task):
                return task
    raise KeyError(f"no objective {name!r}; there are {', '.join(names())}")
