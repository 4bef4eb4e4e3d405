"""Which steps in a directory of checkpoints count: the complete ones, and among them the newest good one.

A step is complete when its manifest is there, good when every file is as the manifest says, and damaged otherwise. A
run that goes on keeps a damaged step as `<step>.damaged`, which is no step any more and is never deleted. Where model
selection has chosen a step, that is the one to use; training goes on from the newest all the same.

With several processes, `check`, `newest_good`, `selected_good` and `raise_together` are called by all of them at the
same point.
"""

import json
import re
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint.manifest import MANIFEST, CheckpointError, verify
from ernie_m_jax.reporting import files, screen


class ElsewhereError(CheckpointError):
    """What another process has failed at, which knows the cause."""


SELECTED = "selected.json"  # beside the steps: which of them model selection chose


def complete(directory: Any) -> list[int]:
    """The steps in a directory that have their manifest, ascending; empty if there is no such directory."""
    return [step for step, done in found(epath.Path(directory)) if done]


def found(directory: Any) -> list[tuple[int, bool]]:
    """The directories named by a number, ascending, and whether each has its manifest."""
    if not directory.exists():
        return []
    steps = sorted(int(path.name) for path in directory.iterdir() if re.fullmatch(r"0|[1-9][0-9]*", path.name))
    return [(step, (directory / str(step) / MANIFEST).exists()) for step in steps]


def existing(directory: Any, step: int | None) -> Any:
    """The directory of a complete step, None meaning the newest.

    Raises:
      CheckpointError: it is not there; complete and incomplete ones are listed.
    """
    steps = found(directory)
    complete_ones = [number for number, done in steps if done]
    chosen = max(complete_ones, default=None) if step is None else step
    if chosen is None or chosen not in complete_ones:
        wanted = "a checkpoint" if step is None else f"step {step}"
        unfinished = [number for number, done in steps if not done]
        raise CheckpointError(
            f"{wanted} is not in {directory}: complete steps {complete_ones}, without {MANIFEST} {unfinished}"
        )
    return directory / str(chosen)


def check(directory: Any) -> None:
    """Compares all files of a step's directory with its manifest; what a store has of them is downloaded first.

    Raises:
      CheckpointError: a file is missing, altered or not listed; on all processes if one finds it.
      OSError: the store could not be read, which is no damage.
    """
    error: Exception | None = None
    try:
        mirrors.fetch(directory)
        verify(directory)
    except (CheckpointError, OSError) as caught:
        error = caught
    raise_together(error, f"checking {directory}")


def newest_good(directory: Any, set_aside: bool) -> int | None:
    """The newest step without damage; prints each damaged one that is passed over, and why.

    Args:
      directory: where the step directories lie.
      set_aside: rename the damaged steps. Only for a run that goes on in this directory.

    Returns:
      The step, or None if no step is complete.

    Raises:
      CheckpointError: every complete step is damaged; all are named, and none is renamed, so that no later start can
        take the directory for that of a new run.
    """
    damage: dict[int, CheckpointError] = {}
    # The first process's list is everyone's: file systems may show the others an older state.
    count = of_first_process(len(steps := complete(directory)))
    for index in reversed(range(count)):
        step = of_first_process(steps[index] if index < len(steps) else -1)
        try:
            check(directory / str(step))
        except CheckpointError as error:
            damage[step] = error
            continue
        for bad, found_there in damage.items():
            _pass_over(directory / str(bad), found_there, set_aside)
        _name_unfinished(directory, step)
        return step
    if damage:
        raise CheckpointError(
            f"{directory} has no good checkpoint: " + "; ".join(f"step {step}: {damage[step]}" for step in damage)
        )
    _name_unfinished(directory, -1)
    return None


def _name_unfinished(directory: Any, step: int) -> None:
    """Prints which steps after `step` do not count because their save was never finished, or lost its manifest."""
    for number, done in found(epath.Path(directory)):
        if not done and number > step:
            screen.show(f"step {number} in {directory} does not count: it has no {MANIFEST}")


def _pass_over(path: Any, damage: CheckpointError, set_aside: bool) -> None:
    line, error = f"step {path.name} is damaged and passed over: {damage}", None
    try:
        if set_aside and jax.process_index() == 0:
            kept = files.aside(path)
            path.rename(kept)
            line += f"; kept as {kept}"
    except OSError as caught:
        error = caught
    raise_together(error, f"renaming {path}")
    screen.show(line)
    if jax.process_index() != 0:
        logging.warning("%s", line)  # the screen is the first process's, but the damage may be known here only


def selected(directory: Any) -> int | None:
    """The step that model selection chose (`SELECTED`), whether its checkpoint is there or not; None without a choice.

    Raises:
      CheckpointError: the file does not say it.
    """
    path = epath.Path(directory) / SELECTED
    if not path.exists():
        return None
    try:
        step = json.loads(path.read_text())["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step = None
    if type(step) is not int:
        raise CheckpointError(
            f'{path} is damaged: it is to say {{"step": N}}, where N stands under "selected" in the summary.json of a '
            "finished stage; without the file the newest checkpoint is used"
        )
    return step


def selected_good(directory: Any) -> int | None:
    """The step that model selection chose, all of whose files are as they were written; None without a choice.

    Raises:
      CheckpointError: it is damaged or missing, and no other stands for it; or the choice is damaged.
    """
    error, step = None, None
    try:
        step = selected(directory)
    except CheckpointError as caught:
        error = caught
    raise_together(error, f"reading which step of {directory} is selected")
    # The first process's is everyone's: file systems may show the others an older state.
    step = of_first_process(-1 if step is None else step)
    if step < 0:
        return None
    path = epath.Path(directory)
    try:
        check(path / str(step))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; model selection chose this step, and no other is taken for it; without {path / SELECTED} the "
            "newest checkpoint is used"
        ) from None
    return step


def select(directory: Any, step: int | None) -> None:
    """Says which step model selection has chosen so far, on the first process; None: none."""
    path = epath.Path(directory) / SELECTED
    if jax.process_index() != 0:
        return
    if step is not None:
        files.write_json(path, {"step": step})
    elif path.exists():
        path.unlink()


def delete_old(directory: Any, keep: int, step: int, keep_every: int = 0) -> None:
    """Deletes steps beyond `keep` (0 keeps all), and older ones never finished.

    Never `step`, the selected one or, if `keep_every` is above 0, a multiple of it.
    """
    kept = (step, selected(directory))
    all_steps = found(directory)
    done_steps = [number for number, done in all_steps if done]
    surplus = done_steps[:-keep] if keep else []
    for number, done in all_steps:
        old = directory / str(number)
        if not done and number < step:
            old.rmtree()
        elif done and number in surplus and number not in kept and not (keep_every and number % keep_every == 0):
            (old / MANIFEST).unlink()  # first, so that an interrupted deletion leaves nothing that counts
            old.rmtree()


def raise_together(error: Exception | None, doing: str) -> None:
    """Raises `error`; with several processes all raise if one does, so that none is left waiting. Also a barrier."""
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            failed = np.flatnonzero(multihost_utils.process_allgather(np.array(error is not None)))
        if error is None and failed.size:
            raise ElsewhereError(f"{doing} failed on process {failed.tolist()}; its log has the cause")
    if error is not None:
        raise error


def of_first_process(value: int) -> int:
    """The first process's value, on all."""
    if jax.process_count() == 1:
        return value
    with jax.transfer_guard("allow"):
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
