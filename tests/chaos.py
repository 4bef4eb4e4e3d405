"""Chaos: runs that are killed again and again, and checkpoints that are damaged at random. `make chaos`.

    python -m tests.chaos kills --rounds 10        a pre-training run: SIGKILL in every kind of moment
    python -m tests.chaos processes --rounds 5     one of two processes
    python -m tests.chaos finetuning --rounds 2    fine-tuning with model selection
    python -m tests.chaos damage --places 200      one flipped bit, a cut file, a missing file, in a finished run

A killed run is started again until the round has its kills, then runs to its end. Parameters, optimizer and data
streams of every checkpoint that it keeps, metrics (but for times), summaries, and the files that evaluations write must
then be those of an undisturbed run to the bit. `damage` counts a checkpoint that is taken as good although a bit of it
is not. Exit status: 0 all as it should be; 1 something was not, and it is named.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from tests.chaos_damage import damage
from tests.chaos_finetuning import finetuning
from tests.chaos_kills import kills
from tests.chaos_processes import processes

KINDS = {"kills": (kills, 10), "processes": (processes, 5), "finetuning": (finetuning, 2)}  # each, and its rounds


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*KINDS, "damage"))
    parser.add_argument("--rounds", type=int, help="default: as above")
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="file for what was found, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        if arguments.what == "damage":
            wrong = damage(arguments.places, arguments.seed, pathlib.Path(folder))
        else:
            kind, rounds = KINDS[arguments.what]
            report = kind(arguments.rounds or rounds, arguments.seed, pathlib.Path(folder))
            wrong = report.wrong
            if arguments.output:
                arguments.output.write_text(json.dumps(report.summary(), indent=2) + "\n")
    print("\n".join(wrong) or "all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
