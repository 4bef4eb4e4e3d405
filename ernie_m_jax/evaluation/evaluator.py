"""What every evaluation is: parameters in, named numbers out, and how these are shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Outcome(NamedTuple):
    """What an evaluation found.

    Attributes:
      metrics: numbers by name, such as "dev/en/accuracy". Of retrieval and tasks percentages; of an objective on
        held-out text as in training, losses in nats and shares.
      files: lines of the files of predictions, by their name; empty where there are none.
    """

    metrics: dict[str, float]
    files: Mapping[str, Sequence[str]] = {}


class Evaluator(Protocol):
    """One entry of `config.evals`, ready to run.

    Attributes:
      name: of the entry.
      submission: XTREME's name of the task, whose files its `test-LANGUAGE` files are; empty: it is none of XTREME's.
    """

    name: str
    submission: str

    def run(self, model: Any, params: Any, tokenizer: Any) -> Outcome:
        """Evaluates a model; on several hosts all of them call it, and all get the same."""

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The one number that a summary shows."""

    def show(self, metrics: Mapping[str, float], title: str) -> list[Any]:
        """Tables for the screen."""

    def write(self, directory: Path, stem: str, metrics: Mapping[str, float]) -> None:
        """Writes `<stem>.csv` and `<stem>.png`."""
