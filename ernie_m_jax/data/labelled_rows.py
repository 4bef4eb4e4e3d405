"""Rows of tables of labelled sentence pairs, and what makes a row good; used by `labelled.py`.

A source (`TableRows` here, `labelled_objects.py` for JSON lines and TFDS) gives any row as a `Row`, or raises `BadRow`
where it cannot be read. `judge` decides whether a row is good. A table also knows most of its good rows without an
object per row: its `easy` ones. They only save time, `judge` would say the same.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ernie_m_jax.data import readers
from ernie_m_jax.data.readers import DataError

TextNames = tuple[Sequence[str], Sequence[str]]
TEXT_NAMES: TextNames = (
    ("sentence1", "premise", "text_a", "text1"),
    ("sentence2", "hypothesis", "hypo", "text_b", "text2"),
)
LABEL_NAMES = ("label", "gold_label")
LANGUAGE_NAMES = ("language", "lang")
ID_NAMES = ("id", "pairID")
NO_CONSENSUS = "no consensus of the annotators"
# `train-en.tsv`: XTREME's folders; the only files without a header, and the only ones with quoted cells.
_XTREME = re.compile(r"(train|dev|test)-[^/]+\.tsv(\.gz)?")
_QUOTED_CELL = re.compile(r'"((?:[^"]|"")*)"')
_QUOTE = ord('"')


class BadRow(Exception):
    """A row that cannot be used: `reason` is what is counted, `detail` says what is wrong with this one."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Row:
    """One row as it stands in the source.

    Attributes:
      texts: the two sentences by language; the language is "" where the row does not say it.
      label: as it is written, None or "" where there is none.
      label_name: the column or key it comes from.
      id: the row's own, "" where it has none.
    """

    texts: Mapping[str, tuple[Any, Any]]
    label: str | None
    label_name: str
    id: str


