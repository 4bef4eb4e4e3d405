"""`python -m tests.chaos damage`: checkpoints that are damaged at random, and by what a crash leaves of a directory.

Of `--places` damages every second is a flipped bit, the others are of each other kind in turn. Each is to be seen, so
that the newest good step is another, or there is none. Then a run is started once on each kind of damage.
"""

import contextlib
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

from tests.chaos_runs import STEPS, differences, observed, start


def damage(places: int, seed: int, folder: pathlib.Path, restarts: bool = True) -> list[str]:
    """Damages the newest checkpoint of a finished run; returns where that was not seen."""
    from ernie_m_jax.checkpoint import saved_steps
    from ernie_m_jax.checkpoint.manifest import CheckpointError

    done = start(folder / "run")
    if done.returncode:
        raise SystemExit(f"the run failed: {done.stderr[-2000:]}")
    checkpoints = folder / "run" / "stage2" / "checkpoints"
    wanted, newest = observed(folder / "run"), checkpoints / str(STEPS)
    rng, wrong, seen = random.Random(seed), [], {kind: [0, 0] for kind in DAMAGES}
    kept = folder / "kept"
    shutil.copytree(newest, kept)
    for number in range(places):
        kind = list(DAMAGES)[0 if number % 2 == 0 else 1 + number // 2 % (len(DAMAGES) - 1)]
        what = DAMAGES[kind](newest, rng)
        try:
            with contextlib.redirect_stdout(None):
                taken = saved_steps.newest_good(epath_of(checkpoints), set_aside=False)
        except CheckpointError:
            taken = None
        if taken == STEPS:
            wrong.append(f"{kind} {what} was not seen")
        seen[kind][0] += 1
        seen[kind][1] += taken != STEPS
        restore_step(checkpoints, kept)
    counts = ", ".join(f"{kind} {noticed} of {done}" for kind, (done, noticed) in seen.items())
    print(f"{places} damages, seen: {counts}; {len(wrong)} not seen", flush=True)
    if saved_steps.newest_good(epath_of(checkpoints), set_aside=False) != STEPS:
        wrong.append("the repaired checkpoint is not good again")
    for kind, damaged in DAMAGES.items() if restarts else ():
        workdir = folder / "again"
        shutil.copytree(folder / "run", workdir)
        for path in (workdir / "summary.json", workdir / "stage2" / "summary.json"):
            path.unlink()
        what = damaged(workdir / "stage2" / "checkpoints" / str(STEPS), rng)
        done = start(workdir)
        if done.returncode or (differ := differences(observed(workdir), wanted)):
            wrong.append(f"{kind} {what}: {done.stderr[-500:] if done.returncode else differ[:5]}")
        said = [line for line in done.stdout.splitlines() if f"step {STEPS} " in line]
        print(f"{kind}: goes on, {len(wanted)} things equal; {said[0] if said else 'no step'}", flush=True)
        shutil.rmtree(workdir)
    return wrong


def restore_step(checkpoints: pathlib.Path, kept: pathlib.Path) -> None:
    """Puts the newest step back as it was."""
    for path in checkpoints.glob(f"{STEPS}*"):
        shutil.rmtree(path)
    shutil.copytree(kept, checkpoints / str(STEPS))


def epath_of(path: pathlib.Path) -> Any:
    """The path as the checkpoints' functions take it."""
    from etils import epath

    return epath.Path(path)


def _files(step: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(step.rglob("*")) if path.is_file()]


def _file(change: Callable[[bytes, random.Random], bytes | None]) -> Callable[[pathlib.Path, random.Random], str]:
    """A damage to one file: its new content, None without any."""

    def damage(step: pathlib.Path, rng: random.Random) -> str:
        path = rng.choice([path for path in _files(step) if path.stat().st_size])
        if (content := change(path.read_bytes(), rng)) is None:
            path.unlink()
        else:
            path.write_bytes(content)
        return str(path.relative_to(step))

    return damage


def _flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def _emptied(step: pathlib.Path, rng: random.Random) -> str:
    """Nothing is left but the directory."""
    shutil.rmtree(step)
    step.mkdir()
    return "all"


def _renamed(step: pathlib.Path, rng: random.Random) -> str:
    """As if the directory were being renamed file by file: a part of them is under another name."""
    other = step.with_name(f"{step.name}.orbax-checkpoint-tmp")
    moved = rng.sample(files := _files(step), rng.randint(1, len(files) - 1))
    for path in moved:
        target = other / path.relative_to(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return f"{len(moved)} of {len(files)} files"


def _renamed_within(step: pathlib.Path, rng: random.Random) -> str:
    """A directory in it has another name."""
    name = rng.choice(["state", "streams"])
    (step / name).rename(step / f"{name}.tmp")
    return name


DAMAGES: dict[str, Callable[[pathlib.Path, random.Random], str]] = {
    "flipped bit": _file(_flipped),
    "cut file": _file(lambda content, rng: content[: rng.randrange(len(content))]),
    "longer file": _file(lambda content, rng: content + b"\0"),
    "missing file": _file(lambda content, rng: None),
    "empty directory": _emptied,
    "half-renamed directory": _renamed,
    "renamed part": _renamed_within,
}
