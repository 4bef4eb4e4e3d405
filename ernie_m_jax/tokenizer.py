"""Text to token ids, and back.

In: a directory with `sentencepiece.bpe.model` and `vocab.txt`, and text. Out: ids for `task.example`, with character
offsets into the text where a task needs them (tagging, question answering). Training a new pair of files, and the
command line, are in `tokenizer_training.py`.

    python -m ernie_m_jax.tokenizer train --input a.txt b.txt --vocab_size 8000 --output DIR
    python -m ernie_m_jax.tokenizer encode --tokenizer DIR "some text"
"""

import bisect
import hashlib
import operator
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import sentencepiece
from etils import epath

MODEL_FILE = "sentencepiece.bpe.model"
VOCABULARY_FILE = "vocab.txt"
LEADING_SPECIALS: tuple[str, ...] = ("[CLS]", "[PAD]", "[SEP]", "[UNK]")  # the first lines of vocab.txt, in this order
MASK = "[MASK]"  # its last line
STYLES = ("ernie", "huggingface")
SPACE = "▁"  # SentencePiece's mark for a space

_STRAIGHT = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}
_ALONE = re.compile("[\u4e00-\u9fff,;:.?!~，；：。？！《》【】]")


class Encoding(NamedTuple):
    """Token ids with, for each, the [start, end) characters of the original text it stands for.

    The white space before a word is not part of its span. Two tokens cut from one character (a ligature, a squared
    word) both have that character as their span; a token that stands for no character has an empty one.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class CleaningTable(dict[int, str | None]):
    """For `str.translate`: `replaced` first, controls (Cc, Cf) dropped, white space to a space. Filled when used."""

    def __init__(self, replaced: dict[str, str]):
        super().__init__({ord(old): new for old, new in replaced.items()})

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            self[code] = " "
        else:
            self[code] = None if category in ("Cc", "Cf") else character
        return self[code]


class _PieceIds(dict[str, tuple[int, ...]]):
    """SentencePiece piece -> ids after re-splitting. Keeps the vocabulary's pieces only: unknown ones have no bound."""

    def __init__(self, split: Callable[[str], Sequence[str]], vocabulary: dict[str, int], unknown: int):
        super().__init__()
        self._split, self._vocabulary, self._unknown = split, vocabulary, unknown

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = tuple(self._vocabulary.get(part, self._unknown) for part in self._split(piece))
        if piece in self._vocabulary:
            self[piece] = ids
        return ids


