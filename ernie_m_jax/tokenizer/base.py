"""Text to token ids, and back: what every tokenizer has, and the way to open one.

In: a directory with a tokenizer's files, and text. Out: ids for `task.examples`, with character offsets into the text
where a task needs them (tagging, question answering). A style's own module is found by name in `_CLASSES`.

    python -m ernie_m_jax.tokenizer train --input a.txt b.txt --vocab_size 8000 --output DIR
    python -m ernie_m_jax.tokenizer encode --tokenizer DIR "some text"
"""

import abc
import importlib
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from etils import epath

from ernie_m_jax import stores
from ernie_m_jax.tokenizer import files as tokenizer_files

MODEL_FILE = "sentencepiece.bpe.model"
VOCABULARY_FILE = "vocab.txt"
LEADING_SPECIALS: tuple[str, ...] = ("[CLS]", "[PAD]", "[SEP]", "[UNK]")  # the first lines of vocab.txt, in this order
MASK = "[MASK]"  # its last line
# Style -> "module:class", and what its constructor takes beside the files.
_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ernie": ("ernie_m_jax.tokenizer.sentencepiece:ErnieTokenizer", ("ernie",)),
    "huggingface": ("ernie_m_jax.tokenizer.sentencepiece:ErnieTokenizer", ("huggingface",)),
    "xlm-roberta": ("ernie_m_jax.tokenizer.sentencepiece:XlmRobertaTokenizer", ()),
    "bert": ("ernie_m_jax.tokenizer.wordpiece:BertTokenizer", ()),
    "xlm": ("ernie_m_jax.tokenizer.xlm:XlmTokenizer", ()),
}
STYLES = tuple(_CLASSES)


