"""`python -m tests.chaos faults`: what befalls the machine around a run, in real processes.

Each fault is brought upon a small run; what must happen is in the table: an exit status and what is said, or that
nothing is noticed. Then the run is started without the fault, and must end with the bits of one never disturbed.

    python -m tests.chaos_faults NAME WORKDIR DATA -- ARGUMENTS      the command, with the fault within its process
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos_disturbances import (
    backwards,
    before_save,
    cut,
    extend,
    fill,
    immutable,
    kill_worker,
    metrics_full,
    pause,
    read_only,
    remove,
    small_disk,
    stop,
    unreadable,
    unreadable_data,
)
from tests.command import ROOT, command

STEPS = 16  # of a run
LANGUAGES = ("en", "de", "ru")
RUN = (
    "--config=tests/several.py",
    "--config.evals={}",
    "--config.stages.one.weights={'mmlm': 1.0}",
    f"--config.stages.one.steps={STEPS}",
    "--config.train.save_every=4",
    "--config.train.max_to_keep=2",
)


class Fault(NamedTuple):
    """One of them.

    Attributes:
      status: exit status of the run that it befalls.
      said: what the line on standard error, or for status 0 the output, must match.
      inside: done in the run's own process before it starts; given the work directory and the data.
      around: a context on this machine around a run that was stopped after its first checkpoint.
      still: what a start says while the data is still as the fault left it; "" where it is as before.
      arguments: beside those of every run.
    """

    status: int
    said: str
    inside: Callable[[Path, Path], None] | None = None
    around: Callable[[Path], contextlib.AbstractContextManager[object]] | None = None
    still: str = ""
    arguments: tuple[str, ...] = ()


FAILED = r"saving step 8 to \S+/8 failed, earlier checkpoints are intact: .*"
WORKER = r"config\.data\.workers: a process that makes batches was ended from outside"
PASSED_OVER = r"step \d+ is damaged and passed over: .*Input/output error.*; kept as \S+\.damaged"
CHANGED = "the data has changed since|invalid UTF-8"
FAULTS = {
    "full disk": Fault(
        2, FAILED + "(No space left|RESOURCE_EXHAUSTED)", lambda place, _: before_save(lambda: fill(place)), small_disk
    ),
    "full disk for metrics": Fault(2, r"No space left on device: '\S+/metrics\.jsonl'", metrics_full("lines")),
    "full disk for TensorBoard": Fault(2, r"No space left on device: '\S+/tensorboard'", metrics_full("events")),
    "read-only directory": Fault(2, r"Read-only file system: '\S+/training\.lock'", None, read_only),
    "read-only checkpoints": Fault(2, FAILED + "Operation not permitted", None, immutable),
    "EIO on reading a checkpoint": Fault(0, PASSED_OVER, unreadable, contextlib.nullcontext),
    "EIO on reading data": Fault(2, r"\w\w\.txt: cannot be read: .*Input/output error", unreadable_data),
    "clock going backwards": Fault(0, "", backwards),
    "killed worker": Fault(2, WORKER, kill_worker, arguments=("--config.data.workers=2",)),
    "cut data": Fault(2, r"\w\w\.txt: it is shorter than when it was opened", cut, still=CHANGED),
    "removed data": Fault(0, "", remove, still="no such file"),
    "longer data": Fault(0, "", extend),
}
TWO = "two runs at once"
NAMES = (*FAULTS, TWO)


class Place:
    """What a run is made in: a work directory and data of its own; the tokenizer is everyone's."""

    def __init__(self, folder: Path, tokenizer: Path):
        self.workdir, self.data = folder / "run", folder / "data"
        self.data.mkdir(parents=True)
        self.put_data()
        self._arguments = (
            *RUN,
            f"--workdir={self.workdir}",
            f"--config.tokenizer.path={tokenizer}",
            f"--config.data.monolingual.diagnostics.path={self.data}/{{language}}.txt",
        )

    def put_data(self) -> None:
        """The bundled messages, a file per language."""
        from ernie_m_jax.data import readers, records

        table = readers.table(records._resolve("corpus:diagnostics/mono"))
        for language in LANGUAGES:
            texts = table[language]
            lines = [texts[index] for index in range(len(texts))]
            (self.data / f"{language}.txt").write_text("\n".join(filter(None, lines)) + "\n", "utf-8")

    def begin(self, inside: str = "", more: Iterable[str] = ()) -> subprocess.Popen[str]:
        """Starts the command, with something done inside its process."""
        words = command(*self._arguments, *more)
        if inside:
            told = [inside, str(self.workdir), str(self.data), "--"]
            words = [sys.executable, "-m", "tests.chaos_faults", *told, *words[3:]]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, inside: str = "", more: Iterable[str] = ()) -> tuple[int, str, str]:
        """The command to its end: exit status, output and what is said on standard error."""
        return ended(self.begin(inside, more))


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """A process's exit status, output and what it said on standard error."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def faults(only: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Brings the faults upon runs, prints a line for each; what was "wrong" of each, "" if nothing."""
    from ernie_m_jax import config as configs
    from ernie_m_jax import tokenizer
    from ernie_m_jax.data import mixture
    from tests import selecting
    from tests.conftest import VOCAB_SIZE, small_tree

    tokenizer.train(mixture.Sources(configs.resolve(small_tree())).texts(), VOCAB_SIZE, folder / "tokenizer")
    undisturbed = Place(folder / "undisturbed", folder / "tokenizer")
    if (done := undisturbed.run())[0]:
        raise SystemExit(f"the undisturbed run failed: {done[2][-2000:]}")
    wanted, found = selecting.everything(undisturbed.workdir / "one"), {}
    for name in [name for name in NAMES if only in ("", name)]:
        begun, place = time.monotonic(), Place(folder / name.replace(" ", "_"), folder / "tokenizer")
        try:
            wrong, said = two_runs(place) if name == TWO else befall(name, place)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            found[name] = {"not run": str(error), "wrong": ""}
            print(f"{name}: not run, it needs root, mount and chattr: {error}", flush=True)
            continue
        if not wrong:
            try:
                selecting.assert_same(place.workdir / "one", wanted)
            except (AssertionError, OSError) as error:
                wrong = f"other bits than the undisturbed run's: {str(error)[:500]}"
        found[name] = {"said": said, "seconds": round(time.monotonic() - begun, 1), "wrong": wrong}
        print(f"{name}: {wrong or 'as it should be'} ({found[name]['seconds']} s): {said}", flush=True)
    return found


