"""What the command line says about the config, as a tree for `config.resolve`.

    --config=FILE:ARGUMENT               get_config(ARGUMENT) of a Python file, here or the project's own
    --workdir=DIR, where --config is absent   DIR's config.json: a run's, a stage's (its run's) or a converted model's
    --config.KEY=VALUE                   one key over either; the last of several counts

A work directory is data that may come from anyone: of its files only `config.json` is read here, and no Python file in
it is executed. Nor does it choose what else is: a task outside the package counts only where the command line names it.
"""

import functools
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from ernie_m_jax import config_build, config_renames
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, SourceConfig
from ernie_m_jax.config_evals import EvalKeys
from ernie_m_jax.config_fields import ConfigError, raise_problems

PREFIX = "--config."
_LONGEST_KEY = 1000  # characters; to look for the nearest name of a longer one takes long
_BASE = Path(__file__).parents[1] / "configs" / "base.py"


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without the config's keys, and those as `--config.KEY=VALUE`.

    `--config.KEY VALUE` is taken too. A `--config.KEY` that another flag or nothing follows stays as it is.
    """
    rest: list[str] = []
    settings: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            return [*rest, argument, *left], settings
        if not re.match(r"--?config\.", argument):
            rest.append(argument)
            continue
        setting = f"--{argument.lstrip('-')}"
        if "=" not in setting and left and not left[0].startswith("--"):
            setting += f"={left.pop(0)}"
        settings.append(setting)
    return rest, settings


def from_file(flag: str) -> dict[str, Any]:
    """The tree of `FILE` or `FILE:ARGUMENT`; a file `configs/...` that is not here is the project's own.

    Raises:
      ConfigError: there is no such file, or it fails; one line with file, line and what.
    """
    name, colon, argument = flag.partition(":")
    if not os.path.isfile(name):
        own = _BASE.parents[1] / name
        if not (name.startswith("configs/") and own.is_file()):
            raise ConfigError(f"--config={flag}: {name}: no such file")
        name = str(own)
        # The project's `configs`, not a directory of that name here; an installed one is found anyway, but later.
        sys.path.insert(0, str(_BASE.parents[1]))
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a config finds `configs.base` from the checkout
    try:
        module = _execute(name)
        tree = module.get_config(argument) if colon else module.get_config()
    except (Exception, SystemExit) as error:
        raise ConfigError(_located(name, error)) from error
    if not isinstance(tree, ml_collections.ConfigDict):
        raise ConfigError(f"{name}: get_config() must return a ConfigDict, got {type(tree).__name__}")
    return tree.to_dict()


def _execute(path: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(f"config_file_{Path(path).stem}", path)
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # a dataclass in the file looks itself up there
    loader.exec_module(module)
    return module


def _located(path: str, error: BaseException) -> str:
    """An exception of a config file in one line."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}" if error.filename else path
        return ": ".join(filter(None, (place, error.msg, (error.text or "").strip())))
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.abspath(frame.filename) == os.path.abspath(path)
    ]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "  # a ValueError is written for people
    while len(error.args) == 1 and isinstance(error.args[0], Exception):  # ml_collections packs one into another
        error = error.args[0]
    what = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return f"{path}:{lines[-1]}: {kind}{what}" if lines else f"{path}: {kind}{what}"


@functools.cache
def _base() -> ModuleType:
    """`configs.base`, found beside the package, not from the current directory, which may be a work directory."""
    if not _BASE.is_file():
        raise ConfigError(f"{_BASE}: no such file; the defaults are part of the project")
    return _execute(str(_BASE))


def home(workdir: Path) -> Path:
    """The directory whose `config.json` speaks for a work directory: itself, or a stage's run."""
    is_stage = not (workdir / "config.json").exists() and (workdir / "checkpoints").is_dir()
    return workdir.absolute().parent if is_stage else workdir


def stored_config_tree(workdir: Path) -> dict[str, Any]:
    """What `config.json` says: a run's whole resolved config; of a converted model the few keys that it keeps.

    Keys that were renamed since have their new names.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    path = home(workdir) / "config.json"
    try:
        written = json.loads(path.read_text("utf-8"))
        tree = written.get("config", written)
        if not isinstance(tree, dict):
            raise TypeError(f"config is {tree!r:.80}, not a mapping")
        parts = () if "stages" in tree else (tree["model"], tree["tokenizer"], tree.get("data", {}))
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("model, tokenizer and data must be mappings")
        return config_renames.upgraded(tree)
    except FileNotFoundError:
        raise ConfigError(f"{workdir} holds no run: there is no {path.name} in it") from None
    except KeyError:
        raise ConfigError(
            f"{path} is damaged or not of this project; python -m ernie_m_jax.convert --source={workdir} --output=DIR "
            "makes one of a released model"
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it, or choose another --workdir") from None


def from_workdir(workdir: Path, training: bool, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The tree behind a work directory: the run's own, or a converted model's over the defaults of `configs.base`.

    Args:
      workdir: a run, a stage or a converted model.
      training: whether the run is to go on.
      settings: what `override` will put over the tree.

    Raises:
      ConfigError: there is no usable `config.json`; `training` and it is no run that could go on; or it names a task
        outside the package and `settings` do not.
    """
    if not (home(workdir) / "config.json").exists():
        raise ConfigError(
            f"--config=FILE is missing, for instance --config=configs/quickstart.py: {workdir} has no config.json"
        )
    stored = stored_config_tree(workdir)
    if training and home(workdir) != workdir:
        raise ConfigError(f"{workdir} is a stage: --workdir={home(workdir)} goes on with its run")
    if "stages" in stored:
        _check_tasks(stored, settings, workdir)
        return stored
    if training:
        raise ConfigError(
            f"{workdir} is a model, not a run: choose another --workdir, and train from it with --config=FILE "
            f"--config.init.params={workdir}"
        )
    tree = _base().get_config().to_dict()
    tree["model"] = stored["model"]
    tree["languages"] = stored.get("languages") or tree["languages"]
    tree["tokenizer"]["style"] = stored["tokenizer"].get("style") or tree["tokenizer"]["style"]
    tree["data"].update(stored.get("data", {}))
    return tree


