"""A process of a run that kills itself or another one in a moment of its choice, or writes down how long they last.

    python -m tests.chaos_child PLAN ARGUMENTS     PLAN: JSON of `Plan`; ARGUMENTS: of the command

A moment lasts from one call of the product to another. The kill comes so many seconds after it has begun, and at its
end at the latest: so every kill is within the moment that it is counted for. The waiting is done by a process beside
this one, since the code that is to be killed may hold Python's lock.
"""

import atexit
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ANY = "any instant"


@dataclasses.dataclass(frozen=True)
class Moment:
    """What lasts from `begins` to `ends`.

    Attributes:
      begins: "MODULE:NAME", a function or method, whose call begins it; "MODULE:NAME return": whose end does.
      ends: what ends it; empty: the end of that call.
      counts: whether a call with these arguments is one of the moment's.
    """

    begins: str
    ends: str = ""
    counts: Callable[..., bool] = lambda *given, **keys: True


def _surplus(directory: Any, keep: int, *rest: Any) -> bool:
    """Whether the deletion of old steps has any to delete."""
    return sum(path.name.isdecimal() for path in directory.iterdir()) > keep


MOMENTS = {
    "tokenizer training": Moment("ernie_m_jax.tokenizer:train"),
    "compilation": Moment("ernie_m_jax.training.loop:_Loop.compile"),
    "step": Moment("ernie_m_jax.training.loop:_Loop.step"),
    "save": Moment(
        "ernie_m_jax.checkpoint.checkpoints:Checkpoints.save", "ernie_m_jax.checkpoint.saved_steps:delete_old"
    ),
    "deletion of old steps": Moment("ernie_m_jax.checkpoint.saved_steps:delete_old", counts=_surplus),
    "evaluation": Moment("ernie_m_jax.evaluation.runner:Evaluations.run"),
    "selecting evaluation": Moment(
        "ernie_m_jax.evaluation.runner:Evaluations.run", counts=lambda _, name, *rest: name == "dev"
    ),
    "prediction files": Moment(
        "ernie_m_jax.reporting.files:write_text", counts=lambda path, *rest: path.parent.name.endswith("-predictions")
    ),
    "writing of selected.json": Moment(
        "ernie_m_jax.checkpoint.saved_steps:select", counts=lambda directory, step: step is not None
    ),
    "stage change": Moment("ernie_m_jax.training.run:run_stage return", "ernie_m_jax.training.loop:_Loop.step"),
    "joined": Moment("ernie_m_jax.lifeline:start return"),  # from there on several processes know of one another
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the process is to do.

    Attributes:
      moment: in which a process is killed; `ANY`: counted from the start of this one.
      number: of the moment's occurrences, from 1.
      delay: seconds.
      victim: process id; 0: this process.
      record: file for the seconds of all occurrences, where nothing is killed.
    """

    moment: str = ""
    number: int = 1
    delay: float = 0.0
    victim: int = 0
    record: str = ""


class Killer:
    """Kills a process a while after it is told to, or at once."""

    def __init__(self, plan: Plan):
        self._victim, self._delay, self._begun = plan.victim or os.getpid(), plan.delay, False
        waits = f"read seconds && sleep $seconds && kill -9 {self._victim}"
        quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True}
        self._waiting: Any = subprocess.Popen(["sh", "-c", waits], **quiet)  # type: ignore[call-overload]
        atexit.register(self._waiting.kill)

    def begin(self) -> None:
        """The moment begins."""
        if not self._begun:
            self._begun = True
            self._waiting.stdin.write(f"{self._delay:.6f}\n")
            self._waiting.stdin.flush()

    def end(self) -> None:
        """The moment ends: it is time now."""
        if self._begun:
            os.kill(self._victim, signal.SIGKILL)


class Recorder:
    """Keeps how long each occurrence of each moment took."""

    def __init__(self, path: str):
        self._path, self._open = path, {}
        self._seconds: dict[str, list[float]] = {}

    def begin(self, moment: str) -> None:
        """An occurrence begins."""
        self._open[moment] = time.monotonic()

    def end(self, moment: str) -> None:
        """It ends; kept on disk at once, since the process may end without a word."""
        if (begun := self._open.pop(moment, None)) is not None:
            self._seconds.setdefault(moment, []).append(time.monotonic() - begun)
            pathlib.Path(self._path).write_text(json.dumps(self._seconds))


def watch(moment: Moment, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Has the product call `begin` and `end` when a moment does."""
    around(moment.begins, begin, moment.counts, end if not moment.ends and not after(moment.begins) else None)
    if moment.ends:
        around(moment.ends, end, lambda *given, **keys: True, None)


def after(place: str) -> bool:
    """Whether the end of a call is meant."""
    return place.endswith(" return")


def around(place: str, act: Callable[[], None], counts: Callable[..., bool], last: Callable[[], None] | None) -> None:
    """Has the product call `act` before or after a call as `place` says, and `last` after it."""
    owner, name = found(place)
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*given: Any, **keys: Any) -> Any:
        counted = counts(*given, **keys)
        if counted and not after(place):
            act()
        try:
            return original(*given, **keys)
        finally:
            if counted and after(place):
                act()
            if counted and last is not None:
                last()

    setattr(owner, name, wrapped)


def found(place: str) -> tuple[Any, str]:
    """Where a function stands, and its name there."""
    module, _, name = place.removesuffix(" return").partition(":")
    *path, name = name.split(".")
    return functools.reduce(getattr, path, importlib.import_module(module)), name


def follow(plan: Plan) -> None:
    """Prepares what the plan says, but for a kill at any instant, for which `main` does not wait so long."""
    if plan.record:
        recorder = Recorder(plan.record)
        for name, moment in MOMENTS.items():
            watch(moment, functools.partial(recorder.begin, name), functools.partial(recorder.end, name))
    elif plan.moment != ANY:
        killer, calls = Killer(plan), 0

        def begin() -> None:
            nonlocal calls
            calls += 1
            if calls == plan.number:
                killer.begin()

        watch(MOMENTS[plan.moment], begin, killer.end)


def main() -> None:
    """Runs the command under a plan. A kill at any instant may come while it is imported."""
    plan, *arguments = sys.argv[1:]
    made = Plan(**json.loads(plan))
    if made.moment == ANY:
        Killer(made).begin()
    product = importlib.import_module("ernie_m_jax.main")  # before what it imports: it sets what that reads
    follow(made)
    sys.argv = ["ernie-m-jax", *arguments]
    product.cli()


if __name__ == "__main__":
    main()