def befall(name: str, place: Place) -> tuple[str, str]:
    """A run with a fault and its restart without; what is wrong, and what the first one said."""
    fault = FAULTS[name]
    if fault.around and (stopped := place.run("stop"))[0] != 42:
        return f"the run to disturb ended with {stopped[0]}: {stopped[2][-500:]}", ""
    with fault.around(place.workdir) if fault.around else contextlib.nullcontext():
        status, out, err = place.run(name if fault.inside else "", fault.arguments)
    text = err if fault.status else out
    matches = [line for line in text.splitlines() if re.search(fault.said, line)]
    said = matches[0] if matches and fault.said else ""
    if status != fault.status or not matches or "Traceback" in err or (status and not said.startswith("error: ")):
        return f"exit status {status}, not {fault.status} with {fault.said!r}: {err[-1500:]}", said
    if fault.still:
        status, _, err = place.run()
        if status != 2 or not re.search(fault.still, err):
            return f"a start on what is left: exit status {status}, not 2 with {fault.still!r}: {err[-1500:]}", said
        place.put_data()
    if (done := place.run())[0]:
        return f"the start without the fault: exit status {done[0]}: {done[2][-1500:]}", said
    return "", said


def two_runs(place: Place) -> tuple[str, str]:
    """A run in whose work directory another is started; what is wrong, and what the second said."""
    first = place.begin("pause")
    until = time.monotonic() + 120
    while not (place.workdir / "one" / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    status, _, err = place.run()
    done = ended(first)
    said = err.strip()
    if status != 2 or not re.fullmatch(r"error: \S+: another run is training in it \(process \d+ on .*\); .*", said):
        return f"the second ended with {status}: {err[-1500:]}", said
    return (f"the first ended with {done[0]}: {done[2][-1500:]}" if done[0] else ""), said


INSIDE = {name: fault.inside for name, fault in FAULTS.items() if fault.inside} | {"stop": stop, "pause": pause}

if __name__ == "__main__":
    name, workdir, data, _, *arguments = sys.argv[1:]
    INSIDE[name](Path(workdir), Path(data))
    sys.argv = ["ernie-m-jax", *arguments]
    from ernie_m_jax import main

    main.cli()