def _check_tasks(stored: dict[str, Any], settings: Iterable[str], workdir: Path) -> None:
    """Raises ConfigError where a work directory alone names a module outside the package, which would be executed."""
    objectives, named = stored.get("objectives"), _named_tasks(settings)
    problems = []
    for name, keys in objectives.items() if isinstance(objectives, dict) else ():
        task = keys.get("task") if isinstance(keys, dict) else None
        if isinstance(task, str) and tasks.is_outside(task) and name not in named:
            problems.append(
                f"{home(workdir) / 'config.json'} names the task {task}, which is code outside the package, and a work "
                f"directory may come from anyone: to execute it, say --config.objectives.{name}.task={task}"
            )
    raise_problems(problems)


def _named_tasks(settings: Iterable[str]) -> dict[str, str]:
    """Entry of `config.objectives` -> the module that the command line gives it."""
    found = [re.fullmatch(r"--config\.objectives\.([^.=]+)\.task=(.*)", setting, re.DOTALL) for setting in settings]
    return {match[1]: match[2] for match in found if match}


def override(tree: dict[str, Any], settings: Iterable[str]) -> list[str]:
    """Puts the values of `--config.KEY=VALUE` into the tree; returns what is wrong with them, a line each.

    A new name under `data.monolingual` and `data.parallel` becomes a source with the defaults of `configs.base`.
    """
    problems = []
    added: dict[str, str] = {}  # path of a new source -> what to say if it gets no path
    settings = list(settings)
    for setting in settings:
        _add_evaluation(tree, setting)
    _replace_tasks(tree, _named_tasks(settings))
    for setting in settings:
        key, given, text = setting.removeprefix(PREFIX).partition("=")
        if len(key) > _LONGEST_KEY:
            problems.append(f"config.{key[:80]}... is no key: it has {len(key)} characters")
            continue
        if new := config_renames.new_name(f"config.{key}"):
            problems.append(f"config.{key} is now {new}")
            continue
        try:
            _set(tree, key.split("."), text if given else None, added)
        except ConfigError as error:
            problems.append(str(error))
    for path, message in added.items():
        _, _, kind, name = path.split(".")
        source = tree["data"][kind].pop(name, None)
        if isinstance(source, dict) and source.get("path"):
            tree["data"][kind][name] = source
        else:
            problems.append(f"{message}; a new source needs {path}.path")
    return problems


def _add_evaluation(tree: dict[str, Any], setting: str) -> None:
    """`--config.evals.NAME.kind=KIND` of a new name: an evaluation with the defaults of `configs.base`."""
    found = re.fullmatch(r"--config\.evals\.([^.=]+)\.kind=(\w+)", setting)
    evals = tree.setdefault("evals", {})
    if found and isinstance(evals, dict) and found[1] not in evals and found[2] in EvalKeys.kinds:
        evals[found[1]] = _base().evaluation(found[2]).to_dict()


def _replace_tasks(tree: dict[str, Any], named: dict[str, str]) -> None:
    """The modules come first: the other keys are those of the task that is meant, and no other is to be imported."""
    objectives = tree.get("objectives")
    for name, task in named.items():
        if isinstance(objectives, dict) and isinstance(objectives.get(name), dict):
            objectives[name]["task"] = task
    if any(map(tasks.is_outside, named.values())) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # behind all else: the current directory may be a work directory


def _set(tree: dict[str, Any], names: Sequence[str], text: str | None, added: dict[str, str]) -> None:
    """One value (None: the key alone, which is true); raises ConfigError where the key or the text is wrong."""
    kind, node, path = Config, tree, "config"
    for name in names[:-1]:
        kind = _kind(kind, name, node, path, added)
        node, path = node.setdefault(name, {}), f"{path}.{name}"
        if not isinstance(node, dict):
            raise ConfigError(f"{path} must be {config_build.expected(kind)}; it holds no keys")
    kind = _kind(kind, names[-1], node, path, added)
    path = f"{path}.{names[-1]}"
    if text is None and kind is not bool:
        raise ConfigError(f"{path} needs a value: --{path}=VALUE")
    node[names[-1]] = config_build.parse(kind, "true" if text is None else text, path)


def _kind(kind: Any, name: str, node: dict[str, Any], path: str, added: dict[str, str]) -> Any:
    """The type of the key `name` of `node`, which is of type `kind` and may get a new source."""
    if not config_build.is_mapping(kind):
        hints = typing.get_type_hints(kind)
        if name not in hints:
            raise ConfigError(config_build.unknown(path, name, hints))
        return hints[name]
    item = typing.get_args(kind)[1]
    if name in node:
        return config_build.named_kind(kind, name, node[name], path)
    if item is SourceConfig:
        added[f"{path}.{name}"] = config_build.unknown(path, name, node)
        node[name] = _base().source().to_dict()
    elif item is EvalKeys and name in EvalKeys.kinds:  # named like its kind; others begin with --config.evals.NAME.kind
        node[name] = _base().evaluation(name).to_dict()
        return config_build.named_kind(kind, name, node[name], path)
    elif item is not float:  # a weight may be new; `resolve` knows the objectives
        raise ConfigError(config_build.unknown(path, name, node))
    return item
