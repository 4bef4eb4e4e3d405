"""A user's own file in, rows for a task to answer out: what `--mode=predict` reads.

| name | read as |
| ---- | ------- |
| `.jsonl` | an object per line, with a key per part |
| `.tsv` | tab-separated columns in the order of the parts, or any columns under a header that names the parts |
| `.txt`, none | lines: the whole line where a task has one part, otherwise as `.tsv` without a header |

`.gz` may follow; capitals do not count. A row may have an `id`, a text or a whole number, which goes with its answer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ernie_m_jax.data import readers
from ernie_m_jax.data.readers import DataError

ID = "id"
OTHERS = ("json", "csv", "parquet", "xlsx", "conll")  # endings of what would not be lines of text
SHOWN = 8  # keys of an object that a message lists
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
      DataError: the file is missing, empty, not UTF-8 or of another kind, or a row lacks a part; with file and line.
    """
    kind = path.lower().removesuffix(".gz").rpartition("/")[2].rpartition(".")[2]
    if kind in OTHERS:
        raise DataError(f"{path}: .{kind} files are not read; give lines of text, .tsv or .jsonl")
    lines = readers.lines(path)
    header: list[str] | None = None
    for number in range(len(lines)):
        place = f"{path}:{number + 1}"
        line = lines.buffer.span(lines.starts[number], lines.ends[number]).decode("utf-8")
        line = line.removeprefix("\ufeff").removesuffix("\r") if not number else line.removesuffix("\r")
        if not line.strip():
            raise DataError(f"{place}: the line is empty; every line is a row")
        if kind == "jsonl":
            yield Given(place, named(_object(line, place), inputs, place))
            continue
        cells = [line] if kind != "tsv" and len(inputs) == 1 else line.split("\t")
        known = [_known(cells, names) for names in inputs]
        if not number and all(known) and (kind == "tsv" or len(cells) > 1):
            if kind != "tsv":
                raise DataError(f"{place}: a header; name the file .tsv, or take the line out")
            header = [cell.strip() for cell in cells]
            continue
        if not number and any(known) and kind == "tsv":
            some = next(cells[0] for cells in known if cells)
            missing = next(names for names, cells in zip(inputs, known, strict=True) if not cells)
            raise DataError(
                f"{place}: a header, since it has {some!r}, but with no column {' or '.join(missing)}; where it is a "
                "row, put a header above it"
            )
        yield Given(place, _columns(cells, header, inputs, place))


def listed(rows: Sequence[Any], inputs: Inputs) -> list[Given]:
    """Rows that a program gives: each a mapping, a tuple of the parts, or the only part by itself.

    Raises:
      ValueError: it is a single row, or one has other parts; with its index.
    """
    if isinstance(rows, str | Mapping):
        raise ValueError("rows is a single one; put it into a list")
    given = []
    for number, row in enumerate(rows):
        place = f"rows[{number}]"
        if isinstance(row, Mapping):
            given.append(Given(place, named(row, inputs, place)))
            continue
        parts = [row] if len(inputs) == 1 else row
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) != len(inputs):
            raise ValueError(f"{place} must have {', '.join(names[0] for names in inputs)}; got {row!r:.80}")
        given.append(Given(place, {names[0]: part for names, part in zip(inputs, parts, strict=True)}))
    return given


def named(row: Mapping[Any, Any], inputs: Inputs, place: str) -> dict[str, Any]:
    """The parts of an object, each under the first of its names; its `id` with them.

    Raises:
      DataError: a part is missing, or there under two names; with `place`.
    """
    found = {ID: row[ID]} if ID in row else {}
    for names in inputs:
        known = _known(list(row), names)
        if len(known) != 1:
            listed = ", ".join(map(repr, list(row)[:SHOWN])) or "no keys"
            problem = f"both {known[0]!r} and {known[1]!r} are given; keep one" if known else "is missing"
            raise DataError(f"{place}: {' or '.join(names)}: {problem}; it has {listed}")
        found[names[0]] = row[known[0]]
    return found


def check(given: Given) -> None:
    """Raises `DataError` where a row holds text that is not valid Unicode, or an `id` that is no name or number."""
    place, row = given
    if ID in row and (isinstance(row[ID], bool) or not isinstance(row[ID], str | int)):
        raise DataError(f"{place}: id is {row[ID]!r:.80}; it must be a text or a whole number")
    for name, value in row.items():
        for text in value if isinstance(value, list | tuple) else (value,):
            try:
                (text if isinstance(text, str) else "").encode("utf-8")
            except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no tokenizer takes
                raise DataError(f"{place}: {name} is not valid Unicode ({error.reason})") from None


def _columns(cells: Sequence[str], header: Sequence[str] | None, inputs: Inputs, place: str) -> dict[str, Any]:
    wanted = len(header or inputs)
    if len(cells) != wanted:
        what = "the header has" if header else "there must be one each for " + ", ".join(names[0] for names in inputs)
        raise DataError(f"{place}: {len(cells)} columns, {what}{f' {wanted}' if header else ''}")
    if header is None:
        return dict(zip((names[0] for names in inputs), cells, strict=True))
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise DataError(f"{place}: the header names the column {twice!r} twice")
    return named(dict(zip(header, cells, strict=True)), inputs, place)


def _known(keys: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The keys that are among the names; capitals do not count."""
    return [key for key in keys if isinstance(key, str) and key.strip().lower() in names]


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a JSON object: {error}") from error
    if not isinstance(item, Mapping):
        raise DataError(f"{place}: not a JSON object but {type(item).__name__}")
    return item
