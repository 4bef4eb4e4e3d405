"""The evaluations that a config may name: a dataclass of keys per kind; `configs/base.py` gives each key's meaning."""

import dataclasses
from dataclasses import field
from typing import ClassVar

from ernie_m_jax.config_fields import between, one_of


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One set of records: a path, its format and which languages or pairs of it to read."""

    path: str
    format: str
    languages: tuple[str, ...]
    pairs: tuple[str, ...]
    columns: tuple[str, ...]
    split: str


@dataclasses.dataclass(frozen=True)
class EvalKeys:
    """Keys that every evaluation has.

    Attributes:
      kinds: the dataclass of each kind, by the name that its key `kind` has.
    """

    kind: str
    every: int = field(metadata=between(0))
    start: bool
    batch_size: int = field(metadata=between(1))

    kinds: ClassVar[dict[str, type["EvalKeys"]]] = {}


@dataclasses.dataclass(frozen=True)
class RetrievalEval(EvalKeys):
    """Sentence retrieval over a parallel set."""

    source: SourceConfig
    layer: int
    pooling: str = field(metadata=one_of("mean", "cls", "max"))
    max_length: int = field(metadata=between(8))
    similarity: str = field(default="cosine", metadata=one_of("cosine", "margin"))
    every_layer: bool = False
    paper: bool = False


@dataclasses.dataclass(frozen=True)
class HeldoutEval(EvalKeys):
    """Loss and accuracy of an objective on text that it is not trained on."""

    objective: str
    monolingual: SourceConfig
    parallel: SourceConfig
    max_records: int = field(metadata=between(0))


@dataclasses.dataclass(frozen=True)
class TaskEval(EvalKeys):
    """A fine-tuning task's score on its splits."""

    objective: str
    splits: tuple[str, ...]


EvalKeys.kinds.update(retrieval=RetrievalEval, heldout=HeldoutEval, task=TaskEval)
