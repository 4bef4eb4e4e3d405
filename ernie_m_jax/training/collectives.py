"""What devices say to one another in a compiled step: the program's text in, collectives by kind and bytes out.

The text is XLA's optimised HLO (`compiled.as_text()`), one program that every device runs. An instruction is a line
`%name = shape opcode(%operand, ...), attributes`; computations call one another by attributes.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}


@dataclasses.dataclass
class Traffic:
    """Collectives of one kind in a step.

    Attributes:
      count: how many are run.
      bytes: size of the arrays they work on: what a device gives in; of an all-gather, what it gets.
      at_most: the same if every conditional takes its most expensive branch; the other two count the cheapest.
    """

    count: float = 0
    bytes: float = 0
    at_most: float = 0


@dataclasses.dataclass(frozen=True)
class Collectives:
    """The collectives of a step by kind, and how many loops of them have an unknown number of rounds, counted once."""

    kinds: Mapping[str, Traffic]
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    line: str


_ENDS = ("async-update", "async-done")  # of a call that "async-start" has begun, and that was counted there
_HEAD = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = ")
_OPCODE = re.compile(r" (?P<opcode>[a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=%?([\w.\-]+)")


def collectives(text: str, devices: int) -> Collectives:
    """Counts the collectives of a compiled program.

    A loop's body counts as often as the loop runs: as its `known_trip_count` says, or else as its condition compares
    the counter with a constant, from 0 in steps of 1, as JAX's loops over a number of rounds do.

    Args:
      text: the program.
      devices: how many run it; the size of a collective's group where the program does not say it.
    """
    program = dict(_computations(text))
    unknown: set[str] = set()

    @functools.cache
    def of(computation: str) -> dict[str, Traffic]:
        total: dict[str, Traffic] = {}
        shapes = {one.name: one.shape for one in program.get(computation, ())}
        for one in program.get(computation, ()):
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                _add(total, {kind: _traffic(one, kind, shapes, devices)})
            elif one.opcode == "while":
                body, condition = (_attribute(one.line, key) for key in ("body", "condition"))
                rounds = _rounds(one.line, program.get(condition, ()))
                if rounds is None and of(body):
                    unknown.add(body)
                _add(total, of(body), 1 if rounds is None else rounds)
                _add(total, of(condition), 1 if rounds is None else rounds + 1)
            elif one.opcode == "conditional":
                _add(total, _cheapest([of(name) for name in _branches(one.line)]))
            elif one.opcode not in _ENDS:  # what a reduction applies has no collectives, a fusion or a call may
                for called in _CALLED.findall(one.line):
                    _add(total, of(called))
        return total

    return Collectives(of("ENTRY"), len(unknown))


def _computations(text: str) -> Iterator[tuple[str, list[_Instruction]]]:
    """Each computation's name, "ENTRY" for the one that is run first, and its instructions."""
    name = ""
    lines: list[_Instruction] = []
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) and " = " not in line.partition("(")[0]:
            name, lines = "ENTRY" if head["entry"] else head["name"], []
        elif line.startswith("}"):
            yield name, lines
        elif instruction := _instruction(line):
            lines.append(instruction)


def _instruction(line: str) -> _Instruction | None:
    head = _HEAD.match(line)
    opcode = head and _OPCODE.search(line, head.end() - 1)
    if not head or not opcode:
        return None
    # An opcode follows a blank, and in a shape a blank stands before no name with a bracket.
    inside = _balanced(line, opcode.end() - 1)
    return _Instruction(
        head["name"], line[head.end() : opcode.start()], opcode["opcode"], tuple(_split(inside)), line[opcode.end() :]
    )


def _balanced(line: str, start: int) -> str:
    """What stands between the bracket at `start` and the one that closes it."""
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if not depth:
            return line[start + 1 : place]
    return line[start + 1 :]


def _split(operands: str) -> list[str]:
    """Operands, `%name` or `shape %name`, each with its shape where it is written."""
    return [part.strip() for part in re.findall(r"[^%]*%[\w.\-]+", operands)]


def _traffic(one: _Instruction, kind: str, shapes: Mapping[str, str], devices: int) -> Traffic:
    size = 0.0
    for operand in one.operands:
        written, _, name = operand.rpartition("%")
        shape = written if _ARRAY.search(written) else shapes.get(name, "")
        size += _size(shape)
    if kind == "all-gather":
        size *= _group(one.line, devices)
    return Traffic(1, size, size)


def _size(shape: str) -> float:
    total = 0.0
    for kind, dimensions in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape)):
        bits = re.search(r"\d+", kind)
        elements = 1
        for dimension in filter(None, dimensions.split(",")):
            elements *= int(dimension)
        total += elements * BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
    return total


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


def _attribute(line: str, key: str) -> str:
    found = re.search(rf"\b{key}=%?([\w.\-]+)", line)
    return found[1] if found else ""


def _branches(line: str) -> list[str]:
    found = []
    for several, one in _BRANCHES.findall(line):
        found += [name.strip().lstrip("%") for name in several.split(",")] if several else [one]
    return found


def _rounds(line: str, condition: Iterable[_Instruction]) -> int | None:
    """How often a loop runs; None where its text does not tell."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
        return int(known[1])
    condition = list(condition)
    constants = {
        one.name: int(value[1])
        for one in condition
        if one.opcode == "constant" and (value := re.match(r"(-?\d+)\)", one.line))
    }
    compared = [one for one in condition if one.opcode == "compare" and "direction=LT" in one.line]
    if len(compared) != 1:
        return None
    return constants.get(compared[0].operands[-1].rpartition("%")[2])


def _cheapest(branches: list[dict[str, Traffic]]) -> dict[str, Traffic]:
    """The collectives of the branch with the fewest bytes, and as `at_most` those of the one with the most."""
    cheapest = min(branches, key=lambda one: sum(traffic.bytes for traffic in one.values()), default={})
    dearest = max(branches, key=lambda one: sum(traffic.at_most for traffic in one.values()), default={})
    none = Traffic()
    return {
        kind: Traffic(cheapest.get(kind, none).count, cheapest.get(kind, none).bytes, dearest.get(kind, none).at_most)
        for kind in {*cheapest, *dearest}
    }


def _add(total: dict[str, Traffic], more: Mapping[str, Traffic], times: int = 1) -> None:
    for kind, traffic in more.items():
        mine = total.setdefault(kind, Traffic())
        mine.count += times * traffic.count
        mine.bytes += times * traffic.bytes
        mine.at_most += times * traffic.at_most
