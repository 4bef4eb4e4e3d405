"""`python -m tests.chaos damage`: checkpoints that are damaged at random."""

import contextlib
import pathlib
import random
from collections.abc import Callable
from typing import Any

from tests.chaos_runs import STEPS, start


def damage(places: int, seed: int, folder: pathlib.Path) -> list[str]:
    """Damages the newest checkpoint of a finished run; returns where that was not seen."""
    from ernie_m_jax.checkpoint import saved_steps
    from ernie_m_jax.checkpoint.manifest import CheckpointError

    done = start(folder / "run")
    if done.returncode:
        raise SystemExit(f"the run failed: {done.stderr[-2000:]}")
    checkpoints = folder / "run" / "stage2" / "checkpoints"
    rng, wrong, seen = random.Random(seed), [], dict.fromkeys(DAMAGES, 0)
    files = [path for path in sorted((checkpoints / str(STEPS)).rglob("*")) if path.is_file()]
    for number in range(places):
        kind = list(DAMAGES)[number % 10 if number % 10 < len(DAMAGES) else 0]  # seven in ten are bits
        path = rng.choice(files)
        content = path.read_bytes()
        DAMAGES[kind](path, content, rng)
        try:
            with contextlib.redirect_stdout(None):
                taken = saved_steps.newest_good(epath_of(checkpoints), set_aside=False)
        except CheckpointError:
            taken = None
        finally:
            path.write_bytes(content)
        changed = kind != "cut" or content
        if taken == STEPS and changed:
            wrong.append(f"{kind} {path.relative_to(checkpoints)} was not seen")
        seen[kind] += taken != STEPS
    print(f"{places} damages of {len(files)} files: seen {seen}; {len(wrong)} not seen", flush=True)
    if saved_steps.newest_good(epath_of(checkpoints), set_aside=False) != STEPS:
        wrong.append("the repaired checkpoint is not good again")
    return wrong


def epath_of(path: pathlib.Path) -> Any:
    """The path as the checkpoints' functions take it."""
    from etils import epath

    return epath.Path(path)


def _flip(path: pathlib.Path, content: bytes, rng: random.Random) -> None:
    if not content:
        path.write_bytes(b"x")
        return
    at = rng.randrange(len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])


DAMAGES: dict[str, Callable[[pathlib.Path, bytes, random.Random], None]] = {
    "flipped": _flip,
    "cut": lambda path, content, rng: path.write_bytes(content[: rng.randrange(max(len(content), 1))]),
    "missing": lambda path, content, rng: path.unlink(),
    "longer": lambda path, content, rng: path.write_bytes(content + b"\0"),
}
