"""Parameters to start from: a checkpoint of any format in, the run's parameters on its devices out.

What the checkpoint lacks starts from scratch only if `init.fresh` names it, its extra parameters are dropped only if
`init.drop` names them; everything else must agree in name, shape, architecture and tokenizer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ernie_m_jax.checkpoint import tables, tree
from ernie_m_jax.config import ConfigError, InitConfig, ModelConfig
from ernie_m_jax.convert import layers, model, transform
from ernie_m_jax.reporting import screen
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights.tensors import ConversionError

# What must agree beyond shapes, for the same parameters to compute the same.
_SAME = ("num_heads", "first_position", "pad_id", "layer_norm_eps")


def load(
    init: InitConfig, config: ModelConfig, tokenizer: Tokenizer, abstract: Any, scratch: Callable[[], Any] | None
) -> Any:
    """The parameters of `init.params`, placed as `abstract` says.

    Args:
      init: `params`, `fresh` and `drop`.
      config: the run's architecture.
      tokenizer: the run's; must be the checkpoint's where that has one.
      abstract: shapes, dtypes and shardings of the run's parameters, layers stacked or not.
      scratch: gives parameters like `abstract`, initialised; called only if something starts from scratch, which is an
        error where it is None.

    Raises:
      ConfigError: the checkpoint does not match config.model or the tokenizer, or has missing or extra parameters; with
        their names and shapes.
      ConversionError, CheckpointError: it cannot be read.
    """
    try:
        with model.open_source(init.params, num_heads=config.num_heads, ignore=init.drop) as source:
            _check_architecture(init.params, source.config, config)
            _check_tokenizer(init.params, source.tokenizer, tokenizer)
            fresh, dropped = _plan(init, source.shapes, model.shapes(config), source.config, config)
            read = {name: array for name, array in source.read() if name not in dropped}
            found = _relabelled(read, source.config.labels, config.labels)
    except ConversionError as error:
        raise ConfigError(f"config.init.params: {error}") from None
    if fresh and scratch is None:
        raise ConfigError(
            f"config.init.params {init.params} lacks {', '.join(fresh)}: there is nothing trained to predict with"
        )
    for word, names in (("from scratch", fresh), ("dropped", dropped)):
        if names:
            screen.show(f"init.params: {word}: {', '.join(names)}")
    return _placed(found, fresh, abstract, scratch or dict)


def _check_architecture(path: str, have: ModelConfig, want: ModelConfig) -> None:
    both = "none" not in (have.language_embedding, want.language_embedding)
    same = (*_SAME, "language_embedding") if both else _SAME
    wrong = [key for key in same if getattr(have, key) != getattr(want, key)]
    if wrong:
        lines = [f"config.model.{key} is {getattr(want, key)}, there {getattr(have, key)}" for key in wrong]
        raise ConfigError(f"config.init.params {path} does not match config.model:\n  " + "\n  ".join(lines))


def _check_tokenizer(path: str, have: Tokenizer | None, want: Tokenizer) -> None:
    if have is None:
        screen.show(f"init.params: no tokenizer in {path}; config.tokenizer.path must name the one it was trained with")
    elif have.style != want.style and have.entries() == want.entries():
        screen.show(
            f"init.params: {path} was written with a tokenizer of style {have.style}, this run's is {want.style}"
        )
    elif have.fingerprint != want.fingerprint:
        raise ConfigError(
            f"config.init.params {path} was written with tokenizer {have.fingerprint}, but this run's is "
            f"{want.fingerprint}; config.tokenizer.path must name the one it was written with"
        )


def _named(name: str, beginnings: Sequence[str]) -> bool:
    return any(name == beginning or name.startswith(f"{beginning.rstrip('/')}/") for beginning in beginnings)


def _relabelled(found: dict[str, np.ndarray], have: tuple[str, ...], want: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """The head's outputs in the order of the run's labels, where the checkpoint has the same in another."""
    if have == want or sorted(have) != sorted(want):
        return found
    order = [have.index(label) for label in want]
    return {name: array[..., order] if _is_head(name) else array for name, array in found.items()}


def _is_head(name: str) -> bool:
    return name in ("head/kernel", "head/bias")


def _plan(
    init: InitConfig,
    have: Mapping[str, tuple[int, ...]],
    want: Mapping[str, tuple[int, ...]],
    source: ModelConfig,
    config: ModelConfig,
) -> tuple[list[str], list[str]]:
    """The parameters that start from scratch and those that are dropped."""
    relabelled = bool(source.labels and config.labels) and sorted(source.labels) != sorted(config.labels)

    def differs(name: str) -> bool:
        return have[name] != want[name] or (relabelled and _is_head(name))

    # A parameter of another shape or other labels that both lists name is another task's head: dropped there, new here.
    other = [n for n in want if n in have and differs(n) and _named(n, init.fresh) and _named(n, init.drop)]
    fresh = [name for name in want if name not in have or name in other]
    dropped = [name for name in have if name not in want or name in other]
    problems = [
        f"{name}: shape {want[name]} in this model, not in the checkpoint; config.init.fresh can name it"
        for name in fresh
        if not _named(name, init.fresh)
    ]
    problems += [
        f"{name}: shape {have[name]} in the checkpoint, not in this model; config.init.drop can name it"
        for name in dropped
        if not _named(name, init.drop)
    ]
    problems += [
        f"{name}: shape {have[name]} in the checkpoint, {want[name]} in this model"
        for name in want
        if name in have and have[name] != want[name] and name not in other
    ]
    if relabelled and not other and any(map(_is_head, want)):
        problems.append(
            f"head: labels {', '.join(source.labels)} in the checkpoint, {', '.join(config.labels)} in this model; "
            "config.init.fresh and config.init.drop can name it"
        )
    if problems:
        raise ConfigError(
            f"config.init.params {init.params} does not fit config.model:\n  {transform.listed(problems)}"
        )
    return fresh, dropped


def _placed(found: Mapping[str, np.ndarray], fresh: Sequence[str], abstract: Any, scratch: Callable[[], Any]) -> Any:
    """The arrays in the tree of `abstract` and on its devices, with what is fresh from `scratch`."""
    wanted = tree.named(abstract)
    if layers.is_unrolled(wanted):
        found = layers.unrolled(found)
    initial = tree.named(scratch()) if fresh else {}
    placed = [
        tables.with_padding(found[name], leaf) if name in found else initial[name] for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), placed)
