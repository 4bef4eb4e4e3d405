"""The evaluations of a config: `config.evals` in, evaluators out, and what becomes of their outcomes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.config_evals import EvalKeys, HeldoutEval, RetrievalEval, TaskEval
from ernie_m_jax.data import mixture
from ernie_m_jax.evaluation.evaluator import Evaluator, Outcome
from ernie_m_jax.evaluation.heldout import HeldoutEvaluator
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.evaluation.searched import RetrievalEvaluator
from ernie_m_jax.reporting import files, screen


class Evaluations:
    """The evaluators of a config, opened in the order of their names.

    Attributes:
      evaluators: by name.
      keys: of each, `config.evals.<name>`.
    """

    def __init__(self, config: Config):
        """Opens the data of every evaluation, so that what is wrong with it is said before anything trains.

        Raises:
          ConfigError, DataError: what is wrong and where.
        """
        self.keys: Mapping[str, EvalKeys] = config.evals
        self._config = config
        self.evaluators: dict[str, Evaluator] = {}
        self._splits: dict[str, Any] = {}  # of each task, opened once for all evaluations that score it
        for name, keys in config.evals.items():
            self.evaluators[name] = _open(name, keys, config, self._splits)

    def due(self, step: int) -> list[str]:
        """Names of the evaluations that come before this step; at a stage's start and end `every` does not count."""
        return [name for name, keys in self.keys.items() if keys.every and step % keys.every == 0]

    def at_start(self) -> list[str]:
        """Names of those that also come before the first stage."""
        return [name for name, keys in self.keys.items() if keys.start]

    def run(self, name: str, model: Any, params: Any, tokenizer: Any, directory: Path, stem: str) -> Outcome:
        """Runs one; the first process shows the outcome and writes `<stem>.csv` and `.png` into `directory`.

        Files of predictions go into `<name>-predictions`, where they are the latest.
        """
        evaluator = self.evaluators[name]
        outcome = evaluator.run(model, params, tokenizer)
        if jax.process_index() == 0:
            screen.show(*evaluator.show(outcome.metrics, f"{directory.name}: {stem}"))
            evaluator.write(directory, stem, outcome.metrics)
            for left in (directory / f"{name}-predictions").glob(".*.tmp"):  # of a kill; this evaluation is run again
                left.unlink(missing_ok=True)
            for file, lines in outcome.files.items():
                files.write_text(directory / f"{name}-predictions" / file, "".join(f"{line}\n" for line in lines))
        return outcome

    def submit(self, model: Any, params: Any, tokenizer: Any, directory: Path, objective: str = "") -> list[Path]:
        """Writes a submission: the predictions of every evaluation's test split, in a folder per task as XTREME has it.

        Args:
          model: the encoder.
          params: its parameters.
          tokenizer: the model's.
          directory: the submission; what it has of other tasks stays.
          objective: only this one's; "" all.

        Returns:
          The folders, in the order of the evaluations.

        Raises:
          ConfigError: there is no such evaluation, or two objectives would write the same folder.
        """
        if directory.suffix == ".jsonl" or directory.is_file():
            raise ConfigError(
                f"--output {str(directory)!r} must be a folder; rows of your own are given by --input=FILE"
            )
        chosen: dict[str, tuple[str, Evaluator]] = {}  # folder -> what is predicted, and its evaluator
        for name, keys in self.keys.items():
            what, evaluator = getattr(keys, "objective", name), self.evaluators[name]
            if isinstance(keys, TaskEval) and "test" in keys.splits:
                evaluator = _open(name, dataclasses.replace(keys, splits=("test",)), self._config, self._splits)
            elif not isinstance(keys, RetrievalEval):
                continue
            if not evaluator.submission or objective not in ("", what):
                continue
            other = chosen.setdefault(evaluator.submission, (what, evaluator))[0]
            if other != what:
                raise ConfigError(f"{other} and {what} are both {evaluator.submission}: name one by --objective=NAME")
        if not chosen:
            raise ConfigError(
                "config.evals has no evaluation of a task's test split to predict; or give --input=FILE with rows of "
                "your own"
            )
        for folder, (_, evaluator) in chosen.items():
            for file, lines in evaluator.run(model, params, tokenizer).files.items():
                if jax.process_index() == 0:
                    files.write_text(directory / folder / file, "".join(f"{line}\n" for line in lines))
        return [directory / folder for folder in chosen]

    def headline(self, name: str, metrics: Mapping[str, float]) -> float | None:
        """The number of an evaluation that a summary shows."""
        return self.evaluators[name].headline(metrics)


def _open(name: str, keys: EvalKeys, config: Config, splits: dict[str, Any]) -> Evaluator:
    if isinstance(keys, RetrievalEval):
        return RetrievalEvaluator(name, keys, config)
    if isinstance(keys, HeldoutEval):
        own = [{"": source} if source.path else {} for source in (keys.monolingual, keys.parallel)]
        sources = mixture.Sources(config, own[0], own[1], where=f"evals.{name}")
        return HeldoutEvaluator(name, keys, tasks.bind(config, keys.objective), sources)
    assert isinstance(keys, TaskEval)
    task = tasks.bind(config, keys.objective)
    if keys.objective not in splits:
        splits[keys.objective] = task.splits()
    opened = splits[keys.objective]
    if missing := [split for split in keys.splits if split not in opened]:
        raise ConfigError(
            f"config.evals.{name}.splits names {missing[0]!r}; config.objectives.{keys.objective} has "
            f"{', '.join(opened) or 'no split with a path'}"
        )
    return TaskEvaluator(name, keys, task, opened)
