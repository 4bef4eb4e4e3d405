"""Tensors of a format <-> parameters, by the format's table and strict four ways: names on both sides, shape, dtype.

In: a `Format`, tensors (or parameters) and the parameters' shapes. Out: parameters (or tensors), one at a time, so that
no more than one array is held beside what the caller keeps. Parameters are named by path, `layers/ffn/output/kernel`;
layers are stacked along axis 0.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ernie_m_jax.convert.rules import Format
from ernie_m_jax.weights.tensors import ConversionError, Tensor

SHOWN = 20  # problems in one message
# Larger than any weight of a trained model; a flipped exponent bit gives numbers far beyond.
LARGEST = 1e6
_FLOATS = ("float32", "float16", "bfloat16")  # the halves widen without loss


class Part(NamedTuple):
    """A tensor that is (a layer or a share of) a parameter: its name and its shape in the format."""

    name: str
    shape: tuple[int, ...]


def plan(form: Format, head: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, list[Part]], list[str]]:
    """The tensors that make up each parameter, in order, and the parameters that the format has no place for.

    Args:
      form: the format.
      head: the model's fine-tuning head, or "none".
      shapes: of the parameters, by path, layers stacked.
    """
    parts: dict[str, list[Part]] = {}
    unknown = []
    modules = form.modules(head)
    for path, shape in shapes.items():
        names = _names(form, modules, path)
        if not names:
            unknown.append(path)
        elif path.startswith("layers/"):
            own = _source_shape(form, path, shape[1:])
            parts[path] = [Part(names[0].replace("{layer}", str(i)), own) for i in range(shape[0])]
        else:
            share = (*shape[:-1], shape[-1] // len(names))
            parts[path] = [Part(name, _source_shape(form, path, share)) for name in names]
    return parts, unknown


def _names(form: Format, modules: Mapping[str, str | tuple[str, ...]], path: str) -> list[str]:
    """The names of a parameter's tensors (with `{layer}`), none if the format does not have it."""
    module, _, leaf = path.rpartition("/")
    if path in modules:
        found, suffix = modules[path], form.suffixes.table if module == "embeddings" else ""
    elif module in modules:
        found, suffixes = modules[module], form.suffixes
        norm = module.endswith("layer_norm")
        suffix = {"scale": suffixes.scale, "kernel": suffixes.kernel}.get(
            leaf, suffixes.shift if norm else suffixes.bias
        )
    else:
        return []
    return [name + suffix for name in ((found,) if isinstance(found, str) else found)]