class Tokenizer:
    """SentencePiece with ERNIE-M's vocabulary file and one of its published behaviours.

    The two behaviours (`style`); they share the SentencePiece model:
      "ernie": PaddlePaddle/ERNIE, ernie-m/reader/tokenization.py, which published scores come from. Text is cleaned
        (curly quotes to straight, em dash to '-', controls dropped, any white space to a space); a piece that ends in
        digit + comma is re-split.
      "huggingface": transformers' ErnieMTokenizer. No cleaning; each CJK character U+4E00-9FFF and each of
        `,;:.?!~，；：。？！《》【】` stands alone and pieces are cut where digits meet other characters; a bare "▁" is
        kept unless it is first or before a piece that starts with "▁". Where that class raises IndexError (bare "▁"
        last) it is kept too. Names of special tokens in the text are ordinary text, here as in "ernie": only
        `encode_single` and `encode_pair` add special tokens.

    Attributes:
      cls_id, pad_id, sep_id, unk_id: 0, 1, 2, 3.
      mask_id: the last line of vocab.txt.
      vocab_size: number of lines of vocab.txt.
      fingerprint: sha256, in hex, of both files' bytes and the style.
    """

    cls_id, pad_id, sep_id, unk_id = range(4)

    def __init__(self, model: bytes, vocabulary: bytes, style: str = "ernie"):
        """Builds a tokenizer from the contents of the two files; see `load` for what it raises."""
        if style not in STYLES:
            raise ValueError(f"tokenizer style {style!r}: must be one of {', '.join(STYLES)}")
        self._files, self.style = (model, vocabulary), style
        self._tokens = _read_vocabulary(vocabulary)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self.vocab_size = len(self._tokens)
        self.mask_id = self.vocab_size - 1
        for name, index in (*zip(LEADING_SPECIALS, range(4), strict=True), (MASK, self.mask_id)):
            if self._ids.get(name) != index:
                found = f"it is on line {self._ids[name] + 1}" if name in self._ids else "it is missing"
                raise ValueError(f"{VOCABULARY_FILE}: {name} must be on line {index + 1} and on no other; {found}")
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"{MODEL_FILE}: not a SentencePiece model ({error})") from error
        if self._processor.is_byte(self._processor.piece_to_id("<0x00>")):  # such pieces have no place in the text
            raise ValueError(f"{MODEL_FILE}: has byte pieces (byte_fallback), which ERNIE-M's tokenizer does not")
        sizes = b"%d %d " % (len(model), len(vocabulary))  # so that bytes cannot move from one file to the other
        self.fingerprint = hashlib.sha256(sizes + model + vocabulary + style.encode()).hexdigest()
        self._clean = CleaningTable(_STRAIGHT) if style == "ernie" else None
        self._split = self._split_digit_comma if style == "ernie" else _split_characters
        self._piece_ids = _PieceIds(self._split, self._ids, self.unk_id)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes, bytes, str]]:
        return Tokenizer, (*self._files, self.style)

    @classmethod
    def load(cls, path: epath.PathLike, style: str = "ernie") -> "Tokenizer":
        """Reads a tokenizer.

        Args:
          path: directory with `sentencepiece.bpe.model` and `vocab.txt` (one token a line, perhaps a tab and its id).
            A token's id is its line, counted from 0, whatever id SentencePiece gives it.
          style: "ernie" or "huggingface".

        Raises:
          FileNotFoundError: one of the two files is not there.
          ValueError: unknown style, files that cannot be read, special tokens in other places than [CLS] [PAD] [SEP]
            [UNK] first and [MASK] last, or an id in vocab.txt that is not its line.
        """
        contents = []
        for name in (MODEL_FILE, VOCABULARY_FILE):
            file = epath.Path(path) / name
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file}: no such file; a tokenizer is a directory with {MODEL_FILE} and {VOCABULARY_FILE}"
                )
            contents.append(file.read_bytes())
        try:
            return cls(contents[0], contents[1], style)
        except ValueError as error:
            raise ValueError(f"tokenizer {os.fspath(path)}: {error}") from error

    def encode_ids(self, text: str) -> list[int]:
        """Ids of the text's pieces, no special tokens; none for empty text. Raises ValueError on a lone surrogate."""
        piece_ids = self._piece_ids
        return [index for piece in self._pieces(self._prepare(text)) for index in piece_ids[piece]]

    def encode(self, text: str) -> Encoding:
        """As `encode_ids`, with each id's span in `text`, in characters, whatever cleaning and normalisation did."""
        cleaned = self._prepare(text)
        kept: Sequence[int] = range(len(text) + 1)  # cleaned character -> original character
        if self._clean is not None and len(cleaned) < len(text):
            kept = [i for i, character in enumerate(text) if self._clean[ord(character)] is not None]
            kept.append(len(text))
        normalised, origins = self._processor.normalize(cleaned, with_offsets=True)
        encoding = Encoding([], [])
        pieces = self._processor.encode(cleaned, out_type=str)
        position = 0  # in `normalised`, which is the pieces joined
        for i, piece in enumerate(pieces):
            end = position + len(piece)
            if self.style == "ernie" or not _is_dropped(pieces, i):
                for part in self._split(piece):
                    first, last, position = _locate(part, normalised, position, end)
                    encoding.ids.append(self._ids.get(part, self.unk_id))
                    encoding.offsets.append(_span(normalised[first:last], first, origins, kept))
            position = end
        return encoding

    def encode_single(self, text: str, max_length: int | None = None) -> list[int]:
        """[CLS] A [SEP], cut to `max_length` ids. Raises ValueError where `max_length` is below 2."""
        ids = self.encode_ids(text)
        if max_length is not None:
            if max_length < 2:
                raise ValueError(f"max_length {max_length}: must be at least 2, the special tokens")
            ids = ids[: max_length - 2]
        return [self.cls_id, *ids, self.sep_id]

    def encode_pair(self, first: str, second: str, max_length: int | None = None) -> list[int]:
        """[CLS] A [SEP] [SEP] B [SEP], of at most `max_length` ids.

        To fit, the longer text loses its last piece (B on a tie), again and again. Raises ValueError where `max_length`
        is below 4.
        """
        a, b = self.encode_ids(first), self.encode_ids(second)
        if max_length is not None:
            if max_length < 4:
                raise ValueError(f"max_length {max_length}: must be at least 4, the special tokens")
            room = max_length - 4
            if len(a) + len(b) > room:
                size_a = min(len(a), max((room + 1) // 2, room - len(b)))
                a, b = a[:size_a], b[: room - size_a]
        return [self.cls_id, *a, self.sep_id, self.sep_id, *b, self.sep_id]

    def decode(self, ids: Iterable[int], skip_specials: bool = True) -> str:
        """Joins the pieces, "▁" as a space; [CLS] [PAD] [SEP] [MASK] are left out unless `skip_specials` is False.

        [UNK] stays, for it stands for text. Raises ValueError on an id that is not in the vocabulary.
        """
        skipped = (self.cls_id, self.pad_id, self.sep_id, self.mask_id) if skip_specials else ()
        tokens = []
        for index in map(operator.index, ids):
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index}: must be in [0, {self.vocab_size})")
            if index not in skipped:
                tokens.append(self._tokens[index])
        return "".join(tokens).replace(SPACE, " ").strip(" ")

    def _prepare(self, text: str) -> str:
        """Refuses text that has no UTF-8 form; cleans in style "ernie"."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                found = f"U+{ord(text[error.start]):04X} at character {error.start}"
                raise ValueError(f"text has a lone surrogate, {found}; it is not valid Unicode") from error
        return text if self._clean is None else text.translate(self._clean)

    def _pieces(self, prepared: str) -> list[str]:
        pieces: list[str] = self._processor.encode(prepared, out_type=str)
        if self.style == "huggingface" and SPACE in pieces:
            return [piece for i, piece in enumerate(pieces) if not _is_dropped(pieces, i)]
        return pieces

    def _split_digit_comma(self, piece: str) -> Sequence[str]:
        """Style "ernie": what precedes the comma of "digit," is encoded anew.

        The published code means to take off the "▁" that this puts before a piece from within a word, but compares str
        with bytes, so under Python 3 the "▁" stays. Kept so, for published scores come from that code.
        """
        if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit():
            return (piece,)
        return (*self._processor.encode(piece[:-1].replace(SPACE, ""), out_type=str), ",")


def _split_characters(piece: str) -> Sequence[str]:
    """Style "huggingface": cuts at CJK characters, punctuation and digits; a "▁" cut off is dropped unless last."""
    if piece == SPACE:
        return (piece,)
    parts, start = [], 0
    for i in range(1, len(piece)):
        before, after = piece[i - 1], piece[i]
        digits = after != SPACE and before.isdigit() != after.isdigit()
        if digits or _ALONE.match(before) or _ALONE.match(after):
            if piece[start:i] != SPACE:
                parts.append(piece[start:i])
            start = i
    return (*parts, piece[start:])


def _is_dropped(pieces: Sequence[str], i: int) -> bool:
    """Style "huggingface": whether piece i is a bare "▁" that is first or stands before a piece with its own "▁"."""
    return pieces[i] == SPACE and (i == 0 or (i + 1 < len(pieces) and pieces[i + 1].startswith(SPACE)))


def _locate(part: str, normalised: str, start: int, end: int) -> tuple[int, int, int]:
    """Where `part`, without its outer "▁", stands in normalised[start:end]; and where the next part's search starts."""
    body = part.strip(SPACE)
    if not body:  # a space of the text, or one that re-splitting put in
        last = start + 1 if start < end and normalised[start] == SPACE else start
        return start, last, last
    first = normalised.find(body, start, end)
    if first < 0:  # encoding anew normalised it further: all that is left of the piece
        return start, end, end
    return first, first + len(body), first + len(body)


def _span(body: str, first: int, origins: Sequence[int], kept: Sequence[int]) -> tuple[int, int]:
    """Span in the original text of `body`, which stands at `first` in the normalised text.

    It ends where the next origin begins, not at the next character's origin: both halves of a ligature stand for all of
    it. Not so for a space: the one put before the text has the first word's origin and stands for nothing.
    """
    start, end = origins[first], origins[first + len(body)]
    if body and body != SPACE:
        next_origin = bisect.bisect_right(origins, origins[first + len(body) - 1])
        end = origins[min(next_origin, len(origins) - 1)]
    return (kept[start], kept[end - 1] + 1) if end > start else (kept[start], kept[start])


def _read_vocabulary(contents: bytes) -> list[str]:
    """Tokens of vocab.txt in order. Split at line feeds only: what else `str.splitlines` splits at may be a token."""
    tokens = []
    for number, line in enumerate(contents.removesuffix(b"\n").split(b"\n")):
        try:
            token, _, index = line.decode().removesuffix("\r").partition("\t")
        except UnicodeDecodeError as error:
            raise ValueError(f"{VOCABULARY_FILE}, line {number + 1}: not UTF-8 ({error.reason})") from error
        if index and index != str(number):
            raise ValueError(
                f"{VOCABULARY_FILE}, line {number + 1}: id {index!r}; must be the line counted from 0, {number}"
            )
        tokens.append(token)
    return tokens


def train(
    inputs: Iterable[str] | Iterable[os.PathLike],
    vocab_size: int,
    output_dir: epath.PathLike,
    character_coverage: float = 0.9999,
) -> Tokenizer:
    """Trains a tokenizer and writes its two files; see `tokenizer_training.train`."""
    from ernie_m_jax import tokenizer_training  # here, for it imports this module

    return tokenizer_training.train(inputs, vocab_size, output_dir, character_coverage)


if __name__ == "__main__":
    from ernie_m_jax import tokenizer_training

    sys.exit(tokenizer_training.main())