class Encoding(NamedTuple):
    """Token ids with, for each, the [start, end) characters of the original text it stands for.

    The white space before a word is not part of its span. Two tokens cut from one character (a ligature, a squared
    word) both have that character as their span; a token that stands for no character has an empty one.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


def shorten_pair(first: list[int], second: list[int], length: int) -> tuple[list[int], list[int]]:
    """Longest-first truncation to `length` ids together: the longer loses its last one (the second on a tie), again."""
    if len(first) + len(second) <= length:
        return first, second
    kept = min(len(first), max((length + 1) // 2, length - len(second)))
    return first[:kept], second[: length - kept]


class Tokenizer(abc.ABC):
    """A tokenizer of a published model; `Tokenizer.load` opens one.

    The published behaviours (`style`):
      "ernie": PaddlePaddle/ERNIE, ernie-m/reader/tokenization.py, which published scores come from.
      "huggingface": transformers' ErnieMTokenizer.
      "xlm-roberta": transformers' XLMRobertaTokenizer (XLM-R, InfoXLM, VECO, Unicoder).
      "bert": transformers' BertTokenizer (mBERT).
      "xlm": transformers' XLMTokenizer, in one language at a time.
    In all of them names of special tokens in the text are ordinary text: only `encode_single` and `encode_pair` add
    special tokens, and `encode_masked` reads the mask's. (transformers' classes take them for the tokens themselves.)

    Attributes:
      style: one of STYLES.
      cls_id, sep_id: what stands first, and what ends each text (XLM: `<s>` and `</s>`).
      pad_id, unk_id, mask_id: as the names say.
      vocab_size: number of ids, special tokens included.
      fingerprint: sha256, in hex, of all that decides the ids: the files, the settings, the style.
    """

    style: str
    cls_id: int
    pad_id: int
    sep_id: int
    unk_id: int
    mask_id: int
    vocab_size: int
    fingerprint: str
    required: ClassVar[tuple[str, ...]]  # names of the files that make the tokenizer
    optional: ClassVar[tuple[str, ...]] = ()  # names of those it reads where they are
    _separators: ClassVar[int] = 1  # between the two texts of a pair
    _files: Mapping[str, bytes]
    _tokens: Sequence[str]  # by id

    @staticmethod
    def load(path: epath.PathLike, style: str = "ernie", language: str | None = None) -> "Tokenizer":
        """Reads a tokenizer.

        Args:
          path: a directory, or its URL. "ernie", "huggingface": `sentencepiece.bpe.model` and `vocab.txt` (one token
            per line, perhaps a tab and its id; a token's id is its line, counted from 0, whatever id SentencePiece
            gives it).
            "xlm-roberta": `sentencepiece.bpe.model`. "bert": `vocab.txt`, with the settings in `tokenizer_config.json`
            or `tokenizer.json` where they are there. "xlm": `vocab.json` and `merges.txt`, perhaps
            `tokenizer_config.json`. Other files may lie beside them.
          style: one of STYLES.
          language: "xlm" only: the ISO 639-1 code whose Moses rules cut the text; "en" where not given.

        Raises:
          FileNotFoundError: a file is not there.
          ValueError: unknown style, a language that cannot be had, files that cannot be read or miss a special token
            (ERNIE-M's: `[CLS] [PAD] [SEP] [UNK]` first, `[MASK]` last), or a library that is not installed.
        """
        if style not in STYLES:
            raise ValueError(f"tokenizer style {style!r}: must be one of {', '.join(STYLES)}")
        if language is not None and style != "xlm":
            raise ValueError(f"tokenizer language {language!r}: style {style!r} is the same in all; only 'xlm' is not")
        kind, arguments = _class_of(style)
        if language is not None:
            arguments = (language,)
        files = {}
        for name in (*kind.required, *kind.optional):
            file = stores.join(path, name)
            if stores.exists(file):
                files[name] = stores.read(file)
            elif name in kind.required:
                raise FileNotFoundError(
                    f"{file}: no such file; a tokenizer of style {style!r} is a directory with "
                    f"{' and '.join(kind.required)}"
                )
        try:
            return kind(files, *arguments)
        except ValueError as error:
            raise ValueError(f"tokenizer {os.fspath(path)}: {error}") from error

    @staticmethod
    def is_in(path: epath.PathLike, style: str) -> bool:
        """Whether a directory, or its URL, has the files that `load` needs for a style."""
        return all(stores.exists(stores.join(path, name)) for name in _class_of(style)[0].required)

    def save(self, directory: epath.PathLike) -> None:
        """Writes the files it was made of, byte for byte; `load` with the same style and language gives it again.

        Raises:
          NotADirectoryError, IsADirectoryError: `directory` is a file, or has a directory in a file's place.
          FileExistsError: a file is there that `load` would read and that this tokenizer was made without.
        """
        for name in self.optional:
            if name not in self._files and stores.exists(file := stores.join(directory, name)):
                raise FileExistsError(f"{file}: would change the tokenizer saved beside it; remove it first")
        tokenizer_files.write(directory, self._files)

    @abc.abstractmethod
    def encode_ids(self, text: str) -> list[int]:
        """Ids of the text's pieces, no special tokens; none for empty text. Raises ValueError on a lone surrogate."""

    @abc.abstractmethod
    def encode(self, text: str) -> Encoding:
        """As `encode_ids`, with each id's span in `text`, in characters, whatever cleaning and normalisation did.

        Raises ValueError on a lone surrogate, and always in style "xlm", where text is rewritten beyond following.
        """

    def encode_masked(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """As `encode_ids`, but "[MASK]", or the mask token's own name, is the mask token; and where these stand.

        What follows a mask is cut as within a text: as a word of its own only behind white space.

        Returns:
          The ids, and the [start, end) of each mask in the text, in characters.
        """
        names = "|".join(re.escape(name) for name in (MASK, *self.tokens([self.mask_id])))
        spans = [match.span() for match in re.finditer(names, text)]
        ids = self.encode_ids(text[: spans[0][0]] if spans else text)
        ends = [start for start, _ in spans[1:]]
        for (_, start), end in zip(spans, [*ends, len(text)], strict=False):
            ids += [self.mask_id, *self._encode_rest(text[start:end])]
        return ids, spans

    def encode_single(self, text: str, max_length: int | None = None) -> list[int]:
        """`[CLS] A [SEP]`, cut to `max_length` ids. Raises ValueError where `max_length` is below 2."""
        ids = self.encode_ids(text)
        if max_length is not None:
            if max_length < 2:
                raise ValueError(f"max_length {max_length}: must be at least 2, the special tokens")
            ids = ids[: max_length - 2]
        return [self.cls_id, *ids, self.sep_id]

    def encode_pair(self, first: str, second: str, max_length: int | None = None) -> list[int]:
        """`[CLS] A [SEP] [SEP] B [SEP]`, of at most `max_length` ids; with one `[SEP]` between in "bert" and "xlm".

        To fit, the longer text loses its last piece (B on a tie), again and again. Raises ValueError where `max_length`
        is below the number of special tokens, 4 or 3.
        """
        a, b = self.encode_ids(first), self.encode_ids(second)
        specials = 2 + self._separators
        if max_length is not None:
            if max_length < specials:
                raise ValueError(f"max_length {max_length}: must be at least {specials}, the special tokens")
            a, b = shorten_pair(a, b, max_length - specials)
        return self.join_pair(a, b)

    def join_pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Ids of two texts as a pair with its special tokens, as `encode_pair` makes it."""
        return [self.cls_id, *first, *[self.sep_id] * self._separators, *second, self.sep_id]

    def decode(self, ids: Iterable[int], skip_specials: bool = True) -> str:
        """Joins the pieces to text; special tokens but the unknown one are left out unless `skip_specials` is False.

        The unknown token stays, since it stands for text. Raises ValueError on an id that is not in the vocabulary.
        """
        skipped = (self.cls_id, self.pad_id, self.sep_id, self.mask_id) if skip_specials else ()
        indices = list(map(operator.index, ids))
        tokens = zip(indices, self.tokens(indices), strict=True)
        return self._join([token for index, token in tokens if index not in skipped])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's entries. Raises ValueError on an id that is not in the vocabulary."""
        indices = list(map(operator.index, ids))
        for index in indices:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index}: must be in [0, {self.vocab_size})")
        return [self._tokens[index] for index in indices]

    def entries(self) -> list[str]:
        """The vocabulary by id, without the special tokens."""
        special = set(self.special_tokens.values())
        return [token for index, token in enumerate(self._tokens) if index not in special]

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens' names with their ids, in the order of the ids."""
        ids = sorted({self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id})
        return {self._tokens[index]: index for index in ids}

    def _encode_rest(self, text: str) -> list[int]:
        """As `encode_ids`, for text that goes on where other text ends."""
        return self.encode_ids(text)

    @abc.abstractmethod
    def _join(self, tokens: Sequence[str]) -> str:
        """Text of a sequence of tokens."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self._files),)


def _class_of(style: str) -> tuple[Any, tuple[str, ...]]:
    """A style's class, found by name since each needs a library of its own, and what it takes beside the files."""
    name, arguments = _CLASSES[style]
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind), arguments
