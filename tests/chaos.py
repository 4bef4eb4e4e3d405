"""Chaos: runs that are killed again and again, directories that are damaged, machines that fail. `make chaos`.

    python -m tests.chaos kills --rounds 10        a pre-training run: SIGKILL in every kind of moment
    python -m tests.chaos processes --rounds 5     one of two processes
    python -m tests.chaos finetuning --rounds 2    fine-tuning with model selection
    python -m tests.chaos damage --places 400      flipped bits, cut and missing files, directories half renamed
    python -m tests.chaos faults [--only NAME]     full disks, read errors, killed workers, data that changes, two runs
    python -m tests.chaos soak --steps 20000       memory and open files over many steps

A killed run is started again until the round has its kills, then runs to its end. Parameters, optimizer and data
streams of every checkpoint that it keeps, metrics (but for times), summaries, and the files that evaluations write must
then be those of an undisturbed run to the bit. `damage` counts a checkpoint that is taken as good although a bit of it
is not. Exit status: 0 all as it should be; 1 something was not, and it is named.
"""

import argparse
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from tests.chaos_damage import damage
from tests.chaos_faults import faults
from tests.chaos_finetuning import finetuning
from tests.chaos_kills import kills
from tests.chaos_processes import processes
from tests.chaos_soak import growing, soak

Found = tuple[dict[str, Any], list[str]]  # what was found, and what of it was not as it should be


def _killed(kind: Callable[..., Any], rounds: int, arguments: argparse.Namespace, folder: pathlib.Path) -> Found:
    report = kind(arguments.rounds or rounds, arguments.seed, folder)
    return report.summary(), report.wrong


def _damaged(arguments: argparse.Namespace, folder: pathlib.Path) -> Found:
    return {}, damage(arguments.places, arguments.seed, folder)


def _faulty(arguments: argparse.Namespace, folder: pathlib.Path) -> Found:
    found = faults(arguments.only, folder)
    return found, [f"{name}: {of['wrong']}" for name, of in found.items() if of["wrong"]]


def _soaked(arguments: argparse.Namespace, folder: pathlib.Path) -> Found:
    found = soak(arguments.steps, folder)
    return found, growing(found)


KINDS: dict[str, Callable[[argparse.Namespace, pathlib.Path], Found]] = {
    "kills": functools.partial(_killed, kills, 10),
    "processes": functools.partial(_killed, processes, 5),
    "finetuning": functools.partial(_killed, finetuning, 2),
    "damage": _damaged,
    "faults": _faulty,
    "soak": _soaked,
}


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--rounds", type=int, help="of kills; default: as above")
    parser.add_argument("--places", type=int, default=400, help="to damage; every second is a flipped bit")
    parser.add_argument("--only", default="", help="one fault")
    parser.add_argument("--steps", type=int, default=20_000, help="of the soak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="file for what was found, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        found, wrong = KINDS[arguments.what](arguments, pathlib.Path(folder))
    if arguments.output:
        arguments.output.write_text(json.dumps(found | {"wrong": wrong}, indent=2) + "\n")
    print("\n".join(wrong) or "all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
