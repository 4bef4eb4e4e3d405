"""The matrix products of a compiled step: a program in, floating point operations out.

A product of m x k and k x n numbers is 2 m k n operations. XLA writes products as `dot`, for GPUs also as calls of
cuBLAS, for TPUs as convolutions. What a kernel of our own multiplies stands in no program's text and is not counted.
"""

import math
import re
from collections.abc import Mapping

from ernie_m_jax.training.program import Amount, Instruction, Program, dimensions_of, shape_of

_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([^}\]]*)[}\]]')


def products(program: Program) -> tuple[Amount, int]:
    """The products of a step on one device: how many, and their operations; and loops as in `Program.tally`."""
    amounts, unknown = program.tally(_measure)
    return amounts.get("product", Amount()), unknown


def _measure(one: Instruction, shapes: Mapping[str, str]) -> tuple[str, float] | None:
    if one.opcode == "dot" or (one.opcode == "custom-call" and '"__cublas' in one.line):
        return "product", _dot(one, shapes)
    if one.opcode == "convolution":
        return "product", _convolution(one, shapes)
    return None


def _dot(one: Instruction, shapes: Mapping[str, str]) -> float:
    left = dimensions_of(shape_of(one.operands[0], shapes))
    contracted = _CONTRACTED.search(one.line)
    inner = [int(axis) for axis in re.findall(r"\d+", contracted[1])] if contracted else []
    return 2 * math.prod(dimensions_of(one.shape)) * math.prod(left[axis] for axis in inner)


def _convolution(one: Instruction, shapes: Mapping[str, str]) -> float:
    """As the compiler counts them: where the window meets a number, not padding nor a gap."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.line)
    if not labels:
        return 0.0
    image, window, out = labels.groups()
    left, right = (dimensions_of(shape_of(operand, shapes)) for operand in one.operands)
    made = dimensions_of(one.shape)
    total = 2 * made[out.index("b")] * made[out.index("f")] * right[window.index("i")]
    described = re.search(r"window=\{([^}]*)\}", one.line)
    steps = dict(re.findall(r"(\w+)=(\S+)", described[1])) if described else {}
    for axis in sorted(set(image) - set("bf")):
        place, sizes = int(axis), (left[image.index(axis)], right[window.index(axis)], made[out.index(axis)])
        total *= _met(*sizes, *(_step(steps, key, place) for key in ("stride", "pad", "lhs_dilate", "rhs_dilate")))
    return total


def _step(steps: Mapping[str, str], key: str, place: int) -> int:
    """A window's value in one direction: "7x3" of strides, "1_1x0_0" of padding, of which the lower counts."""
    default = "0" if key == "pad" else "1"
    return int(steps[key].split("x")[place].partition("_")[0]) if key in steps else int(default)


def _met(image: int, window: int, out: int, stride: int, low: int, gaps: int, spread: int) -> int:
    """How many pairs of a place of the window and one of what is made meet a number of the image."""
    places = (o * stride - low + w * spread for o in range(out) for w in range(window))
    return sum(0 <= place <= (image - 1) * gaps and place % gaps == 0 for place in places)
