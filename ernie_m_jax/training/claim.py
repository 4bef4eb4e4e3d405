"""Whose a work directory is: a config and the directory in, `config.json` out, or an error that names what differs.

A directory belongs to the config of its first checkpoint. What an earlier, failed start left binds no config. One run
at a time trains in it.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from ernie_m_jax import atomic, mirrors
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


LOCK = "training.lock"  # in the work directory, while a process trains in it; says which
PATIENCE = 10.0  # seconds for a process that was killed to be gone; its restart may be faster
LEASE = 120.0  # the same for one on another machine, whose lock a network file system keeps for a while


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds a work directory, which the first process makes if need be: two runs would write over one another.

    The lock goes with the process, however that ends. Some file systems know none, and none is needed in the folder
    that stands for a URL, which is this process's own.

    Raises:
      ConfigError: another process trains there.
      OSError: the directory cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        try:
            if jax.process_index() == 0 and mirrors.of(workdir) is None:
                with contextlib.suppress(FileExistsError):  # there, or made by another start meanwhile
                    workdir.mkdir(parents=True)
                    stack.callback(_remove_empty, workdir)
                _hold(workdir / LOCK, stack)
        except (ConfigError, OSError) as caught:
            error = caught
        saved_steps.raise_together(error, f"taking {workdir} for this run")
        yield


def _hold(lock: Path, stack: contextlib.ExitStack) -> None:
    """Takes the lock, if need be once the process that holds it has ended."""
    began = time.monotonic()
    while True:
        try:
            stack.enter_context(atomic.alone(str(lock)))
            break
        except BlockingIOError:
            if time.monotonic() > began + (PATIENCE if _is_here(lock) else LEASE):
                raise ConfigError(
                    f"{lock.parent}: another run is training in it ({_holder(lock)}); wait for its end, or choose "
                    "another --workdir"
                ) from None
        time.sleep(0.2)
    with contextlib.suppress(OSError):  # what it says is for people
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", "utf-8")


def _holder(lock: Path) -> str:
    """Which process the lock names, as far as it does."""
    try:
        return f"{lock.read_text('utf-8', errors='replace').split(chr(10))[0]:.200}"
    except OSError:
        return "it has just ended"


def _is_here(lock: Path) -> bool:
    """Whether the lock names a process of this machine that runs; one of a container may have our own number."""
    try:
        _, number, _, host = lock.read_text("utf-8").split()
        os.kill(int(number), 0)
    except (OSError, ValueError, OverflowError):
        return False
    return host == socket.gethostname() and int(number) != os.getpid()


def _remove_empty(workdir: Path) -> None:
    """Removes a directory in which nothing was begun."""
    with contextlib.suppress(OSError):
        workdir.rmdir()


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
