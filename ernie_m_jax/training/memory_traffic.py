"""What a compiled step reads from and writes to a device's memory: a program in, bytes out.

Each instruction that is run reads what it takes and writes what it makes, once. What a fusion only slices counts with
its slices, a part of an argument that is overwritten in place with the part, and a view counts nothing; a scatter
counts whole. Caches are not modelled, so of what is read twice in a row the memory may see less.
"""

import collections
from collections.abc import Mapping, Sequence

from ernie_m_jax.training.program import VIEWS, Amount, Instruction, Program, shape_of, size_of

PRODUCTS, REST = "products and kernels", "the rest"
_SLICES = ("dynamic-slice", "slice", "gather")
_RESHAPES = ("bitcast", "reshape")
_NOTHING = ("constant", "iota", "async-start")  # what runs asynchronously is measured where it is written


def moved(program: Program) -> tuple[Amount, Amount, int]:
    """Bytes of a step on one device: by products and kernels of our own, by the rest; loops as in `Program.tally`."""

    def measure(one: Instruction, shapes: Mapping[str, str]) -> tuple[str, float] | None:
        if one.opcode in VIEWS or one.opcode in _NOTHING or one.opcode.endswith(("-done", "-update")):
            return None
        body = program.fused(one)
        kind = PRODUCTS if any(_multiplies(inner) for inner in [one, *body]) else REST
        return kind, _fusion(one, body) if body else _plain(one, shapes)

    amounts, unknown = program.tally(measure)
    return amounts.get(PRODUCTS, Amount()), amounts.get(REST, Amount()), unknown


def _multiplies(one: Instruction) -> bool:
    return one.opcode in ("dot", "convolution", "custom-call")


def _plain(one: Instruction, shapes: Mapping[str, str]) -> float:
    """Of an instruction by itself."""
    if one.opcode in _SLICES:
        return 2 * size_of(one.shape)
    operands = [size_of(shape_of(operand, shapes)) for operand in one.operands]
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if one.opcode.endswith("-start"):  # a pair of what it takes and what it makes, or the latter alone
        return max(size_of(one.shape), 2 * sum(operands))
    return size_of(one.shape) + sum(operands)


def _fusion(one: Instruction, body: Sequence[Instruction]) -> float:
    """Of a fusion: its arguments as far as it reads them, and its result as far as it is new."""
    shapes = {inner.name: inner.shape for inner in body}
    users: dict[str, list[tuple[Instruction, int]]] = collections.defaultdict(list)
    for inner in body:
        for place, operand in enumerate(inner.operands):
            users[operand.rpartition("%")[2]].append((inner, place))

    def read(name: str) -> float:
        whole, total = size_of(shapes[name]), 0.0
        for user, place in users[name]:
            if place == 0 and user.opcode in _SLICES:
                total += size_of(user.shape)
            elif user.opcode in _RESHAPES:
                total += read(user.name)
            elif not (place == 0 and user.opcode == "dynamic-update-slice"):
                return whole
        return min(total, whole)

    made = {inner.name: inner for inner in body}

    def is_argument(operand: str) -> bool:
        source = made[operand.rpartition("%")[2]]
        return source.opcode == "parameter" or (source.opcode in _RESHAPES and is_argument(source.operands[0]))

    written = size_of(one.shape)
    for inner in body:
        if inner.opcode == "dynamic-update-slice" and is_argument(inner.operands[0]):
            written -= size_of(inner.shape) - size_of(shape_of(inner.operands[1], shapes))
    return written + sum(read(inner.name) for inner in body if inner.opcode == "parameter")
