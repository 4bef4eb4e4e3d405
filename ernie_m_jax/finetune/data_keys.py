"""What fine-tuning tasks with labelled data share: the keys that say which data, their checks, and opening it.

    an entry's keys --LabelledData--> raw files of a split --Task.read--> records by language
                                 --> a prepared folder (`data/prepared.py`) --> the same records

`LabelledData` has what such a `Task` takes as `records` and `splits`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from ernie_m_jax.config import Config, ModelConfig
from ernie_m_jax.config_fields import between, one_of
from ernie_m_jax.data import mixture, prepared, published
from ernie_m_jax.reporting import screen
from ernie_m_jax.task import Group, RandomAccess, RawRecords, Read, Sources, TaskKeys

# Of a model that is used without a config: it reads no data sets.
NO_DATA: Mapping[str, Any] = {
    "task": "",
    "train": "",
    "dev": "",
    "test": "",
    "train_languages": (),
    "languages": (),
    "bad_rows": "error",
}


def label_names(model: ModelConfig) -> tuple[str, ...]:
    """The names of the head's outputs; where the model has none, those that transformers gives them."""
    return model.labels or tuple(f"LABEL_{number}" for number in range(model.num_labels))


@dataclasses.dataclass(frozen=True)
class DataKeys(TaskKeys):
    """Keys of a task with labelled data; `configs/base.py` gives their meaning."""

    train: str
    dev: str
    test: str
    train_languages: tuple[str, ...]
    languages: tuple[str, ...]
    max_length: int = field(metadata=between(8))
    bad_rows: str = field(metadata=one_of("error", "skip"))

    @staticmethod
    def text(row: Mapping[str, Any], part: str) -> str:
        """A part of a user's row that must be text, as it stands.

        Raises:
          ValueError: it is none, or empty.
        """
        value = row[part]
        if not isinstance(value, str):
            raise ValueError(f"{part} is {type(value).__name__}, not text")
        if not value.strip():
            raise ValueError(f"{part} is empty")
        return value

    def entry(self, cfg: Config, otherwise: str) -> str:
        """The name that these keys have in `config.objectives`; `otherwise` where they are not from there."""
        return next((name for name, keys in cfg.objectives.items() if keys is self), otherwise)

    def problems(self, cfg: Config) -> Iterator[str]:
        """What does not fit the rest of the config: room for an example, languages that it knows."""
        if self.max_length > cfg.data.sequence_length:
            yield f"max_length {self.max_length} is above config.data.sequence_length {cfg.data.sequence_length}"
        for key, codes in (("train_languages", self.train_languages), ("languages", self.languages)):
            if unknown := [code for code in codes if code not in cfg.languages]:
                yield f"{key}: {', '.join(unknown)} not among config.languages: {', '.join(cfg.languages)}"


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """The data of a task: its methods are what a `Task` takes as `records` and `splits`.

    Attributes:
      name: the task's, for messages where its keys stand in no config.
      read: the task's.
      labels: the task's; `read` is given the config's, which may name others. Empty: the task has none.
    """

    name: str
    read: Read
    labels: tuple[str, ...] = ()

    def records(self, cfg: Config, keys: DataKeys, sources: Sources) -> dict[str, Group]:
        """The training mixture, an entry per language."""
        del sources
        return mixture.groups(self.open(cfg, keys, "train", keys.train_languages), cfg.data.sampling_exponent)

    def splits(self, cfg: Config, keys: DataKeys) -> dict[str, dict[str, RandomAccess]]:
        """The splits that have a path."""
        spoken = keys.languages or cfg.languages
        return {split: dict(self.open(cfg, keys, split, spoken)) for split in ("dev", "test") if getattr(keys, split)}

    def open(self, cfg: Config, keys: DataKeys, split: str, languages: Sequence[str]) -> Mapping[str, RawRecords]:
        """The records of a split by language, of raw files or prepared; what was left out of them is printed."""
        name, path = keys.entry(cfg, self.name), getattr(keys, split)
        labels = cfg.model.labels if self.labels else ()
        opened: Mapping[str, RawRecords]
        if prepared.is_prepared(path):
            opened = prepared.open_split(path, keys.task or name, split, languages, labels)
        else:
            opened = self.read(path, split, languages, labels, keys.bad_rows, f"config.objectives.{name}")
        for language, records in opened.items():
            for remark in published.remarks(records):
                screen.show(f"{name} {split} {language}: {remark}")
        return opened
