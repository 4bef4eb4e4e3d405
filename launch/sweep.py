r"""Every combination of a grid's values with every seed, each a run of `python -m ernie_m_jax.main`.

    python -m launch.sweep --config=configs/finetune/xnli.py:size=base --workdir=runs/xnli-sweep --seeds=0,1,2,3,4 \
        --grid config.stages.finetune.learning_rate=3e-5,5e-5 --config.train.patience=3
    python -m launch.sweep --workdir=runs/xnli-sweep --report   shows what is done

A run is WORKDIR/learning_rate=3e-05,seed=0 with its log beside it; WORKDIR/sweep.json says how far each is. The same
command goes on: what is done is not run again, what was interrupted resumes, what failed is tried again. Seeds and
values may be added. SIGTERM and SIGINT are passed on to the runs, which save. The combination that is best on dev
(`config.train.select`, mean over the seeds) is marked, and its numbers on test are printed.

A work directory may come from anyone: the config file that its sweep.json names is executed only if --config names it.
With --jobs=N the runs at a time divide the CPU cores of this process between them, or the GPUs it sees.
Exit status: 0 all runs are done, 1 some failed, 2 the command is wrong, 42 stopped by SIGTERM (run it again), 130 by
Ctrl-C.
"""

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from ernie_m_jax import config_files
from ernie_m_jax.config import ConfigError
from ernie_m_jax.reporting import screen
from ernie_m_jax.training import preemption
from ernie_m_jax.training import run as runs
from launch import results
from launch.definition import Definition, define, joined
from launch.ledger import Ledger
from launch.ledger import results as read_results
from launch.processes import Process, Share, StopRequest, alone, last_lines, shares

PROGRAM = (sys.executable, "-m", "ernie_m_jax.main")
LOG_LINES = 5  # of a failed run's log that are shown
PAUSE = 0.2  # seconds between looks at the processes


