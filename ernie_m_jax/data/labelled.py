"""Files of labelled sentence pairs in, random access to `Record`s out: the data of fine-tuning on XNLI and PAWS-X.

`open_pairs` tells the format from the path and the header:

| format | made known by |
| ------ | ------------- |
| table: XNLI-1.0, XNLI-MT-1.0, MultiNLI, GLUE's MNLI, PAWS-X, users' own | a header that names the sentences' columns |
| XTREME: two columns of sentences, one of labels, as `csv.writer` quotes them | no header, a name as `train-en.tsv` |
| JSON lines: objects with such names as keys | `.jsonl` |
| TFDS: examples with such keys | `tfds:NAME/CONFIG`, or `tfds:/DIRECTORY` of a prepared data set |
| directory | one of the files in `LAYOUTS` |

Quotes are text, except in XTREME's files. `.gz` may follow the names of files. A column or key `language` says a row's
language; without one, `{language}` in the path does, or the only language that is asked for. Tables are indexed by
NumPy and texts read when they are asked for. JSON lines and TFDS examples are decoded once at opening to check them,
one by one: a minute or so per 400,000 examples of TFDS.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m_jax.data import published
from ernie_m_jax.data.labelled_objects import JsonRows, TfdsRows
from ernie_m_jax.data.labelled_rows import (
    LABEL_NAMES,
    NO_CONSENSUS,
    TEXT_NAMES,
    BadRow,
    Labels,
    Row,
    Rows,
    TableRows,
    TextNames,
    judge,
)
from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.task import Record

# Files of published directories: PAWS-X's x-final, XTREME's folders, XNLI-1.0, XNLI-MT-1.0 and MultiNLI 1.0,
# or the folder that holds these three.
LAYOUTS = {
    "train": (
        "{language}/train.tsv",
        "{language}/translated_train.tsv",
        "train-{language}.tsv",
        "multinli/multinli.train.{language}.tsv",
        "multinli.train.{language}.tsv",
        "XNLI-MT-1.0/multinli/multinli.train.{language}.tsv",
        "multinli_1.0_train.txt",
        "multinli_1.0/multinli_1.0_train.txt",
    ),
    "dev": ("{language}/dev_2k.tsv", "dev-{language}.tsv", "xnli.dev.tsv", "XNLI-1.0/xnli.dev.tsv"),
    "test": ("{language}/test_2k.tsv", "test-{language}.tsv", "xnli.test.tsv", "XNLI-1.0/xnli.test.tsv"),
}
ENGLISH = ("multinli_1.0_train.txt", "multinli_1.0/multinli_1.0_train.txt")  # have no language in their name or columns
EACH = " (of no known language: counted in each)"  # behind the reason for which such a row was left out


class Pairs:
    """Random access to the labelled pairs of one language, in the order of their file.

    Attributes:
      language: code of the language.
      path: of the file or data set.
      rows: number of each record among the rows of its file, from 0, int32[N].
      labels: index of each record's label in `names`, int8[N], -1 in a file without labels.
      names: the allowed labels.
      skipped: how many rows were left out, by reason; a row whose language cannot be read counts in every one of
        several languages, and its reason says so.
    """

    def __init__(
        self,
        source: Rows,
        language: str,
        rows: np.ndarray,
        labels: np.ndarray,
        names: tuple[str, ...],
        skipped: Mapping[str, int],
    ):
        self.source, self.path, self.language = source, source.path, language
        self.rows, self.labels = rows, labels
        self.names, self.skipped = names, dict(skipped)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        number = int(self.rows[index])
        row = self.source.row(number)
        texts = row.texts[self.language if self.language in row.texts else ""]
        fields = {"label": self.names[self.labels[index]]} if self.labels[index] >= 0 else {}
        return Record(texts, (self.language, self.language), {**fields, "id": row.id or str(number + 1)})


def open_pairs(
    path: str,
    split: str,
    languages: tuple[str, ...],
    labels: tuple[str, ...],
    aliases: Mapping[str, str] | None = None,
    bad_rows: str = "error",
    text_names: TextNames = TEXT_NAMES,
    config_key: str = "bad_rows",
    origin: str = "",
) -> dict[str, Pairs]:
    """Opens one split of a data set of labelled sentence pairs.

    Args:
      path: a file, `{language}` in it where there is one per language; a directory in `LAYOUTS`; or `tfds:NAME/CONFIG`.
      split: "train", "dev" or "test"; only "test" may have no labels. In TFDS "dev" is "validation".
      languages: codes, as the files have them.
      labels: the allowed labels, at most 127.
      aliases: other spellings of labels, each with the label it stands for: `{"contradictory": "contradiction"}`.
      bad_rows: "error", or "skip" to leave out and count rows with a wrong number of cells, an empty sentence, an
        unknown label or invalid UTF-8. Rows whose `gold_label` is "-" (no consensus) are always left out and counted.
      text_names: names that the column or key of the first and of the second sentence may have.
      config_key: the name under which the user sets `bad_rows`, for messages.
      origin: where the data can be had and where it belongs, for messages.

    Returns:
      `Pairs` by language, in the order of `languages`. A record has both sentences and twice the language; its fields
      are `label`, absent without labels, and `id`: the row's own, otherwise its number in the file, from 1.

    Raises:
      DataError: naming file and line where a row is bad; a file, a language or the labels are missing; a language
        without a good row; a header that does not name the columns; a value of these arguments that is not allowed.
    """
    known = _check(split, languages, labels, aliases or {}, bad_rows)
    files: dict[tuple[str, bool], list[str]] = {}
    for language in languages:
        files.setdefault(published.find(path, split, language, LAYOUTS, ENGLISH, origin), []).append(language)
    opened: dict[str, Pairs] = {}
    for (file, stated), spoken in files.items():
        source = _source(file, split, text_names, known)
        only = spoken[0] if stated or len(languages) == 1 else ""
        labelled = source.labelled or split != "test"
        opened |= _Scan(source, only, tuple(spoken), known, labelled, config_key if bad_rows == "error" else "").pairs()
    return {language: opened[language] for language in languages}


class _Scan:
    """The good rows of a source by language."""

    def __init__(
        self, source: Rows, only: str, languages: tuple[str, ...], labels: Labels, labelled: bool, config_key: str
    ):
        """Finds them.

        Args:
          source: a file or data set.
          only: the language of rows that do not say theirs, "" if nothing tells it.
          languages: the languages wanted.
          labels: the allowed labels.
          labelled: whether a row needs one.
          config_key: named where a bad row is an error; "" to count bad rows.
        """
        self.source, self.only, self.languages = source, only, languages
        self.labels, self.labelled, self.config_key = labels, labelled, config_key
        easy = source.easy(labels)
        if "" in easy.languages and not only:
            raise DataError(
                f"{source.path}: no language column, but {len(languages)} languages are asked for; "
                "name the column `language`, or put {language} into the path of one file per language"
            )
        self.present = {language or only for language in easy.languages}
        none = np.zeros(len(source), bool)
        found = {language or only: rows for language, rows in easy.languages.items()}
        self.good = {language: found.get(language, none).copy() for language in languages}
        self.numbers = easy.labels
        self.skipped: dict[str, collections.Counter[str]] = {language: collections.Counter() for language in languages}
        self.first: dict[str, str] = {}
        for index in map(int, np.flatnonzero(~easy.rows)):
            self._look(index)

    def _look(self, index: int) -> None:
        """Takes or counts one row that is not certainly good."""
        try:
            row = self.source.row(index)
            if "" in row.texts and not self.only:
                raise BadRow("no language", "no language; name it `language`, or put {language} into the path")
        except BadRow as bad:
            self._bad(index, bad, self.languages)
            return
        self.present.update(language or self.only for language in row.texts)
        for language, texts in row.texts.items():
            if (language or self.only) in self.languages:
                self._judge(index, row, language or self.only, texts)

    def _judge(self, index: int, row: Row, language: str, texts: tuple[Any, Any]) -> None:
        try:
            self.numbers[index] = judge(texts, row, self.labels, self.labelled)
            self.good[language][index] = True
        except BadRow as bad:
            self._bad(index, bad, (language,))

    def _bad(self, index: int, bad: BadRow, languages: tuple[str, ...]) -> None:
        place = self.source.place(index)
        if self.config_key and bad.reason != NO_CONSENSUS:
            way = f'Correct it, or set {self.config_key} to "skip" to leave such rows out'
            raise DataError(f"{place}: {bad.detail}. {way}")
        for language in languages:
            self.skipped[language][bad.reason + EACH * (len(languages) > 1)] += 1
            self.first.setdefault(language, f"{place}: {bad.detail}")

    def pairs(self) -> dict[str, Pairs]:
        """The good rows of each language wanted."""
        found = {}
        for language in self.languages:
            rows = np.flatnonzero(self.good[language]).astype(np.int32)
            if not rows.size and self.present and language not in self.present:
                there = ", ".join(sorted(self.present))
                raise MissingData(
                    f"{self.source.path}: no rows in {language!r}; languages there: {there}",
                    language,
                    otherwise=f". Put its rows there, or leave {language!r} out of the languages asked for",
                )
            if not rows.size:
                why = "the file has no rows"
                if language in self.first:
                    why = f"{published.summary(self.skipped[language])}; the first is {self.first[language]}"
                raise DataError(f"{self.source.path}: no good row in {language!r}: {why}")
            found[language] = Pairs(
                self.source, language, rows, self.numbers[rows], self.labels.names, self.skipped[language]
            )
        return found


def _check(
    split: str, languages: tuple[str, ...], labels: tuple[str, ...], aliases: Mapping[str, str], bad_rows: str
) -> Labels:
    published.check(split, languages, bad_rows)
    for alias, label in aliases.items():
        if label not in labels:
            raise DataError(f"alias {alias!r} stands for {label!r}, which is none of: {', '.join(labels)}")
    return Labels(tuple(labels), dict(aliases))


def _source(file: str, split: str, text_names: TextNames, labels: Labels) -> Rows:
    if file.startswith("tfds:"):
        return TfdsRows(file, "validation" if split == "dev" else split, text_names, labels)
    if file.removesuffix(".gz").endswith(".jsonl"):
        return JsonRows(file, text_names)
    rows = TableRows(file, text_names)
    if not rows.labelled and split != "test":
        names = " or ".join(LABEL_NAMES)
        raise DataError(f"{file}: no labels; only the test split may have none. Name their column {names}")
    return rows
