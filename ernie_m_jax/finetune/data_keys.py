"""The keys that say what a fine-tuning task is trained and scored on, and what is checked of them."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import between, one_of
from ernie_m_jax.task import TaskKeys

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
          ValueError: it is none, empty, or not valid Unicode.
        """
        value = row[part]
        if not isinstance(value, str):
            raise ValueError(f"{part} is {type(value).__name__}, not text")
        if not value.strip():
            raise ValueError(f"{part} is empty")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no tokenizer takes
            raise ValueError(f"{part} is not valid Unicode ({error.reason})") from None
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
