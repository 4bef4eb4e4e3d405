"""Labelled sentence pairs that are keyed objects, JSON lines and TFDS examples, as rows; used by `labelled.py`.

An object has its sentences, label, language and id under the names that a table's columns may have. In TFDS's `xnli` a
sentence is a mapping from languages, so that one example is a row in every language.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m_jax.data import objects, readers
from ernie_m_jax.data.labelled_rows import (
    ID_NAMES,
    LABEL_NAMES,
    LANGUAGE_NAMES,
    BadRow,
    Easy,
    Labels,
    Row,
    TextNames,
    line_text,
)


class ObjectRows:
    """What JSON lines and TFDS examples have in common; a subclass gives the objects."""

    path: str
    text_names: tuple[tuple[str, ...], tuple[str, ...]]

    def __len__(self) -> int:
        raise NotImplementedError

    def item(self, index: int) -> Mapping[str, Any]:
        """One object.

        Raises:
          BadRow: it cannot be decoded.
        """
        raise NotImplementedError

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether any object has a label; looks no further than the first that has one."""
        return any(self._has_label(index) for index in range(len(self)))

    def row(self, index: int) -> Row:
        """One row.

        Raises:
          BadRow: it cannot be decoded or lacks a sentence.
        """
        item = self.item(index)
        *sentences, label, language, own = _keys(tuple(item), *self.text_names)
        sides = []
        for place, key in enumerate(sentences):
            if not key or item[key] is None:
                names = ", ".join(self.text_names[place])
                raise BadRow("no sentence", f"no sentence {place + 1}; it needs one of the keys {names}")
            sides.append(self._sentence(item[key]))
        if sides[0].keys() == sides[1].keys() == {""}:
            spoken = str(_plain(item[language]) or "") if language else ""
            texts = {spoken: (sides[0][""], sides[1][""])}
        else:
            texts = {code: (sides[0].get(code, ""), sides[1].get(code, "")) for code in {**sides[0], **sides[1]}}
        name = _plain(item[own]) if own else None
        return Row(texts, self._label(item[label]) if label else None, label, "" if name is None else str(name))

    def easy(self, labels: Labels) -> Easy:
        """None: each object has to be decoded to be judged."""
        return Easy(np.zeros(len(self), bool), np.full(len(self), -1, np.int8), {})

    def _has_label(self, index: int) -> bool:
        try:
            item = self.item(index)
            key = _keys(tuple(item), *self.text_names)[2]
            return bool(key) and self._label(item[key]) is not None
        except BadRow:
            return False

    def _sentence(self, value: Any) -> Mapping[str, Any]:
        """A sentence by language, "" where the value does not say it."""
        return {"": _plain(value)}

    def _label(self, value: Any) -> str | None:
        """A label as text."""
        value = _plain(value)
        return None if value is None else str(value)


class JsonRows(ObjectRows):
    """Objects of a JSON Lines file."""

    def __init__(self, path: str, text_names: TextNames):
        """Indexes the file.

        Raises:
          DataError: the file is missing, empty or cannot be read.
        """
        self.path, self.text_names = path, (tuple(text_names[0]), tuple(text_names[1]))
        lines = readers.lines(path, strict=False)
        kept = lines.invalid()
        kept[~kept] = lines.take(~kept).filled()
        self.numbers = np.flatnonzero(kept).astype(np.int32)
        self.lines = lines.take(self.numbers)

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, index: int) -> str:
        """File and line."""
        return f"{self.path}:{self.numbers[index] + 1}"

    def item(self, index: int) -> Mapping[str, Any]:
        """One object."""
        text = line_text(self.lines, index)
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRow("not a JSON object", f"not a JSON object: {error}") from error
        if not isinstance(item, Mapping):
            raise BadRow("not a JSON object", f"not a JSON object but {type(item).__name__}")
        return item


class TfdsRows(ObjectRows):
    """Examples of a prepared TFDS data set; a row's number is its place in the prepared order."""

    def __init__(self, path: str, split: str, text_names: TextNames, labels: Labels):
        """Opens `tfds:NAME/CONFIG`, or `tfds:/DIRECTORY` of a prepared data set.

        Args:
          path: the data set.
          split: by the name it has there.
          text_names: keys of the first and of the second sentence.
          labels: names of the data set's own label classes are used where one of them is allowed, otherwise its
            numbers: PAWS-X calls 0 "different_meaning".

        Raises:
          DataError: the data set is not prepared or has no such split.
        """
        self.path, self.text_names = path, (tuple(text_names[0]), tuple(text_names[1]))
        self.examples = objects.TfdsExamples(path, split)
        features = self.examples.source.dataset_info.features
        classes = next((getattr(features[name], "names", ()) for name in LABEL_NAMES if name in features), ())
        self.classes = list(classes) if any(labels.number(name) >= 0 for name in classes) else []

    def __len__(self) -> int:
        return len(self.examples)

    def place(self, index: int) -> str:
        """Data set and number of the example, from 0."""
        return self.examples.place(index)

    def item(self, index: int) -> Mapping[str, Any]:
        """One example."""
        return self.examples[index]

    def _sentence(self, value: Any) -> Mapping[str, Any]:
        """A sentence by language, from TFDS's `Translation` or `TranslationVariableLanguages`."""
        if not isinstance(value, Mapping):
            return super()._sentence(value)
        if value.keys() == {"language", "translation"}:
            return dict(zip(map(_plain, value["language"]), map(_plain, value["translation"]), strict=True))
        return {code: _plain(text) for code, text in value.items()}

    def _label(self, value: Any) -> str | None:
        """A label as text: TFDS gives the index of a class, -1 where there is none."""
        value = _plain(value)
        if isinstance(value, int) and value < 0:
            return None
        return self.classes[value] if self.classes and isinstance(value, int) else super()._label(value)


@functools.lru_cache(maxsize=1024)  # most objects of a source have the same keys
def _keys(keys: tuple[str, ...], *text_names: tuple[str, ...]) -> tuple[str, str, str, str, str]:
    """The keys of the first and second sentence, the label, the language and the id; "" for one that is missing."""
    chosen = []
    for names in (*text_names, LABEL_NAMES, LANGUAGE_NAMES, ID_NAMES):
        found = [name for name in names if name in keys]
        if len(found) > 1:
            raise BadRow("two keys of one meaning", f"both {found[0]!r} and {found[1]!r} are given; keep one")
        chosen.append(found[0] if found else "")
    first, second, label, language, own = chosen
    return first, second, label, language, own


def _plain(value: Any) -> Any:
    """A value without NumPy and bytes.

    Raises:
      BadRow: bytes that are not UTF-8.
    """
    if type(value) is str:
        return value.strip()
    if isinstance(value, np.generic | np.ndarray):
        value = value.item() if value.ndim == 0 else value
    try:
        value = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise BadRow("invalid UTF-8", f"invalid UTF-8 ({error.reason})") from error
    return value.strip() if isinstance(value, str) else value
