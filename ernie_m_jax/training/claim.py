"""Which config a work directory belongs to: both in, `config.json` out, or an error that names what differs.

A directory belongs to the config of its first checkpoint. What an earlier, failed start left binds no config.
"""

import json
from pathlib import Path

import jax

from ernie_m_jax.checkpoint import saved_steps
from ernie_m_jax.config import FREE_KEYS, Config, ConfigError, differences, to_dict
from ernie_m_jax.config_build import with_defaults
from ernie_m_jax.config_files import stored_config_tree
from ernie_m_jax.reporting import files, screen
from ernie_m_jax.training import lengths

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


def check(config: Config, workdir: Path) -> None:
    """A work directory with a checkpoint must hold a run of this config, but for `FREE_KEYS` and longer stages.

    Raises:
      ConfigError: it is of another config, each differing key is named; or it is no run's, but a stage's or a model's.
    """
    if saved_steps.complete(workdir / "checkpoints"):
        raise ConfigError(
            f"{workdir} is a stage of a run or a converted model, not a run: choose another --workdir; "
            f"--config.init.params={workdir} starts from its parameters"
        )
    if not is_begun(workdir):
        return
    stored = json.loads(json.dumps(with_defaults(Config, stored_config_tree(workdir))))
    # Without a selection evaluations only look on.
    free = FREE_KEYS if config.train.select or stored.get("train", {}).get("select") else (*FREE_KEYS, "config.evals")
    lines = [line for line in differences(stored, to_dict(config)) if not line.startswith(free)]
    lines = lengths.unfit(lines, stored, config, workdir)
    if lines:
        raise ConfigError(
            f"{workdir} holds a run of a different config; choose another --workdir, or make these keys agree:\n  "
            + "\n  ".join(lines)
        )


def check_model(config: Config, workdir: Path) -> None:
    """The architecture that a work directory's `config.json` states must be the config's.

    Raises:
      ConfigError: there are checkpoints but no `config.json`, or it is another model's; each differing key is named.
    """
    if not (is_begun(workdir) or saved_steps.complete(workdir / "checkpoints")):
        return
    if lines := differences(stored_config_tree(workdir).get("model", {}), to_dict(config)["model"], "config.model"):
        raise ConfigError(
            f"{workdir} holds another model; leave these keys as they are there:\n  " + "\n  ".join(lines)
        )


def claim(config: Config, workdir: Path) -> None:
    """Checks the work directory and writes `config.json` into it; another config's tokenizer is moved aside first."""
    check(config, workdir)
    if jax.process_index() != 0:
        return
    own = workdir / "tokenizer"
    if own.exists() and not config.tokenizer.path and _is_trained_otherwise(config, workdir):
        kept = files.aside(own, "replaced")
        own.rename(kept)
        screen.show(f"{own} was trained with other settings; it is kept as {kept}")
    files.write_json(workdir / "config.json", {"config": to_dict(config), "versions": files.versions()})


def _is_trained_otherwise(config: Config, workdir: Path) -> bool:
    """Whether the stored config trains another tokenizer; where none is stored, the user put the tokenizer there."""
    if not (workdir / "config.json").exists():
        return False
    try:
        lines = differences(stored_config_tree(workdir), to_dict(config))
    except ConfigError:
        return True
    return any(line.startswith(TOKENIZER_KEYS) for line in lines)
