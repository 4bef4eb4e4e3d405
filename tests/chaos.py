"""Chaos: a run that is killed again and again, and checkpoints that are damaged at random. `make chaos`.

    python -m tests.chaos kills --rounds 10        SIGKILL at random instants of every kind of moment
    python -m tests.chaos damage --places 200      one flipped bit, a cut file, a missing file, in a finished run

Each round of `kills` is one run: a small one of two stages, which trains its tokenizer, evaluates, saves and deletes.
It is killed once in each kind of moment, in the order in which they come, and three times at any instant. Then it runs
to its end, and parameters, optimizer, data streams, metrics (but for times) and evaluation files must be those of an
undisturbed run to the bit. `damage` counts a checkpoint that is taken as good although a bit of it is not.
Exit status: 0 all as it should be; 1 something was not, and it is named.
"""

import argparse
import pathlib
import sys
import tempfile

from tests.chaos_damage import damage
from tests.chaos_kills import kills
from tests.chaos_runs import child


def main() -> int:
    """Runs what the command line asks for."""
    if sys.argv[1:2] == ["child"]:
        end = sys.argv.index("--")
        moment, number, delay = sys.argv[2:end]
        child(moment, int(number), float(delay), sys.argv[end + 1 :])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "damage"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        if arguments.what == "kills":
            wrong = kills(arguments.rounds, arguments.seed, pathlib.Path(folder))
        else:
            wrong = damage(arguments.places, arguments.seed, pathlib.Path(folder))
    print("\n".join(wrong) or "all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
