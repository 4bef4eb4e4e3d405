"""The contract that every pre-training objective and every fine-tuning task fulfils.

A module ends in one `TASK = Task(...)`. A config names it in `config.objectives`: the entry's name is the module's, in
`ernie_m_jax.objectives` or `ernie_m_jax.finetune`, unless the entry's key `task` names another module, inside the
package (`xnli`) or outside (`my_package.my_task`). So a task can stand in a config twice; adding one is one file and
one config. `bind` joins a task with the config and the keys of its entry; `data`, `training` and `evaluation` see only
that, and none of them knows a task by name.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

IGNORE = -1  # label of a position that is not scored
HOST = "_host"  # end of the names of an example's features that never reach the device

Example = dict[str, np.ndarray]
Batch = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
Spec = dict[str, tuple[tuple[int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class Record:
    """Raw text with its language: one text for monolingual data, two for a parallel pair or a pair to classify.

    Attributes:
      texts: one or two strings; none where only their ids are stored (`data/stored_ids.py`).
      languages: the language code of each text; back-translation adds the language to write.
      fields: what a labelled task knows beside them, such as `label` and `id`; never changed.
      ids: of each text, int32 `[n]`, where they are stored; `data.layout.token_ids` finds them either way.
    """

    texts: tuple[str, ...]
    languages: tuple[str, ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ids: tuple[np.ndarray, ...] = dataclasses.field(default=(), compare=False)


class RandomAccess(Protocol):
    """A sequence of records that is read by index and may be larger than memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class RawRecords(RandomAccess, Protocol):
    """Records of raw files."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many rows were left out, by reason."""


class Read(Protocol):
    """Opens the raw files of a labelled task: what its `splits` and training data are made of."""

    def __call__(
        self, path: str, split: str, languages: Sequence[str], labels: Sequence[str], bad_rows: str, config_key: str
    ) -> Mapping[str, RawRecords]:
        """The records of one split by language, in the order of `languages`.

        Args:
          path: files in any layout that the task knows.
          split: "train", "dev" or "test".
          languages: codes, as the files have them.
          labels: the names of the labels; `Task.labels` in any order, or others where a task takes others.
          bad_rows: "error", or "skip" to leave out and count rows that cannot be used.
          config_key: path of the task's entry, "config.objectives.NAME", for messages; "" on a command line.
        """


@dataclasses.dataclass(frozen=True)
class Group:
    """One entry of a mixture.

    Attributes:
      records: the entry's records.
      weight: how often it is drawn, relative to the other entries of the mixture.
    """

    records: RandomAccess
    weight: float


