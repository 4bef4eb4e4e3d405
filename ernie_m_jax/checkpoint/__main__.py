"""The checkpoints of a work directory on the command line.

python -m ernie_m_jax.checkpoint list runs/mine
python -m ernie_m_jax.checkpoint verify s3://bucket/runs/mine

Exit status: 0 nothing is wrong; 2 a checkpoint is damaged, or there is none.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import rich.table
import rich.text

from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint import inspection
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.reporting import screen


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(prog="python -m ernie_m_jax.checkpoint", description=__doc__.splitlines()[0])
    made.add_argument(
        "action",
        choices=("verify", "list"),
        help="verify: read every file of every step and compare it with what was written; list: what there is",
    )
    made.add_argument("workdir", help="a run's work directory, a stage or a converted model; local or a URL")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Does it and returns the exit status."""
    flags = parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed: leave the accelerators to who does
    try:
        with mirrors.mirrored(flags.workdir) as workdir:
            return verify(workdir) if flags.action == "verify" else show(workdir)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show(workdir: Path) -> int:
    """Prints a table of the checkpoints."""
    table = rich.table.Table("stage", title=mirrors.named(str(workdir)))
    for title, justify in (("step", "right"), ("size", "right"), ("age", "right"), ("mesh", "left"), ("", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for one in inspection.listed(workdir):
        mesh = "-" if one.mesh is None else " ".join(f"{axis}={size}" for axis, size in one.mesh.items())
        cells = (one.name, inspection.size_text(one.size), inspection.age_text(one.age), mesh, ", ".join(one.marks))
        table.add_row(*map(rich.text.Text, (one.stage or "-", *cells)))  # names are no markup
    screen.show(table)
    return 0


def verify(workdir: Path) -> int:
    """Prints a line per step; what is wrong is said once more at the end, on standard error."""
    problems = []
    for line, problem in inspection.verified(workdir):
        screen.show(line)
        problems += [problem] if problem else []
    if problems:
        named = mirrors.named("; ".join(problems))
        print(f"error: {mirrors.named(str(workdir))} is not as it was written: {named}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
