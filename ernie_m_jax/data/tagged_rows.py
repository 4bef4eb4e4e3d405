"""Files of tagged words as raw sentences, and what makes a sentence good; used by `tagged.py`.

    lines, or TFDS examples --columns, examples--> Source of Raw sentences --checked, to_iob2--> IOB2, or BadSentence

IOB2 begins every chunk with "B-", IOB1 only a chunk behind another of its type and all others with "I-". Both mean the
same chunks, so that nothing has to know which one a file is written in. Which one a sentence is written in shows where
a chunk begins behind "O" or another type; both in one sentence is a mistake. "I-" on a sentence's first word shows
nothing: in the published files, Spanish ones among them, a chunk may go on over the end of a sentence.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ernie_m_jax.data import objects, readers
from ernie_m_jax.data.readers import DataError

DOCUMENT = "-DOCSTART-"  # the word of a line that begins a document
TAG_KEYS = ("ner", "tags", "ner_tags")  # of TFDS examples: conll2002 and conll2003, wikiann
WORD_KEYS = ("tokens", "words")
TFDS_SPLITS = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}


class BadSentence(Exception):
    """A sentence that cannot be used: the `index` of the word, the `reason` that is counted, and the `detail`."""

    def __init__(self, index: int, reason: str, detail: str):
        super().__init__(detail)
        self.index, self.reason, self.detail = index, reason, detail


class Raw(NamedTuple):
    """A sentence as it stands in its source.

    Attributes:
      number: line of its first word, from 1; for TFDS the example's number, from 0.
      words: as they are.
      tags: of each word, as written; None where there is none.
    """

    number: int
    words: tuple[str, ...]
    tags: tuple[str | None, ...]


class Source(NamedTuple):
    """The sentences of a file or data set.

    Attributes:
      path: of it.
      sentences: in its order.
      encoding: "utf-8" or "latin-1".
      lines: whether a sentence's `number` is a line's.
    """

    path: str
    sentences: list[Raw]
    encoding: str = "utf-8"
    lines: bool = True

    @property
    def labelled(self) -> bool:
        """Whether any word has a tag."""
        return any(tag is not None for raw in self.sentences for tag in raw.tags)

    def name(self, raw: Raw) -> str:
        """File and line, or the number of the example: what tells a sentence from all others."""
        return f"{self.path}:{raw.number}" if self.lines else f"{self.path}: example {raw.number}"

    def place(self, raw: Raw, index: int) -> str:
        """Where one of its words stands, for messages."""
        return f"{self.path}:{raw.number + index}" if self.lines else f"{self.name(raw)}, word {index + 1}"


def columns(path: str) -> Source:
    """Reads columns: a word per line, first column the word, last one the tag, blank lines between sentences.

    Tabs separate the columns of a line that has one, otherwise spaces. Lines of documents' beginnings end a sentence.
    What is not UTF-8 is read as latin-1. Only line feeds end a line: other bytes that do so elsewhere are text here.

    Raises:
      DataError: the file is missing, empty or cannot be read.
    """
    content = readers.Buffer(path).data.tobytes()
    try:
        text, encoding = content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1"), "latin-1"
    sentences: list[Raw] = []
    open_rows: list[tuple[str, str | None]] = []
    lines = text.split("\n")
    for number, line in enumerate([*lines, ""], 1):
        cells = _cells(line)
        if cells and cells[0] != DOCUMENT:
            open_rows.append((cells[0], cells[-1] if len(cells) > 1 else None))
        elif open_rows:
            words, tags = zip(*open_rows, strict=True)
            sentences.append(Raw(number - len(open_rows), words, tags))
            open_rows = []
    return Source(path, sentences, encoding)


def examples(path: str, split: str) -> Source:
    """Reads a prepared TFDS data set whose examples have words and the numbers of their tags.

    Raises:
      DataError: it is not prepared, has no such split, or no such keys.
    """
    found = _opened(path, *TFDS_SPLITS[split])
    features = found.source.dataset_info.features
    words_key, tags_key = (next((key for key in keys if key in features), "") for keys in (WORD_KEYS, TAG_KEYS))
    if not words_key or not tags_key:
        raise DataError(
            f"{path}: needs the words under {' or '.join(WORD_KEYS)} and their tags under {' or '.join(TAG_KEYS)}; "
            f"it has {', '.join(features)}"
        )
    names = features[tags_key].feature.names
    sentences = []
    for number in range(len(found)):
        example = found[number]
        words = tuple(_text(word) for word in example[words_key])
        tags = tuple(names[int(tag)] if int(tag) >= 0 else None for tag in example[tags_key])
        if words and words != (DOCUMENT,):
            sentences.append(Raw(number, words, tags))
    return Source(path, sentences, lines=False)


def _opened(path: str, split: str, *others: str) -> objects.TfdsExamples:
    """The first of these splits that the data set has."""
    try:
        return objects.TfdsExamples(path, split)
    except DataError:
        if not others:
            raise
        return _opened(path, *others)


def names_of(types: Iterable[str]) -> tuple[str, ...]:
    """All IOB tags of these types: O, and for each B- and I-."""
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def checked(raw: Raw, names: Sequence[str]) -> tuple[str, ...]:
    """The tags as they are written.

    Raises:
      BadSentence: a word has no tag, or one that is not among `names`.
    """
    if len(raw.tags) != len(raw.words):
        raise BadSentence(0, "no tag", f"{len(raw.words)} words but {len(raw.tags)} tags")
    tags = []
    for index, tag in enumerate(raw.tags):
        if tag is None:
            raise BadSentence(index, "one column", "no tag: the line has one column")
        if tag not in names:
            raise BadSentence(index, "unknown tag", f"tag {tag!r:.80} is not allowed; allowed are: {', '.join(names)}")
        tags.append(tag)
    return tuple(tags)


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags of a sentence in IOB2: as they are, with "B-" where a chunk begins.

    Raises:
      BadSentence: neither IOB1 nor IOB2 allows them.
    """
    converted, told = list(tags), ""
    before = "O"
    for index, tag in enumerate(tags):
        if tag != "O" and tag[2:] != before[2:]:
            converted[index] = f"B{tag[1:]}"
            if index or tag[0] == "B":
                told = told or tag
                if tag[0] != told[0]:
                    how = {"B": "as in IOB2", "I": "as in IOB1"}
                    detail = f"{tag} begins a chunk {how[tag[0]]}, but {told} in this sentence {how[told[0]]}"
                    raise BadSentence(index, "impossible tags", detail)
        before = tag
    return tuple(converted)


def _cells(line: str) -> list[str]:
    line = line.strip(" \t\r")
    if not line:
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