class Sources(Protocol):
    """The text that a config names, opened once (`data.mixture.Sources`)."""

    def monolingual(self, join_to_characters: int = 0) -> Mapping[str, RandomAccess]:
        """By language; short lines joined to about this many characters."""

    def parallel(self) -> Mapping[str, RandomAccess]:
        """By language pair, "en-de"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskKeys:
    """The key that every entry of `config.objectives` has; a task's own keys derive from it.

    Attributes:
      task: the task's module; empty: the entry's name is the module's.
    """

    task: str = ""


@dataclasses.dataclass(frozen=True)
class Use:
    """How a fine-tuned model is used: a user's own rows in, answers out, without labels.

    Attributes:
      inputs: the parts of a row, in the order of a table's columns; each with the names its column or key may have.
      record: `(keys, row, language) -> Record`, host: what is to be predicted; `row` has each part under the first of
        its names. ValueError says what is wrong with a row.
      answers: `(cfg, keys, records, predictions) -> [answer, ...]`, host: what is said of each, as JSON holds it.
      keys: the task's own keys where a model comes without a config, such as another library's.
      fixed: keys that count in training and scoring alone, with values that ask for nothing.
    """

    inputs: Sequence[Sequence[str]]
    record: Callable[[Any, Mapping[str, Any], str], Record]
    answers: Callable[[Any, Any, Sequence[Record], Sequence["Predicted"]], Sequence[Mapping[str, Any]]]
    keys: Mapping[str, Any]
    fixed: Mapping[str, Any]


# What `predict` returned for one record: a mapping per example of the record, with the example's features in HOST.
Predicted = Sequence[Mapping[str, np.ndarray]]


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _no_problems(*_: Any) -> Iterable[str]:
    return ()


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective or a fine-tuning task as data. `cfg` is the whole `Config`, `keys` the entry's own.

    Attributes:
      config: frozen dataclass of the task's own keys, derived from `TaskKeys`; its fields carry their ranges.
      records: `(cfg, keys, sources) -> {entry: Group}`, host: the training mixture, an entry per language, pair or
        direction.
      examples: `(record, tokenizer, cfg, keys, rng) -> [Example, ...]`, host, pure; none, one or several per record
        (windows of a long text). Token features are int32 `[n]`, features whose name ends in `_at` hold indices into
        the example's tokens, those whose name ends in `_labels` hold labels, and are padded with `IGNORE`. Features
        whose name ends in `_host` are not in `spec` and not packed: what `score` and `lines` need to know of an example
        beside its record (offsets of a window's tokens), of any shape; they find them among the predictions.
      batched: `(records, tokenizer, cfg, keys, draws) -> (columns, left)`, host: what `examples` makes, of many records
        at once, bit for bit (`data.columns.Columns`, `data.draws.Draws`), and the numbers of the records that it
        leaves to `examples`; None: all of them. For speed alone.
      spec: `(cfg, keys) -> {name: (shape, dtype)}` of one packed row; drives packing, synthetic data, initialisation,
        compile.
      loss: `(cfg, keys, model, params, batch, rng, deterministic) -> Sums`, device; never divides. `Sums["loss"]` is
        what is trained on. `deterministic` leaves dropout out, for held-out data.
      predictions: `(cfg, keys) -> number` of words that a full row has to predict, on average; 0: it predicts no words.
      written: `(cfg, keys) -> (number, passes)`: words that each pass before that, without gradient, writes into a full
        row, on average, and how many such passes there are.
      requires: `(cfg, keys) -> problems`: what the model must have, and what else must fit, checked with the config. A
        line begins with "config." or with one of the task's own keys.
      columns: of its sums, those that the reports show, with their titles; `loss` and `accuracy` are always shown.
      splits: `(cfg, keys) -> {split: {language: records}}`, host: finite, ordered data to be scored on.
      read: `(path, split, languages, labels, bad_rows, config_key) -> {language: records}`, host: opens the raw files
        of a split (`Read`); None: the task has none of its own.
      labels: the names of a labelled task's labels, unless the config has others.
      languages: those of the published data that `read` opens.
      predict: `(cfg, keys, model, params, batch) -> {"FEATURE/NAME": array}`, device, without dropout; an array is
        laid out like that feature of the row, with axes of its own behind.
      score: `(cfg, keys, records, predictions) -> {metric: percent}`, host: the official arithmetic for one language;
        `predictions` has a `Predicted` per record.
      lines: `(cfg, keys, records, predictions) -> lines`, host: the task's official file of predictions.
      lines_suffix: of that file's name.
      submission: `(cfg, keys) -> name` of the folder that the test split's files of `lines` have in a submission,
        XTREME's name of the task where it has it; empty: there is no such folder.
      use: how a fine-tuned model is used on other rows; None: it cannot be.
      paper: `(cfg, keys) -> (table, setting)` of the paper's table to show beside, or None.
      figure: the metrics that make one figure of that table; empty: the first of `score`.
    """

    config: type
    records: Callable[[Any, Any, Sources], Mapping[str, Group]]
    examples: Callable[[Record, Any, Any, Any, np.random.Generator], Sequence[Example]]
    spec: Callable[[Any, Any], Spec]
    loss: Callable[[Any, Any, Any, Any, Batch, jax.Array, bool], Sums]
    batched: Callable[..., tuple[Any, Any]] | None = None
    predictions: Callable[[Any, Any], float] = lambda cfg, keys: 0.0
    written: Callable[[Any, Any], tuple[float, int]] = lambda cfg, keys: (0.0, 0)
    requires: Callable[[Any, Any], Iterable[str]] = _no_problems
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    splits: Callable[[Any, Any], Mapping[str, Mapping[str, RandomAccess]]] = _nothing
    read: Read | None = None
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    predict: Callable[[Any, Any, Any, Any, Batch], Mapping[str, jax.Array]] = _nothing
    score: Callable[[Any, Any, Sequence[Record], Sequence[Predicted]], Mapping[str, float]] = _nothing
    lines: Callable[[Any, Any, Sequence[Record], Sequence[Predicted]], Sequence[str]] | None = None
    lines_suffix: str = ".tsv"
    submission: Callable[[Any, Any], str] = lambda cfg, keys: ""
    use: Use | None = None
    paper: Callable[[Any, Any], tuple[str, str] | None] = lambda cfg, keys: None
    figure: tuple[str, ...] = ()

    @property
    def is_scored(self) -> bool:
        """Whether it is scored on splits of its own, as fine-tuning tasks are."""
        return self.splits is not _nothing