def main(argv: Sequence[str] | None = None, program: Sequence[str] = PROGRAM) -> None:
    """Runs the command; what a user can fix ends in one message on standard error and exit status 2.

    Args:
      argv: defaults to the process's arguments.
      program: what each run is started with.
    """
    rest, settings = config_files.split(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(rest)
    jax.config.update("jax_platforms", "cpu")  # the devices are the runs'
    try:
        sys.exit(command(arguments, settings, program))
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The flags, but for `--config.KEY=VALUE`."""
    made = argparse.ArgumentParser(
        prog="python -m launch.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.KEY=VALUE sets a key for every run.",
        allow_abbrev=False,
    )
    made.add_argument("--config", help="config file of every run; only --report goes without it")
    made.add_argument("--workdir", required=True, help="directory of the sweep")
    made.add_argument("--seeds", help="comma-separated, default: the config's own; each combination is run with each")
    grid = "may be repeated; commas divide values, so no value can hold one"
    made.add_argument("--grid", action="append", default=[], metavar="config.KEY=VALUE,VALUE", help=grid)
    made.add_argument("--jobs", type=int, default=1, help="runs at a time")
    made.add_argument("--dry_run", action="store_true", help="print the commands and run nothing")
    made.add_argument("--report", action="store_true", help="show what sweep.json and the runs say; runs nothing")
    return made


def command(arguments: argparse.Namespace, settings: Sequence[str], program: Sequence[str]) -> int:
    """Does what the flags say; returns the exit status."""
    workdir = runs.local(arguments.workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is a file; it must be a directory or a new name")
    if arguments.report:
        report(Ledger(workdir, None))
        return 0
    if not arguments.config:
        raise ConfigError(_without_config(workdir))
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs={arguments.jobs}: must be at least 1")
    seeds = None if arguments.seeds is None else _seeds(arguments.seeds)
    defined = functools.partial(define, arguments.config, settings, arguments.grid, seeds)
    given = defined()
    ledger = Ledger(workdir, given)
    commands = {
        run.name: [
            *program,
            f"--config={ledger.definition.config}",
            f"--workdir={workdir / run.name}",
            *ledger.definition.settings,
            *run.settings,
            f"--config.seed={run.seed}",
        ]
        for run in ledger.definition.runs()
    }
    if arguments.dry_run:
        for name, line in commands.items():
            screen.show(f"{ledger.runs[name]['status']}: {shlex.join(line)}")
        return 0
    with alone(workdir / "sweep.lock"):
        ledger = Ledger(workdir, given)  # another sweep may have ended since
        stopped = run_all(ledger, commands, shares(arguments.jobs), defined)
    if stopped is not None:
        left = len(ledger.of_status("waiting"))
        print(f"interrupted, {left} of {len(ledger.runs)} runs left; the same command goes on", file=sys.stderr)
        return preemption.status(stopped)
    report(ledger)
    failed = ledger.of_status("failed")
    for name in failed:
        print(_failure(ledger, name), file=sys.stderr)
    return 1 if failed else 0


def _without_config(workdir: Path) -> str:
    """What to say where --config is missing: the command that means the sweep there."""
    line = shlex.join([f"--workdir={workdir}", *Ledger(workdir, None).definition.arguments])
    shown = "".join(one if one.isprintable() else "?" for one in line)  # it must not hide a part of itself
    return (
        f"--config=FILE is missing: it is executed, and {workdir} may come from anyone. If you trust it, go on with "
        f"python -m launch.sweep {shown}"
    )


def run_all(
    ledger: Ledger, commands: dict[str, list[str]], parts: Sequence[Share], defined: Callable[[], Definition]
) -> int | None:
    """Runs what is not done, as many at a time as there are parts of the machine; returns the signal that stopped it.

    Each run reads the config file when it starts, so `defined`, what the command line means now, is compared first.
    """
    waiting = ledger.of_status("waiting", "running", "failed")
    if done := len(ledger.runs) - len(waiting):
        screen.show(f"{done} of {len(ledger.runs)} runs are done already")
    for name in waiting:
        ledger.runs[name] |= {"status": "waiting", "command": commands[name], "exit": None}
    ledger.write()
    active: dict[int, tuple[str, Process]] = {}
    with StopRequest() as stop:
        try:
            while active or (waiting and not stop.made):
                for slot, part in enumerate(parts):
                    if slot not in active and waiting and not stop.made:
                        joined(ledger.definition, defined(), str(ledger.workdir))
                        name = waiting.pop(0)
                        active[slot] = name, Process(commands[name], _log(ledger, name), part)
                        _begin(ledger, *active[slot], len(waiting), first=True)
                time.sleep(PAUSE)
                _look(ledger, active, stop, len(waiting))
        except Exception:
            _end_all(active)
            raise
    return stop.signal


def _look(ledger: Ledger, active: dict[int, tuple[str, Process]], stop: StopRequest, waiting: int) -> None:
    """Passes a request to stop on, starts what had to wait, and takes down and out what has ended."""
    for slot, (name, process) in list(active.items()):
        if stop.made:
            process.stop()
        begun = ledger.runs[name]["status"] == "running"
        if not begun and not stop.made:
            _begin(ledger, name, process, waiting)
        elif not begun or process.poll() is not None:
            del active[slot]
            _end(ledger, name, process, stop.made, waiting + len(active))


def _end_all(active: dict[int, tuple[str, Process]]) -> None:
    """The sweep cannot go on: none of its runs is left running without it."""
    started = [(name, process) for name, process in active.values() if process.pid is not None]
    for _, process in started:
        process.stop()
    if started:
        names = ", ".join(name for name, _ in started)
        print(f"the sweep cannot go on; its runs are asked to save and awaited: {names}", file=sys.stderr)
    for _, process in started:
        process.wait()


def _begin(ledger: Ledger, name: str, process: Process, left: int, first: bool = False) -> None:
    """Starts a run, or says that another process still has it."""
    if process.begin():
        ledger.runs[name] |= {"status": "running", "pid": process.pid}
        ledger.write()
        screen.show(f"{name}: started, {left} more to start")
    elif first:
        pid = ledger.runs[name]["pid"]
        screen.show(f"{name}: process {pid}, which an earlier sweep left, still runs it; waiting for it to end")


def _end(ledger: Ledger, name: str, process: Process, stopped: bool, left: int) -> None:
    """Takes down how a run ended; nothing of one that never began."""
    run, status = ledger.runs[name], process.poll()
    if status is None:
        return
    run["exit"] = status
    run["seconds"] += process.seconds
    run["status"] = "waiting" if stopped and status else "failed"
    if status == 0 and (found := read_results(ledger.workdir / name)) is not None:
        run |= found | {"status": "done"}
    ledger.write()
    ends = {
        "done": f"{results.score(run, ledger.definition.select)}, {run['seconds']:.0f} s",
        "failed": f"failed, {_status(status)}",
        "waiting": "interrupted",
    }
    screen.show(f"{name}: {ends[run['status']]}; {left} left")


def report(ledger: Ledger) -> None:
    """Shows the table and the best combination's numbers, and writes `sweep.csv`."""
    screen.show(f"{ledger.workdir}:", results.table(ledger), *results.best_lines(ledger))
    results.write_csv(ledger)
    if left := ledger.of_status("waiting", "running"):
        screen.show(f"{len(left)} of {len(ledger.runs)} runs are not done")
    if failed := ledger.of_status("failed"):
        screen.show(f"{len(failed)} of {len(ledger.runs)} runs failed: {', '.join(failed)}")


def _failure(ledger: Ledger, name: str) -> str:
    """A failed run in some lines: how it ended, and how its log does."""
    log, status = _log(ledger, name), _status(ledger.runs[name]["exit"])
    return "\n".join([f"{name} failed, {status}; {log} ends:", *(f"  {line}" for line in last_lines(log, LOG_LINES))])


def _status(status: int) -> str:
    if status == 0:
        return "exit status 0 but without a whole summary.json"
    if status > 0:
        return f"exit status {status}"
    return f"ended by signal {-status}{'; was there memory enough for --jobs?' if status == -9 else ''}"


def _log(ledger: Ledger, name: str) -> Path:
    return ledger.workdir / f"{name}.log"


def _seeds(text: str) -> list[int]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise ConfigError(f"--seeds={text}: must be numbers from 0, joined by commas")
    return list(map(int, numbers))


if __name__ == "__main__":
    main()
