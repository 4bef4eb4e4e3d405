"""Whose a work directory is: a config and a directory in, `config.json` out, or an error that names what differs.

A directory belongs to the config of its first checkpoint. What a start leaves that failed before binds no other config.
"""

import json
from pathlib import Path
from typing import Any

import jax

from ernie_m_jax.config import Config, ConfigError, differences, to_dict
from ernie_m_jax.training import files, report, saved_steps

# Keys that change how fast a run goes or what it keeps, not its numbers; a run may go on with others.
FREE_KEYS = (
    "config.mesh",
    "config.compute.attention",
    "config.compute.remat",
    "config.compute.vocab_chunk",
    "config.data.prefetch",
    "config.train.evaluate_every",
    "config.train.keep",
    "config.train.log_every",
    "config.train.max_skipped",
    "config.train.save_every",
)
USE_KEYS = (*FREE_KEYS, "config.retrieval")  # of a run that is only used
# Keys on which a tokenizer trained here depends.
TOKENIZER_KEYS = (
    "config.data.monolingual",
    "config.data.parallel",
    "config.languages",
    "config.model.vocab_size",
    "config.tokenizer",
)


def is_begun(workdir: Path) -> bool:
    """Whether any stage has a checkpoint, damaged or not; what a start leaves that failed before is none."""
    return any(saved_steps.complete(path) for path in workdir.glob("*/checkpoints"))


def check(config: Config, workdir: Path, free: tuple[str, ...] = FREE_KEYS) -> None:
    """A work directory with a checkpoint must hold a run of this config, but for the `free` keys.

    Raises:
      ConfigError: it is of another config; each differing key is named.
    """
    if not is_begun(workdir):
        return
    lines = differences(stored_config_tree(workdir), to_dict(config))
    lines = [line for line in lines if not line.startswith(free)]
    if lines:
        raise ConfigError(
            f"{workdir} holds a run of a different config; choose another --workdir, or make these keys agree:\n  "
            + "\n  ".join(lines)
        )


def claim(config: Config, workdir: Path) -> None:
    """Checks the work directory and writes `config.json` into it; another config's tokenizer makes room before."""
    check(config, workdir)
    if jax.process_index() != 0:
        return
    own = workdir / "tokenizer"
    if own.exists() and not config.tokenizer.path and not _is_trained_for(config, workdir):
        kept = files.aside(own, "replaced")
        own.rename(kept)
        report.show(f"{own} was trained with other settings; it is kept as {kept}")
    files.write_json(workdir / "config.json", {"config": to_dict(config), "versions": files.versions()})


def _is_trained_for(config: Config, workdir: Path) -> bool:
    """Whether the stored config trains the same tokenizer."""
    try:
        lines = differences(stored_config_tree(workdir), to_dict(config))
    except ConfigError:
        return False
    return not any(line.startswith(TOKENIZER_KEYS) for line in lines)


def stored_config_tree(workdir: Path) -> dict[str, Any]:
    """The resolved config of the run in `workdir`, as dictionaries.

    Raises:
      ConfigError: no run there, or its `config.json` cannot be read.
    """
    path = workdir / "config.json"
    try:
        tree = json.loads(path.read_text("utf-8"))["config"]
        if not isinstance(tree, dict):
            raise TypeError(f"config is {tree!r:.80}, not a mapping")
    except FileNotFoundError:
        raise ConfigError(f"{workdir} holds no run: there is no {path.name} in it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it, or choose another --workdir") from None
    return tree