class Bound:
    """A task together with a config and the keys of its entry there: what is handed around.

    Attributes:
      name: of the entry; part of the seeds.
      task, cfg, keys: see `Task`.
    """

    def __init__(self, name: str, task: Task, cfg: Any, keys: Any):
        self.name, self.task, self.cfg, self.keys = name, task, cfg, keys
        both = (cfg, keys)
        self.records = functools.partial(task.records, *both)
        self.spec = functools.partial(task.spec, *both)
        self.loss = functools.partial(task.loss, *both)
        self.predictions = functools.partial(task.predictions, *both)
        self.written = functools.partial(task.written, *both)
        self.splits = functools.partial(task.splits, *both)
        self.predict = functools.partial(task.predict, *both)
        self.score = functools.partial(task.score, *both)

    def examples(self, record: Record, tokenizer: Any, rng: np.random.Generator) -> Sequence[Example]:
        """The record's examples."""
        return self.task.examples(record, tokenizer, self.cfg, self.keys, rng)


def bind(cfg: Any, name: str) -> Bound:
    """The task of the entry `name` of `config.objectives`, with its keys."""
    keys = cfg.objectives[name]
    return Bound(name, load(keys.task or name), cfg, keys)


PACKAGES = ("ernie_m_jax.objectives", "ernie_m_jax.finetune")


def names() -> Sequence[str]:
    """Names of the package's own tasks."""
    found = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found += [name for _, name, _ in pkgutil.iter_modules(path) if _task(f"{package}.{name}") is not None]
    return sorted(found)


def is_outside(name: str) -> bool:
    """Whether a name is the path of a module outside the package."""
    return "." in name


def load(name: str) -> Task:
    """The task of a module, named as in a config.

    Raises:
      KeyError: no module of that name, or it holds no task; the message lists the names there are.
    """
    modules = [name] if is_outside(name) else [f"{package}.{name}" for package in PACKAGES]
    for module in modules if all(map(str.isidentifier, name.split("."))) else ():
        task = _task(module)
        if task is not None:
            return task
    if is_outside(name):
        raise KeyError(f"{name!r} is no module that can be imported from here and ends in TASK = Task(...)")
    raise KeyError(f"no task {name!r}; there are {', '.join(names())}, and modules of your own by their dotted path")


def _task(module: str) -> Task | None:
    """The task that a module registers; None where there is no such module, or no task in it."""
    try:
        task = getattr(importlib.import_module(module), "TASK", None)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module is there; what it imports is not
        return None
    return task if isinstance(task, Task) else None
