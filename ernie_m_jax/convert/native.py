"""Models of this project on disk: a folder with config, tokenizer and parameters, or a training run's.

    DIR/config.json       {"model": ..., "languages": [...], "data": {"pair_positions": ...}, "objectives": ...,
                           "tokenizer": {"style": ...}, "versions": ...}
    DIR/tokenizer/        the tokenizer's files, if there is one
    DIR/checkpoints/0/    the parameters, as `checkpoint` writes them: every file with its SHA-256

A run's work directory or one of its stages is read the same way; its `config.json` has the whole config.
Parameters are flat here: path -> array, layers stacked.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ernie_m_jax import config as configs
from ernie_m_jax import config_fields, config_renames
from ernie_m_jax import task as tasks
from ernie_m_jax.checkpoint import saved_steps, tree
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.config import ConfigError, DataConfig, ModelConfig
from ernie_m_jax.config_checks import validate_model
from ernie_m_jax.convert import layers
from ernie_m_jax.reporting import files
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights.tensors import ConversionError


class Facts(NamedTuple):
    """What training decided beside the architecture and a user of the model must know.

    Attributes:
      languages: names of the rows of the language table, perhaps not of the last ones; () where there is no table, or
        no name is known.
      pair_positions: "continued" or "restarted"; see `config.data.pair_positions`.
      objectives: entries of `config.objectives` of tasks that the model can predict for, with their keys.
    """

    languages: tuple[str, ...] = ()
    pair_positions: str = "continued"
    objectives: Mapping[str, Mapping[str, Any]] = {}


NO_FACTS = Facts()


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The directory with `checkpoints/` behind a model's folder, a stage, or a run (its last trained stage).

    None if `path` is none of these.
    """
    if saved_steps.complete(path / "checkpoints"):
        return path
    try:
        stages = config_renames.upgraded(json.loads((path / "config.json").read_text("utf-8"))["config"])["stages"]
        places = [path / name for name in reversed(configs.in_order(stages))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # no run: perhaps another library's folder, which has a config.json of its own
    return next((place for place in places if saved_steps.complete(place / "checkpoints")), None)


def read_config(place: pathlib.Path, style: str | None = "") -> tuple[ModelConfig, Tokenizer | None, Facts]:
    """The architecture, the tokenizer and the facts of the model in `place` (see `find`).

    Args:
      place: the directory with `checkpoints/`.
      style: None leaves the tokenizer out; "" takes it as it was saved; anything else must be the style it has.

    Raises:
      ConversionError: no `config.json` there or above, or one that cannot be used.
    """
    path = next((p / "config.json" for p in (place, place.parent) if (p / "config.json").is_file()), None)
    if path is None:
        raise ConversionError(f"{place}: no config.json there or in {place.parent}")
    try:
        written = json.loads(path.read_text("utf-8"))
        stated = config_renames.upgraded(written.get("config", written))
        model = configs.build(ModelConfig, stated["model"], "config.model")
        validate_model(model)
        facts = _facts(stated, model)
        saved, named = stated["tokenizer"]["style"], stated["tokenizer"].get("path")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConversionError(f"{path}: not a model of this project ({type(error).__name__}: {error})") from None
    own = path.parent / "tokenizer"
    folder = own if own.is_dir() else named or None
    if style is None or folder is None or not saved:
        return model, None, facts
    if style not in ("", saved):
        raise ConversionError(f"{path.parent}: the model's tokenizer is of style {saved!r}, not {style!r}")
    try:
        return model, Tokenizer.load(folder, saved), facts
    except (ValueError, FileNotFoundError) as error:
        raise ConversionError(f"{path.parent}: {error}; --no_tokenizer does without it") from error


def _facts(stated: dict[str, Any], model: ModelConfig) -> Facts:
    """The facts in a `config.json`; a folder written before they were kept has none.

    Raises:
      ConfigError: values that are not possible.
    """
    languages = configs.build(tuple[str, ...], stated.get("languages", []), "config.languages")
    positions = stated.get("data", {}).get("pair_positions", NO_FACTS.pair_positions)
    config_fields.check_value(DataConfig, "pair_positions", positions, "config.data.pair_positions")
    objectives = _predicting(stated.get("objectives", {}))
    if model.language_embedding == "none":
        return Facts((), positions, objectives)
    if len(languages) > model.num_languages:
        raise ConfigError(
            f"config.languages names {len(languages)} languages, but the language table has {model.num_languages} rows"
        )
    return Facts(languages, positions, objectives)


def _predicting(objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The entries whose tasks answer a user's rows; a task outside the package is not imported to find out."""
    modules = {name: keys.get("task") or name for name, keys in objectives.items()}
    return {
        name: keys
        for name, keys in objectives.items()
        if tasks.is_outside(modules[name]) or (modules[name] in tasks.names() and tasks.load(modules[name]).use)
    }


def read(place: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """The parameters of the selected or else newest good (or the given) step, checked against their manifest.

    Raises:
      CheckpointError: damaged or not there.
    """
    saved = Checkpoints(place / "checkpoints", 0, None)
    step = saved.to_use() if step is None else step
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    abstract = {
        name.removeprefix("params/"): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for name, leaf in saved.contents(step).items()
        if name.startswith("params/")
    }
    arrays = tree.named(saved.restore_params(step, tree.nest(abstract), partial=True))
    return layers.stacked({name: np.asarray(array) for name, array in arrays.items()})


def write(
    folder: pathlib.Path,
    model: ModelConfig,
    params: Iterable[tuple[str, np.ndarray]],
    tokenizer: Tokenizer | None,
    facts: Facts,
) -> None:
    """Writes a model's folder, which must be empty.

    Raises:
      CheckpointError: the disk is full, or the like.
    """
    device = jax.local_devices(backend="cpu")[0]
    # Array after array becomes a JAX array before the next is read: never two copies of the whole model.
    arrays = {name: jax.device_put(array, device) for name, array in params}
    saved = Checkpoints(folder / "checkpoints", 0, tokenizer.fingerprint if tokenizer else "")
    saved.save(0, {"params": tree.nest(arrays)}, {}, {})
    saved.wait()
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    stated: dict[str, Any] = {
        "model": dataclasses.asdict(model),
        "languages": facts.languages,
        "data": {"pair_positions": facts.pair_positions},
        "objectives": facts.objectives,
        "tokenizer": {"style": tokenizer.style if tokenizer else ""},
        "versions": files.versions(),
    }
    files.write_json(folder / "config.json", stated)