def _source_shape(form: Format, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A parameter's shape in the format: kernels as matrices, everything else but the tables flat."""
    if path.endswith("/kernel"):
        inputs = len(shape) - 1 if path.endswith("attention/output/kernel") else 1
        matrix = math.prod(shape[:inputs]), math.prod(shape[inputs:])
        return matrix[::-1] if form.transposed else matrix
    return shape if path.startswith("embeddings/") else (math.prod(shape),)


def check(
    form: Format,
    parts: Mapping[str, list[Part]],
    unknown: Iterable[str],
    tensors: Mapping[str, Tensor],
    ignore: str,
) -> None:
    """Compares a file's tensors with what the model needs.

    Args:
      form: the format.
      parts: see `plan`.
      unknown: parameters that the format has no place for.
      tensors: the file's, by name without prefix.
      ignore: a regular expression: tensors that are no parameters and may be there all the same.

    Raises:
      ConversionError: all that is missing, extra, or of another shape or dtype.
    """
    wanted = {part.name: (path, part.shape) for path, found in parts.items() for part in found}
    problems = [f"{path}: {form.name} checkpoints have no such parameter" for path in unknown]
    problems += [
        f"{name}: missing; the model has {path} with shape {shape}"
        for name, (path, shape) in wanted.items()
        if name not in tensors
    ]
    for name, target in form.folded.items():
        wanted[name] = (target, (1, parts[target][0].shape[-1]))
        if name not in tensors:
            problems.append(f"{name}: missing; its only row belongs to every token")
    wanted |= {name: (path, parts[path][0].shape) for name, path in form.tied.items() if path in parts}
    for name, (path, shape) in wanted.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tensor.shape != shape:
            problems.append(f"{tensor.name}: shape {tensor.shape} in {tensor.file}, the model's {path} needs {shape}")
        elif str(tensor.dtype) not in _FLOATS:
            problems.append(f"{tensor.name}: dtype {tensor.dtype} in {tensor.file}; allowed are {', '.join(_FLOATS)}")
    for name, tensor in tensors.items():
        if name not in wanted and not re.fullmatch(f"{form.ignored}|{form.left_out}|{ignore or '(?!)'}", name):
            problems.append(
                f"{tensor.name}: in {tensor.file} with shape {tensor.shape}, but no parameter of the model; "
                f"--ignore {name} (in a config: init.drop) leaves it out"
            )
    if problems:
        raise ConversionError("tensors and model do not match:\n  " + listed(problems))


def listed(problems: list[str]) -> str:
    """Lines for a message, the first of them if there are many."""
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "\n  ".join(problems[:SHOWN]) + more


def read(
    form: Format, parts: Mapping[str, list[Part]], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each parameter with its path, float32, after `check`.

    Raises:
      ConversionError: a value that is not finite or absurd, or two tensors that should be one and differ.
    """
    for path, found in parts.items():
        shape = shapes[path]
        if len(found) == 1 and not path.startswith("layers/"):
            array = np.ascontiguousarray(_arranged(form, path, shape, tensors[found[0].name]), np.float32)
        else:
            array = np.empty(shape, np.float32)
            width = shape[-1] // len(found)
            for i, part in enumerate(found):
                share = array[i] if path.startswith("layers/") else array[..., i * width : (i + 1) * width]
                share[...] = _arranged(form, path, share.shape, tensors[part.name])
        for name, target in form.folded.items():
            if target == path:
                array = array + _plausible(tensors[name]).astype(np.float32)
        for name, target in form.tied.items():
            if target == path and name in tensors:
                _same(tensors[name], tensors[found[0].name])
        yield path, array


def _arranged(form: Format, path: str, shape: tuple[int, ...], tensor: Tensor) -> np.ndarray:
    """A tensor's values in a parameter's shape, a view where possible."""
    array = _plausible(tensor)
    if path.endswith("/kernel") and form.transposed:
        array = array.T
    return array.reshape(shape)


def _plausible(tensor: Tensor) -> np.ndarray:
    """A tensor's values, which must be those of weights."""
    array = tensor.read()
    if not is_plausible(array):
        raise ConversionError(
            f"{tensor.name} in {tensor.file}, shape {tensor.shape}: has values that are not finite or above "
            f"{LARGEST:g}; the file is damaged, or holds no weights"
        )
    return array


def is_plausible(array: np.ndarray) -> bool:
    """Whether all values are finite and none is larger than a weight can be."""
    # With NaN no comparison holds.
    return not array.size or bool(max(float(array.max()), -float(array.min())) <= LARGEST)


def float32(name: str, array: np.ndarray) -> np.ndarray:
    """A parameter as float32; halves are widened.

    Raises:
      ConversionError: another dtype, or values that are not those of weights.
    """
    if str(array.dtype) not in _FLOATS:
        raise ConversionError(f"{name}: dtype {array.dtype}, shape {array.shape}; allowed are {', '.join(_FLOATS)}")
    if not is_plausible(array):
        raise ConversionError(f"{name}: shape {array.shape}, has values that are not finite or above {LARGEST:g}")
    return np.asarray(array, np.float32)


def _same(tensor: Tensor, other: Tensor) -> None:
    if tensor.shape != other.shape or not np.array_equal(tensor.read(), other.read()):
        raise ConversionError(
            f"{tensor.name}: shape {tensor.shape} in {tensor.file}, must equal {other.name} of shape {other.shape}: in "
            "this model the two are one"
        )


def write(
    form: Format, parts: Mapping[str, list[Part]], params: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of `params`, float32, views where possible; the inverse of `read`, bit for bit."""
    for path, found in parts.items():
        array = np.asarray(params[path], np.float32)
        width = array.shape[-1] // len(found)
        for i, part in enumerate(found):
            share = array
            if path.startswith("layers/"):
                share = array[i]
            elif len(found) > 1:
                share = array[..., i * width : (i + 1) * width]
            transposed = form.transposed and path.endswith("/kernel")
            matrix = share.reshape(part.shape[::-1] if transposed else part.shape)
            yield part.name, matrix.T if transposed else matrix
