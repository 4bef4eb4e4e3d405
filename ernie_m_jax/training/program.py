"""A compiled program's text taken apart: computations, instructions, and what a step adds up to.

The text is XLA's optimised HLO (`compiled.as_text()`), one program that every device runs. An instruction is a line
`%name = shape opcode(%operand, ...), attributes`; computations call one another by attributes.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}


@dataclasses.dataclass
class Amount:
    """What a step has of something.

    Attributes:
      count: how many of it are run.
      total: their sizes together, in the unit of what measures them.
      at_most: the same if every conditional takes its most expensive branch; the other two count the cheapest.
    """

    count: float = 0
    total: float = 0
    at_most: float = 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
      name: unique in its program.
      shape: what it makes, as written: "f32[4,8]{1,0}", or several in brackets.
      opcode: "dot", "fusion", "all-reduce-start".
      operands: names of what it takes, after their shapes where the text has them.
      line: what stands behind the opcode.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    line: str


Measure = Callable[[Instruction, Mapping[str, str]], tuple[str, float] | None]

_ENDS = ("async-update", "async-done")  # of a call that "async-start" has begun, and that was counted there
_HEAD = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = ")
_OPCODE = re.compile(r" (?P<opcode>[a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=%?([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# What makes no array of its own: it names one that is there, or is one of the arguments.
VIEWS = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "optimization-barrier")


class Program:
    """A compiled program.

    Args:
      text: as XLA writes it.
    """

    def __init__(self, text: str):
        self._computations = dict(_computations(text))

    def tally(self, measure: Measure) -> tuple[dict[str, Amount], int]:
        """Adds up what a step has, by kind.

        A loop's body counts as often as the loop runs: as its `known_trip_count` says, or else as its condition
        compares the counter with a constant, from 0: in steps of 1, as JAX's loops over a number of rounds do, or of
        the constant that its body plainly adds, as XLA's own that multiply and exchange in turns do.

        Args:
          measure: an instruction and its computation's shapes by name -> its kind and size; None: it has nothing.

        Returns:
          The amounts by kind, and how many loops that have some run an unknown number of rounds, counted once.
        """
        unknown: set[str] = set()

        @functools.cache
        def of(computation: str) -> dict[str, Amount]:
            total: dict[str, Amount] = {}
            lines = self._computations.get(computation, [])
            shapes = {one.name: one.shape for one in lines}
            for one in lines:
                if measured := measure(one, shapes):
                    kind, size = measured
                    _add(total, {kind: Amount(1, size, size)})
                elif one.opcode == "while":
                    body, condition = (_attribute(one.line, key) for key in ("body", "condition"))
                    rounds = _rounds(one.line, *(self._computations.get(name, []) for name in (condition, body)))
                    if rounds is None and of(body):
                        unknown.add(body)
                    _add(total, of(body), 1 if rounds is None else rounds)
                    _add(total, of(condition), 1 if rounds is None else rounds + 1)
                elif one.opcode == "conditional":
                    _add(total, _cheapest([of(name) for name in _branches(one.line)]))
                elif one.opcode not in _ENDS:  # what a reduction applies has nothing, a fusion or a call may
                    for called in _CALLED.findall(one.line):
                        _add(total, of(called))
            return total

        return of("ENTRY"), len(unknown)

    def fused(self, one: Instruction) -> list[Instruction]:
        """The instructions inside a fusion; none of another instruction."""
        if one.opcode != "fusion":
            return []
        return [inner for name in _CALLED.findall(one.line) for inner in self._computations.get(name, [])]

    def largest(self, number: int) -> list[tuple[str, float, str]]:
        """The largest arrays that the program makes, beside its arguments: shape, bytes and what first makes it.

        Of several of one shape the first counts. What is made inside a fusion lies in registers and counts not.
        """
        found: dict[str, tuple[float, str]] = {}
        for computation in self._run():
            lines = self._computations.get(computation, [])
            shapes = {one.name: one.shape for one in lines}
            for one in lines:
                if one.opcode in VIEWS or one.opcode.endswith("-done"):
                    continue
                name = _OP_NAME.search(one.line)
                # What starts an asynchronous operation names what it takes beside what it makes.
                taken = [shape_of(operand, shapes) for operand in one.operands] if one.opcode.endswith("-start") else []
                for kind, dimensions in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", one.shape)):
                    shape = f"{kind}[{dimensions}]"
                    if any(shape in other for other in taken):
                        continue
                    found.setdefault(shape, (size_of(shape), name[1] if name else one.name))
        ordered = sorted(found.items(), key=lambda item: -item[1][0])
        return [(shape, size, name) for shape, (size, name) in ordered[:number]]

    def _run(self) -> list[str]:
        """The computations whose instructions are run one by one: the first, loops' bodies, branches, calls."""
        seen = ["ENTRY"]
        for computation in seen:
            for one in self._computations.get(computation, []):
                called = []
                if one.opcode == "while":
                    called = [_attribute(one.line, "body")]
                elif one.opcode == "conditional":
                    called = _branches(one.line)
                elif one.opcode in ("call", "async-start"):
                    called = _CALLED.findall(one.line)
                seen += [name for name in called if name not in seen]
        return seen


