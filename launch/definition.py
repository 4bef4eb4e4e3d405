"""What a sweep is: a config file, settings, a grid and seeds in; the runs that it consists of out."""

import copy
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ernie_m_jax import config as configs
from ernie_m_jax import config_files, config_renames
from ernie_m_jax import task as tasks
from ernie_m_jax.config_build import with_defaults
from ernie_m_jax.config_fields import check_value, raise_problems
from ernie_m_jax.reporting import files

_LONGEST = 40  # characters of a value in a directory's name; file systems allow 255 for the whole
_NAME_BYTES = 255  # that a file system allows
_OWN_KEYS = {"seed": "--seeds=0,1,2 sets it", "train.select": "one rule must choose among all combinations"}


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: of its work directory: what its combination sets, and its seed.
      combination: the first part of the name, empty without a grid.
      settings: what it has beyond the sweep's own settings, `--config.KEY=VALUE`.
      seed: of the run.
    """

    name: str
    combination: str
    settings: tuple[str, ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Definition:
    """A sweep; every combination of the grid's values is run with every seed.

    Attributes:
      config: the config file of every run, with its argument.
      settings: `--config.KEY=VALUE` of every run.
      grid: key, without "config.", -> its values as text, the keys in alphabetical order.
      seeds: of each combination.
      tree: what `config` and `settings` come to, as JSON can hold it.
    """

    config: str
    settings: tuple[str, ...]
    grid: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    tree: Mapping[str, Any]

    @property
    def select(self) -> str:
        """The metric on dev that chooses, `config.train.select`; empty: none."""
        return self.tree["train"]["select"]

    @property
    def arguments(self) -> list[str]:
        """The command line that means this sweep, but for its work directory."""
        grid = [part for key, texts in self.grid.items() for part in ("--grid", f"config.{key}={','.join(texts)}")]
        return [f"--config={self.config}", f"--seeds={','.join(map(str, self.seeds))}", *grid, *self.settings]

    def combinations(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Name and settings of each combination; one of neither without a grid."""
        short = short_names(list(self.grid))
        for values in itertools.product(*self.grid.values()):
            pairs = list(zip(self.grid, values, strict=True))
            name = ",".join(f"{short[key]}={safe(value)}" for key, value in pairs)
            yield name, tuple(f"{config_files.PREFIX}{key}={value}" for key, value in pairs)

    def runs(self) -> list[Run]:
        """Every run, the seeds of a combination one after another."""
        return [
            Run(",".join(filter(None, (name, f"seed={seed}"))), name, settings, seed)
            for name, settings in self.combinations()
            for seed in self.seeds
        ]


def define(config: str, settings: Sequence[str], grid: Sequence[str], seeds: Sequence[int] | None) -> Definition:
    """The sweep of a command line, each of its configs checked.

    Args:
      config: what `--config` of `ernie_m_jax.main` takes.
      settings: `--config.KEY=VALUE` of every run.
      grid: "config.KEY=VALUE,VALUE" of each key.
      seeds: of each combination; None: the config's own.

    Raises:
      ConfigError: the file, a key or a value is wrong, in any combination.
    """
    tree = config_files.from_file(config)
    problems = config_files.override(tree, settings)
    values: dict[str, list[str]] = {}
    for entry in grid:
        name, given, text = entry.partition("=")
        key, texts = name.lstrip("-").removeprefix("config."), [value.strip() for value in text.split(",")]
        if not given or not all(texts):
            raise configs.ConfigError(f"--grid {entry}: must be config.KEY=VALUE,VALUE")
        if key in values:
            raise configs.ConfigError(f"--grid: config.{key} is given twice; its values belong together, with commas")
        if key in _OWN_KEYS:
            raise configs.ConfigError(f"--grid: config.{key} cannot be in it; {_OWN_KEYS[key]}")
        if any(setting.startswith(f"{config_files.PREFIX}{key}=") for setting in settings):
            raise configs.ConfigError(f"config.{key} is in --grid and set for every run; it can only be one of them")
        values[key] = texts
    if any(setting.startswith(f"{config_files.PREFIX}seed=") for setting in settings):
        raise configs.ConfigError(f"--config.seed: {_OWN_KEYS['seed']}")
    raise_problems(problems)
    canonical = {key: tuple(_canonical(tree, key, text) for text in values[key]) for key in sorted(values)}
    if seeds is None:
        seeds = (tree["seed"],) if isinstance(tree.get("seed"), int) else (0,)  # other kinds are refused below
    made = Definition(config, tuple(settings), canonical, tuple(seeds), _json(tree))
    _check(made)
    for _, own in made.combinations():
        changed = copy.deepcopy(tree)
        configs.resolve(changed, problems=config_files.override(changed, own))
    return made


