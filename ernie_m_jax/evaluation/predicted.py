"""Predictions of a labelled task: records in, what the model says of each out.

groups of records --task.examples, packed rows--> task.predict on the devices --> a `Predicted` per record
a user's rows --task.use.record--> records --the same--> task.use.answers, as JSON holds them
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ernie_m_jax import atomic, stores
from ernie_m_jax.config import ConfigError
from ernie_m_jax.data import finite
from ernie_m_jax.data import given as givens
from ernie_m_jax.data.given import Given
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import finite_rows
from ernie_m_jax.task import Bound, Predicted, RandomAccess, Record

CHUNK, CHARACTERS = 8192, 4 << 20  # of a file that are answered at a time


def packed(task: Bound, tokenizer: Any, groups: Sequence[RandomAccess]) -> list[finite.Row]:
    """The packed rows of some groups of records."""
    return list(finite.rows(finite.examples(task, tokenizer, groups), task.spec()))


def predictions(
    task: Bound,
    model: Any,
    params: Any,
    groups: Sequence[RandomAccess],
    rows: Sequence[finite.Row],
    batch_size: int,
) -> list[list[Predicted]]:
    """What the model predicts for every record of every group.

    Args:
      task: bound to its config.
      model: the encoder with the task's head.
      params: its parameters, perhaps on a mesh.
      groups: of records.
      rows: what `packed` made of them.
      batch_size: rows per batch.
    """
    function = finite_rows.compiled(task.predict, model, params)
    found: list[list[dict[int, Mapping[str, np.ndarray]]]] = [[{} for _ in range(len(group))] for group in groups]
    for chosen, arrays in finite_rows.run(function, params, rows, task.spec(), batch_size):
        for number, row in enumerate(chosen):
            for placed in row:
                group, record, example = placed.origin
                found[group][record][example] = finite.kept(placed) | {
                    name: finite.cut(placed, name.split("/")[0], values[number]) for name, values in arrays.items()
                }
    return [[[one[number] for number in sorted(one)] for one in group] for group in found]


def record(task: Bound, given: Given, language: str) -> Record:
    """The record of a user's row.

    Raises:
      DataError: it cannot be used; with its place.
    """
    givens.check(given)
    assert task.task.use is not None
    try:
        return task.task.use.record(task.keys, given.row, language)
    except ValueError as error:
        raise DataError(f"{given.place}: {error}") from None


def answers(
    task: Bound,
    model: Any,
    params: Any,
    tokenizer: Any,
    given: Iterable[Given],
    language: str,
    batch_size: int,
) -> list[dict[str, Any]]:
    """What the model answers to a user's rows, in their order; a row's `id` goes with its answer.

    Args:
      task: bound to its config; has `use`.
      model: the encoder with the task's head.
      params: its parameters, perhaps on a mesh.
      tokenizer: the model's.
      given: the rows; see `data.given`.
      language: of their texts, one of the config's.
      batch_size: packed rows per batch at most; fewer rows make a smaller batch.

    Raises:
      DataError: a row that cannot be used, with its place.
    """
    given = list(given)
    records = [record(task, one, language) for one in given]
    rows = packed(task, tokenizer, [records])
    size = min(batch_size, 1 << max(0, len(rows) - 1).bit_length())  # powers of two: few programs are compiled
    (found,) = predictions(task, model, params, [records], rows, size)
    for (place, _), examples in zip(given, found, strict=True):
        if not all(np.isfinite(values).all() for example in examples for values in example.values()):
            raise DataError(f"{place}: what the model predicts is not finite; its parameters are damaged, or too large")
    assert task.task.use is not None
    said = task.task.use.answers(task.cfg, task.keys, records, found)
    return [
        ({"id": row["id"]} if "id" in row else {}) | dict(answer) for (_, row), answer in zip(given, said, strict=True)
    ]


def answer_file(
    answer: Callable[[list[Given]], list[dict[str, Any]]],
    check: Callable[[Given], object],
    inputs: givens.Inputs,
    source: str,
    target: str,
    at_once: bool = False,
) -> int:
    """Writes the answers to a file's rows as JSON lines, an object per row, whole or not at all.

    Args:
      answer: rows to answers.
      check: raises `DataError` for a row that cannot be used; every row is checked before any is answered.
      inputs: the parts of a row; see `task.Use`.
      source: the file; see `data.given`.
      target: ends in `.jsonl`; its folder is made, an existing file is replaced.
      at_once: all rows are needed at once.

    Returns:
      The number of rows.

    Raises:
      DataError: the file, or a row of it, cannot be used; with file and line.
      ConfigError: a target of another name, or the source itself.
    """
    if not target.endswith(".jsonl") or os.path.isdir(target):
        raise ConfigError(f"output {target!r} must be a file whose name ends in '.jsonl'")
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise ConfigError(f"output {target!r} is the input; name another file")
    count = 0
    for given in givens.rows(source, inputs):
        check(given)
        count += 1
    if not count:
        raise DataError(f"{source}: has no rows")
    rows = givens.rows(source, inputs)
    chunks = iter([list(rows)]) if at_once else _chunks(rows)
    if jax.process_index() > 0:
        for chunk in chunks:
            answer(chunk)
        return count
    if not stores.is_url(target):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    with atomic.replacing(target) as file:
        for chunk in chunks:
            for said in answer(chunk):
                file.write((json.dumps(said, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return count


def _chunks(rows: Iterable[Given]) -> Iterator[list[Given]]:
    """The rows in groups that bound the memory, by their number and by their text."""
    chunk: list[Given] = []
    characters = 0
    for given in rows:
        chunk.append(given)
        characters += sum(len(value) for value in given.row.values() if isinstance(value, str | list))
        if len(chunk) == CHUNK or characters > CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