def shape_of(operand: str, shapes: Mapping[str, str]) -> str:
    """The shape of an operand: as it is written before its name, or as its computation says."""
    written, _, name = operand.rpartition("%")
    return written if _ARRAY.search(written) else shapes.get(name, "")


def dimensions_of(shape: str) -> list[int]:
    """The dimensions of a shape's first array; none where it has no array."""
    found = _ARRAY.search(shape)
    return [int(dimension) for dimension in found[2].split(",") if dimension] if found else []


def size_of(shape: str) -> float:
    """Bytes of a shape, of all its arrays together."""
    total = 0.0
    for kind, dimensions in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape)):
        bits = re.search(r"\d+", kind)
        elements = 1
        for dimension in filter(None, dimensions.split(",")):
            elements *= int(dimension)
        total += elements * BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
    return total


def _computations(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Each computation's name, "ENTRY" for the one that is run first, and its instructions."""
    name = ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) and " = " not in line.partition("(")[0]:
            name, lines = "ENTRY" if head["entry"] else head["name"], []
        elif line.startswith("}"):
            yield name, lines
        elif instruction := _instruction(line):
            lines.append(instruction)


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    opcode = head and _OPCODE.search(line, head.end() - 1)
    if not head or not opcode:
        return None
    # An opcode follows a blank, and in a shape a blank stands before no name with a bracket.
    inside = _balanced(line, opcode.end() - 1)
    shape, operands = line[head.end() : opcode.start()], tuple(_split(inside))
    return Instruction(head["name"], shape, opcode["opcode"], operands, line[opcode.end() :])


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


def _attribute(line: str, key: str) -> str:
    found = re.search(rf"\b{key}=%?([\w.\-]+)", line)
    return found[1] if found else ""


def _branches(line: str) -> list[str]:
    found = []
    for several, one in _BRANCHES.findall(line):
        found += [name.strip().lstrip("%") for name in several.split(",")] if several else [one]
    return found


def _rounds(line: str, condition: Sequence[Instruction], body: Sequence[Instruction]) -> int | None:
    """How often a loop runs; None where its text does not tell."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    compared = [one for one in condition if one.opcode == "compare" and "direction=LT" in one.line]
    if len(compared) != 1:
        return None
    counter, end = (_name(operand) for operand in compared[0].operands)
    if (most := _constants(condition).get(end)) is None:
        return None
    return math.ceil(most / _step(_index(counter, condition), body))


def _step(index: int | None, body: Sequence[Instruction]) -> int:
    """What a loop's body adds to the counter at an index of what it is given; 1 where its text does not tell."""
    if index is None or not body or body[-1].opcode != "tuple" or index >= len(body[-1].operands):
        return 1
    more = next((one for one in body if one.name == _name(body[-1].operands[index])), None)
    if more is None or more.opcode != "add":
        return 1
    constants = _constants(body)
    added = [constants[name] for name in map(_name, more.operands) if name in constants]
    begun = [name for name in map(_name, more.operands) if _index(name, body) == index]
    return added[0] if len(added) == len(begun) == 1 and added[0] > 0 else 1


def _name(operand: str) -> str:
    return operand.rpartition("%")[2]


def _index(name: str, computation: Sequence[Instruction]) -> int | None:
    """Which element of its tuple an instruction gets; None of any other."""
    found = next((one for one in computation if one.name == name and one.opcode == "get-tuple-element"), None)
    return int(_attribute(found.line, "index")) if found else None


def _constants(computation: Sequence[Instruction]) -> dict[str, int]:
    """The integer constants of a computation, by name."""
    return {
        one.name: int(value[1])
        for one in computation
        if one.opcode == "constant" and (value := re.match(r"(-?\d+)\)", one.line))
    }


def _cheapest(branches: list[dict[str, Amount]]) -> dict[str, Amount]:
    """The amounts of the branch with the least of all kinds, and as `at_most` those of the one with the most."""
    cheapest = min(branches, key=lambda one: sum(amount.total for amount in one.values()), default={})
    dearest = max(branches, key=lambda one: sum(amount.at_most for amount in one.values()), default={})
    none = Amount()
    return {
        kind: Amount(cheapest.get(kind, none).count, cheapest.get(kind, none).total, dearest.get(kind, none).at_most)
        for kind in {*cheapest, *dearest}
    }


def _add(total: dict[str, Amount], more: Mapping[str, Amount], times: int = 1) -> None:
    for kind, amount in more.items():
        mine = total.setdefault(kind, Amount())
        mine.count += times * amount.count
        mine.total += times * amount.total
        mine.at_most += times * amount.at_most
