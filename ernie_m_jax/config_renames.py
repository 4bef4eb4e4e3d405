"""Keys that have another name now: the tree of an old `config.json` in, the same with today's names out.

A run keeps its config for good, so what a work directory states is read under its old names too. A config file or a
flag is written anew: there an old name is an error that says the new one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Change(NamedTuple):
    """What was renamed at one time.

    Attributes:
      names: old path -> new path, without `config`. `*` stands for any one name, the same in both paths. A section's
        path stands for all keys in it; of several that fit, the first counts.
      rewrite: changes a tree with the old names in place. None: each value is moved to its new path.
    """

    names: Mapping[str, str]
    rewrite: Callable[[dict[str, Any]], None] | None = None


def _retrieval_to_evals(tree: dict[str, Any]) -> None:
    """The section `retrieval` was both: the one evaluation there was, and how --mode=encode makes vectors."""
    train, old = tree.get("train"), tree.pop("retrieval", None)
    every = train.pop("evaluate_every", 0) if isinstance(train, dict) else 0
    if not isinstance(old, dict):
        return
    source = old.pop("source", None)
    tree.setdefault("encode", dict(old))
    if isinstance(source, dict) and source.get("path"):
        evaluation = {"kind": "retrieval", "every": every, "start": True, "source": source, **old}
        tree.setdefault("evals", {}).setdefault("retrieval", evaluation)


# The oldest first: a later change finds the names that the earlier ones left.
CHANGES = (
    Change(
        {
            "train.batch_rows": "train.batch_size",
            "train.microbatches": "train.grad_accumulation_steps",
            "train.keep": "train.max_to_keep",
            "data.alpha": "data.sampling_exponent",
            "objectives.*.join_characters": "objectives.*.join_to_characters",
            "retrieval.batch_rows": "retrieval.batch_size",
            "retrieval.length": "retrieval.max_length",
        }
    ),
    Change({"train.evaluate_every": "evals.retrieval.every", "retrieval": "evals.retrieval"}, _retrieval_to_evals),
)


def upgraded(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config's tree with today's names; what is no mapping where one should be stays as it is.

    A key that is there under both names stays under both, and is unknown under the old one to who reads the tree.
    """
    new = copy.deepcopy(dict(tree))
    for change in CHANGES:
        if change.rewrite is not None:
            change.rewrite(new)
            continue
        for old, target in change.names.items():
            for names in list(_found(new, old.split("."), ())):
                _move(new, names, _renamed(names, old.split("."), target.split(".")))
    return new


def new_name(path: str) -> str | None:
    """Today's path of a key by its old one, both with `config` before them; None if it was not renamed."""
    root, *names = path.split(".")
    current = tuple(names)
    for change in CHANGES:
        for old, target in change.names.items():
            if _fits(current, old.split(".")):
                current = _renamed(current, old.split("."), target.split("."))
                break
    return ".".join((root, *current)) if current != tuple(names) else None


def _fits(names: tuple[str, ...], pattern: list[str]) -> bool:
    """Whether a path is the pattern's, or one below it."""
    return len(names) >= len(pattern) and all(part in ("*", name) for part, name in zip(pattern, names, strict=False))


def _renamed(names: tuple[str, ...], old: list[str], new: list[str]) -> tuple[str, ...]:
    """A path that fits `old` under its new name; the `*` of both stand for the same, in their order."""
    taken = iter(name for name, part in zip(names, old, strict=False) if part == "*")
    return (*(next(taken) if part == "*" else part for part in new), *names[len(old) :])


def _found(tree: Any, pattern: list[str], before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths in the tree that are the pattern's."""
    if not pattern:
        yield before
    elif isinstance(tree, dict):
        for name in tree if pattern[0] == "*" else [name for name in tree if name == pattern[0]]:
            yield from _found(tree[name], pattern[1:], (*before, name))


def _move(tree: dict[str, Any], old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Moves one value, unless there is one at its new path."""
    source: Any = tree
    for name in old[:-1]:
        source = source[name]
    target: Any = tree
    for name in new[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            return
    if new[-1] not in target:
        target[new[-1]] = source.pop(old[-1])
