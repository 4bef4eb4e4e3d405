"""A user's own file in, rows for a task to answer out: what `--mode=predict` reads.

| name | read as |
| ---- | ------- |
| `.jsonl` | an object per line, with a key per part |
| `.tsv` | tab-separated columns in the order of the parts, or any columns under a header that names the parts |
| any other | lines: the whole line where a task has one part, otherwise as `.tsv` without a header |

`.gz` may follow. A row may have an `id`, which goes with its answer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ernie_m_jax.data import readers
from ernie_m_jax.data.readers import DataError

ID = "id"
Inputs = Sequence[Sequence[str]]


class Given(NamedTuple):
    """A row: where it stands, for messages, and its parts, each under the first of its names."""

    place: str
    row: dict[str, Any]


def rows(path: str, inputs: Inputs) -> Iterator[Given]:
    """Reads a file's rows, in order.

    Args:
      path: local, or a URL.
      inputs: the parts of a row with the names that each may have; see `task.Use`.

    Raises:
      DataError: the file is missing, empty or not UTF-8, or a row lacks a part; with file and line.
    """
    lines = readers.lines(path)
    kind = path.removesuffix(".gz").rpartition(".")[2]
    header: list[str] | None = None
    for number in range(len(lines)):
        place = f"{path}:{number + 1}"
        line = lines.buffer.data[lines.starts[number] : lines.ends[number]].tobytes().decode("utf-8")
        line = line.removeprefix("\ufeff").removesuffix("\r") if not number else line.removesuffix("\r")
        if not line.strip():
            raise DataError(f"{place}: the line is empty; every line is a row")
        if kind == "jsonl":
            yield Given(place, named(_object(line, place), inputs, place))
            continue
        cells = [line] if kind != "tsv" and len(inputs) == 1 else line.split("\t")
        if not number and kind == "tsv" and all(_known(cells, names) for names in inputs):
            header = cells
            continue
        yield Given(place, _columns(cells, header, inputs, place))


def named(row: Mapping[str, Any], inputs: Inputs, place: str) -> dict[str, Any]:
    """The parts of an object, each under the first of its names; its `id` with them.

    Raises:
      DataError: a part is missing, or there under two names; with `place`.
    """
    found = {ID: row[ID]} if ID in row else {}
    for names in inputs:
        known = _known(row, names)
        if len(known) != 1:
            problem = f"both {known[0]!r} and {known[1]!r} are given; keep one" if known else "is missing"
            raise DataError(f"{place}: {' or '.join(names)}: {problem}; it has {', '.join(map(str, row))}")
        found[names[0]] = row[known[0]]
    return found


def _columns(cells: Sequence[str], header: Sequence[str] | None, inputs: Inputs, place: str) -> dict[str, Any]:
    wanted = len(header or inputs)
    if len(cells) != wanted:
        what = "the header has" if header else "there must be one each for " + ", ".join(names[0] for names in inputs)
        raise DataError(f"{place}: {len(cells)} columns, {what}{f' {wanted}' if header else ''}")
    if header is not None:
        return named(dict(zip(header, cells, strict=True)), inputs, place)
    return dict(zip((names[0] for names in inputs), cells, strict=True))


def _known(row: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> list[str]:
    return [name for name in names if name in row]


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a JSON object: {error}") from error
    if not isinstance(item, Mapping):
        raise DataError(f"{place}: not a JSON object but {type(item).__name__}")
    return item