def _check(made: Definition) -> None:
    """Raises ConfigError for what no run's own config can show to be wrong."""
    repeated = [key for key, texts in made.grid.items() if len(set(texts)) < len(texts)]
    if repeated or len(set(made.seeds)) < len(made.seeds):
        raise configs.ConfigError(f"{'--grid: ' + repeated[0] if repeated else '--seeds'}: a value is given twice")
    for seed in made.seeds:
        check_value(configs.Config, "seed", seed, "--seeds: one")
    if len(list(made.combinations())) > 1:
        if not made.select:
            raise configs.ConfigError(
                "config.train.select is empty: it names the metric on dev that chooses from the grid"
            )
        if made.select.split("/")[1:2] == ["test"]:
            raise configs.ConfigError(
                f"config.train.select is {made.select!r}: a grid must not be chosen from by the test split; name a "
                "metric on dev"
            )
    for run in made.runs():
        if (size := len(f"{run.name}.log".encode())) > _NAME_BYTES:
            raise configs.ConfigError(
                f"--grid: a run would be named {run.name[:40]}..., which takes {size} bytes with its log's ending; "
                f"file systems allow {_NAME_BYTES}: fewer keys at a time"
            )


def joined(stored: Definition, given: Definition, where: str) -> Definition:
    """The stored sweep with the given one's values and seeds added.

    Raises:
      ConfigError: they differ in anything else, each difference is named; together they are no sweep; or the stored one
        alone names a module outside the package, which would be executed.
    """
    before = with_defaults(configs.Config, config_renames.upgraded(dict(stored.tree)))
    now = with_defaults(configs.Config, given.tree)
    free = (*configs.FREE_KEYS, "config.seed", *(f"config.{key}:" for key in {*stored.grid, *given.grid}))
    lines = [line for line in configs.differences(*map(_json, (before, now))) if not line.startswith(free)]
    if set(stored.grid) != set(given.grid):
        keys = [", ".join(f"config.{key}" for key in grid) or "none" for grid in (stored.grid, given.grid)]
        lines.append(f"--grid: keys {keys[0]} there, {keys[1]} here")
    if lines:
        raise configs.ConfigError(
            f"{where} holds a sweep of a different definition; choose another --workdir, or make these agree:\n  "
            + "\n  ".join(lines)
        )
    for key, texts in stored.grid.items():
        code = [text for text in texts if key.endswith(".task") and tasks.is_outside(text)]
        if unnamed := sorted({*code} - {*given.grid[key]}):
            raise configs.ConfigError(
                f"{where} names the task {unnamed[0]}, which is code outside the package, and a work directory may "
                f"come from anyone: to execute it, name it in --grid config.{key} too"
            )
    grid = {key: tuple(dict.fromkeys((*stored.grid[key], *given.grid[key]))) for key in stored.grid}
    made = dataclasses.replace(given, grid=grid, seeds=tuple(dict.fromkeys((*stored.seeds, *given.seeds))))
    _check(made)
    return made


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's shortest end that no other key has: learning_rate, or one.learning_rate and two.learning_rate."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [f".{other}" for other in (*keys, "seed") if other != key]
        found[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return found


def safe(value: str) -> str:
    """A value as a file's name can hold it; what is replaced or cut is told apart by a piece of its hash."""
    cleaned = re.sub(r"[^\w.+-]", "-", value)[:_LONGEST]
    return cleaned if cleaned == value else f"{cleaned}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"


def _json(tree: Any) -> Any:
    return json.loads(json.dumps(files.json_value(tree)))


def _canonical(tree: Mapping[str, Any], key: str, text: str) -> str:
    """The value as the config reads it, as text again, so that 3e-5 and 0.00003 are one."""
    changed: Any = copy.deepcopy(tree)
    raise_problems(config_files.override(changed, [f"{config_files.PREFIX}{key}={text}"]))
    for name in key.split("."):
        changed = changed[name]
    if isinstance(changed, bool):
        return str(changed).lower()
    return ",".join(map(str, changed)) if isinstance(changed, tuple | list) else str(changed)
