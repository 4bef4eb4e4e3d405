"""A state's arrays by path: trees of any classes become names, shapes and dtypes, and back to nested dictionaries."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ernie_m_jax.checkpoint.manifest import CheckpointError

_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def match(directory: Any, saved: Mapping[str, Any], wanted: Mapping[str, Any], *, partial: bool) -> None:
    """Raises unless names, shapes and dtypes agree; all differences in one message."""
    problems = [f"{name}: not in the checkpoint" for name in wanted if name not in saved]
    if not partial:
        problems += [f"{name}: in the checkpoint, but not expected" for name in saved if name not in wanted]
    for name, leaf in wanted.items():
        if name in saved and saved[name] != (expected := described(leaf)):
            have, want = (f"{entry['shape']} {entry['dtype']}" for entry in (saved[name], expected))
            problems.append(f"{name}: the checkpoint has {have}, expected {want}")
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(f"{directory} does not fit this model:\n  " + "\n  ".join(problems[:20]) + more)
    for name, leaf in wanted.items():
        if getattr(leaf, "sharding", None) is None:
            raise ValueError(f"{name}: the abstract value has no sharding, so there is no telling where to put it")


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path, `params/embeddings/word`, in the order of `jax.tree.leaves`."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse as nested dictionaries: what is on disk does not depend on the classes of the state."""
    root: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return root


def described(leaf: Any) -> dict[str, Any]:
    """Shape and dtype, JSON-able."""
    return {"shape": list(leaf.shape), "dtype": str(np.dtype(leaf.dtype))}


def checked_stream(name: str) -> str:
    """A stream's name that can be a file's.

    Raises:
      ValueError: it cannot.
    """
    if not _STREAM_NAME.fullmatch(name):
        raise ValueError(f"stream {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit")
    return name


def checked(name: str, leaf: Any) -> Any:
    """A leaf that can be saved.

    Raises:
      TypeError: it is no `jax.Array` of numbers.
    """
    if not isinstance(leaf, jax.Array) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        kind = leaf.dtype if isinstance(leaf, jax.Array) else type(leaf).__name__
        raise TypeError(
            f"{name} is {kind}: a state holds jax.Arrays of numbers only (for a key, save jax.random.key_data)"
        )
    return leaf
