"""What devices say to one another in a compiled step: a program in, collectives by kind and bytes out."""

import dataclasses
import re
from collections.abc import Mapping

from ernie_m_jax.training.program import Amount, Instruction, Program, shape_of, size_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """The collectives of a step by kind, and how many loops of them have an unknown number of rounds, counted once.

    The size of one is that of the arrays it works on: what a device gives in; of an all-gather, what it gets.
    """

    kinds: Mapping[str, Amount]
    unknown_loops: int


def collectives(program: Program, devices: int) -> Collectives:
    """Counts the collectives of a compiled program (`Program.tally`).

    Args:
      program: what each device runs.
      devices: how many run it; the size of a collective's group where the program does not say it.
    """

    def measure(one: Instruction, shapes: Mapping[str, str]) -> tuple[str, float] | None:
        kind = one.opcode.removesuffix("-start")
        if kind not in KINDS:
            return None
        size = sum(size_of(shape_of(operand, shapes)) for operand in one.operands)
        return kind, size * (_group(one.line, devices) if kind == "all-gather" else 1)

    return Collectives(*program.tally(measure))


def _group(line: str, devices: int) -> int:
    """Devices of a group: {{0,1},{2,3}}, [2,4]<=[8] (groups, devices), or mesh['a'=2,'b'=4] {'b'} (axes)."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(counted[2])
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", meshed[1])}
        group = 1
        for name, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", meshed[2]):
            group *= int(part) if part else sizes[name]
        return group
    return devices