@dataclasses.dataclass(frozen=True)
class Labels:
    """The allowed labels.

    Attributes:
      names: in the order of their numbers.
      aliases: other spellings, each with the label it stands for.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str]

    def number(self, label: str) -> int:
        """Index of a label in `names`, -1 where it is unknown."""
        label = self.aliases.get(label, label)
        return self.names.index(label) if label in self.names else -1

    def __str__(self) -> str:
        also = [f"{alias} (for {name})" for alias, name in self.aliases.items()]
        return ", ".join([*self.names, *also])


@dataclasses.dataclass(frozen=True)
class Easy:
    """Rows of a table that are certainly good.

    Attributes:
      rows: which rows, bool[N].
      labels: index of the label in `Labels.names`, int8[N], -1 where there is none.
      languages: for each language that these rows name, which rows name it, bool[N]; "" where no column does.
    """

    rows: np.ndarray
    labels: np.ndarray
    languages: Mapping[str, np.ndarray]


def judge(texts: tuple[Any, Any], row: Row, labels: Labels, labelled: bool) -> int:
    """The number of a row's label, -1 where the source has none.

    Raises:
      BadRow: a sentence is missing, empty or no text, or the label is missing or unknown.
    """
    number = -1
    if labelled and row.label:
        number = labels.number(row.label)
        if number < 0 and row.label == "-" and row.label_name == "gold_label":
            raise BadRow(NO_CONSENSUS, "the annotators had no consensus")
    for place, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise BadRow("no sentence", f"sentence {place} is {type(text).__name__}, not text")
        if not text.strip():
            raise BadRow("empty sentence", f"sentence {place} is empty")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no tokenizer takes
            raise BadRow("invalid UTF-8", f"sentence {place} is not valid Unicode ({error.reason})") from error
    if labelled and not row.label:
        raise BadRow("no label", f"no label; allowed are: {labels}")
    if labelled and number < 0:
        raise BadRow("unknown label", f"label {row.label!r} is not allowed; allowed are: {labels}")
    return number


class Rows(Protocol):
    """A source of rows."""

    path: str

    def __len__(self) -> int: ...

    @property
    def labelled(self) -> bool:
        """Whether there is a column of labels."""

    def place(self, index: int) -> str:
        """Where a row stands, for messages."""

    def row(self, index: int) -> Row:
        """One row, or `BadRow`."""

    def easy(self, labels: Labels) -> Easy:
        """The rows that are good without a doubt."""


class TableRows:
    """Rows of a tab-separated file whose header names the columns, or of XTREME's files, which have no header."""

    def __init__(self, path: str, text_names: TextNames):
        """Indexes the file; no row is judged.

        Raises:
          DataError: the file is missing, empty or cannot be read, or its header does not name the columns.
        """
        self.path = path
        lines = readers.lines(path, strict=False)
        invalid = lines.invalid()
        head = lines.buffer.data[: lines.ends[0]].tobytes().decode("utf-8-sig", "replace").split("\t")
        head = [cell.strip() for cell in head]
        self.columns: list[int | None] = [
            _column(path, head, names, f"sentence {place}") for place, names in enumerate(text_names, 1)
        ]
        self.quoted = None in self.columns and bool(_XTREME.fullmatch(path.rpartition("/")[2]))
        if invalid[0] and not self.quoted:
            raise DataError(f"{path}:1: invalid UTF-8 in the header; convert the file to UTF-8")
        if None in self.columns and not self.quoted:
            place = self.columns.index(None)
            raise DataError(
                f"{path}: the first row names no column for sentence {place + 1}: it needs one of "
                f"{', '.join(text_names[place])}; only XTREME's files, named SPLIT-LANGUAGE.tsv, have no header"
            )
        cells = readers.Cells(lines)
        kept = (cells.counts > 1) | invalid
        kept[~kept] = lines.take(~kept).filled()
        kept[0] &= self.quoted
        self.numbers = np.flatnonzero(kept).astype(np.int32)
        self.lines, self.invalid = lines.take(self.numbers), invalid[kept]
        if self.quoted:
            # The file itself says by its rows, not by the first one alone, whether there are labels.
            counts = cells.counts[kept]
            self.width = 2 if np.count_nonzero(counts == 2) > np.count_nonzero(counts == 3) else 3
            self.columns = [0, 1, 2 if self.width == 3 else None, None, None]
            self.label_name = "label"
        else:
            self.width = len(head)
            others = ((LABEL_NAMES, "the label"), (LANGUAGE_NAMES, "the language"), (ID_NAMES, "the id"))
            self.columns += [_column(path, head, names, what) for names, what in others]
            self.label_name = head[self.columns[2]] if self.columns[2] is not None else ""
        # Cells behind the last column that is used may be missing.
        self.needed = max(column for column in self.columns if column is not None) + 1

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def labelled(self) -> bool:
        """Whether there is a column of labels."""
        return self.columns[2] is not None

    def place(self, index: int) -> str:
        """File and line."""
        return f"{self.path}:{self.numbers[index] + 1}"

    def row(self, index: int) -> Row:
        """One row.

        Raises:
          BadRow: invalid UTF-8, too many or too few cells, quotes that are not closed, no language.
        """
        cells = line_text(self.lines, index).split("\t")
        if not self.needed <= len(cells) <= self.width:
            wanted = f"the header has {self.width}"
            if self.quoted:
                wanted = "a row is two sentences " + ("and a label" if self.labelled else "as others, without label")
            elif len(cells) < self.needed < self.width:
                wanted += f" and column {self.needed} is needed"
            raise BadRow("wrong number of cells", f"{len(cells)} cells, {wanted}")
        if self.quoted:
            cells[-1] = cells[-1].rstrip("\r")
            cells = [_unquoted(cell, place) for place, cell in enumerate(cells, 1)]
        first, second, label, language, name = (
            None if column is None else cells[column].strip() for column in self.columns
        )
        if language == "":
            raise BadRow("no language", "no language")
        return Row({language or "": (first, second)}, label, self.label_name, name or "")

    def easy(self, labels: Labels) -> Easy:
        """The rows that are good without a doubt, found without an object per row."""
        cells = readers.Cells(self.lines)
        good = ~self.invalid & (cells.counts >= self.needed) & (cells.counts <= self.width)
        for column in self.columns[:2]:
            texts = cells.column(column or 0, good)
            sure = texts.filled()
            if self.quoted:
                sure[sure] = self.lines.buffer.data[texts.starts[sure]] != _QUOTE
            good[good] = sure
        numbers = np.full(len(self), -1, np.int8)
        if self.columns[2] is not None:
            found, names = cells.column(self.columns[2], good).categories()
            numbers[good] = np.array([labels.number(name) for name in names], np.int8)[found]
            good &= numbers >= 0
        if self.columns[3] is None:
            return Easy(good, numbers, {"": good})
        found, names = cells.column(self.columns[3], good).categories()
        rows = np.flatnonzero(good)
        languages = {name: np.zeros(len(self), bool) for name in names}
        for number, name in enumerate(names):
            languages[name][rows[found == number]] = True
        good &= ~languages.pop("", np.zeros(len(self), bool))
        return Easy(good, numbers, languages)


def line_text(lines: readers.Texts, index: int) -> str:
    """A line as it stands, spaces at its ends included: they may be empty cells.

    Raises:
      BadRow: invalid UTF-8.
    """
    try:
        return lines.buffer.span(lines.starts[index], lines.ends[index]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("invalid UTF-8", f"invalid UTF-8 ({error.reason})") from error


def _column(path: str, head: Sequence[str], names: Sequence[str], what: str) -> int | None:
    found = [index for index, name in enumerate(head) if name in names]
    if len(found) > 1:
        raise DataError(f"{path}: both {head[found[0]]!r} and {head[found[1]]!r} name the column of {what}; rename one")
    return found[0] if found else None


def _unquoted(cell: str, place: int) -> str:
    """A cell as `csv.writer` was given it: it quotes cells that hold quotes, and doubles these."""
    if not cell.startswith('"'):
        return cell
    match = _QUOTED_CELL.fullmatch(cell)
    if not match:
        what = "the label" if place == 3 else f"sentence {place}"
        raise BadRow("wrong quotes", f"{what} begins with a quote that its end does not close")
    return match[1].replace('""', '"')
