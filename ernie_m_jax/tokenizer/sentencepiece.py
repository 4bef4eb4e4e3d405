"""ERNIE-M's tokenizer, in both of its published behaviours, and XLM-R's: the tokenizers built on SentencePiece.

In: the contents of `sentencepiece.bpe.model` and, for ERNIE-M, `vocab.txt`. Out: `tokenizer.Tokenizer`s, which
`Tokenizer.load` hands out.
"""

import bisect
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sentencepiece

from ernie_m_jax.tokenizer import files as tokenizer_files
from ernie_m_jax.tokenizer.base import LEADING_SPECIALS, MASK, MODEL_FILE, VOCABULARY_FILE, Encoding, Tokenizer

SPACE = "▁"  # SentencePiece's mark for a space
_BEFORE = "\U0010ffff"  # a noncharacter, which no vocabulary has: no piece reaches across it

_STRAIGHT = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}
_ALONE = re.compile("[\u4e00-\u9fff,;:.?!~，；：。？！《》【】]")
_XLM_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_XLM_ROBERTA_SP_SPECIALS = ("<unk>", "<s>", "</s>")  # SentencePiece's first ids


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


class ErnieTokenizer(Tokenizer):
    """SentencePiece with ERNIE-M's vocabulary file and one of its published behaviours.

    The two behaviours share the SentencePiece model:
      "ernie": text is cleaned (curly quotes to straight, em dash to '-', controls dropped, any white space to a space);
        a piece that ends in digit + comma is re-split.
      "huggingface": no cleaning; each CJK character U+4E00-9FFF and each of `,;:.?!~，；：。？！《》【】` stands alone
        and pieces are cut where digits meet other characters; a bare "▁" is kept unless it is first or before a piece
        that starts with "▁". Where ErnieMTokenizer raises IndexError (bare "▁" last) it is kept too.

    Ids are the lines of vocab.txt: [CLS] [PAD] [SEP] [UNK] 0 to 3, [MASK] last.
    """

    cls_id, pad_id, sep_id, unk_id = range(4)
    required = (MODEL_FILE, VOCABULARY_FILE)
    _separators = 2

    def __init__(self, files: Mapping[str, bytes], style: str = "ernie"):
        """Builds a tokenizer from the contents of the two files; see `Tokenizer.load` for what it raises."""
        self._files, self.style = files, style
        model, vocabulary = files[MODEL_FILE], files[VOCABULARY_FILE]
        self._tokens = _read_vocabulary(vocabulary)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self.vocab_size = len(self._tokens)
        self.mask_id = self.vocab_size - 1
        for name, index in (*zip(LEADING_SPECIALS, range(4), strict=True), (MASK, self.mask_id)):
            if self._ids.get(name) != index:
                found = f"it is on line {self._ids[name] + 1}" if name in self._ids else "it is missing"
                raise ValueError(f"{VOCABULARY_FILE}: {name} must be on line {index + 1} and on no other; {found}")
        self._processor = _read_model(model)
        self.fingerprint = tokenizer_files.digest((model, vocabulary), style)
        self._clean = CleaningTable(_STRAIGHT) if style == "ernie" else None
        self._split = self._split_digit_comma if style == "ernie" else _split_characters
        self._piece_ids = _PieceIds(self._split, self._ids, self.unk_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return ErnieTokenizer, (dict(self._files), self.style)

    def encode_ids(self, text: str) -> list[int]:
        """See `Tokenizer.encode_ids`."""
        tokenizer_files.refuse_surrogates(text)
        pieces: list[str] = self._processor.encode(self._cleaned(text), out_type=str)
        if self.style == "huggingface" and SPACE in pieces:
            pieces = [piece for i, piece in enumerate(pieces) if not _is_dropped(pieces, i)]
        piece_ids = self._piece_ids
        return [index for piece in pieces for index in piece_ids[piece]]

    def _encode_rest(self, text: str) -> list[int]:
        tokenizer_files.refuse_surrogates(text)
        pieces = ["", *_rest(self._processor, self._cleaned(text))]  # none of them is the first of its text
        kept = [i for i in range(1, len(pieces)) if self.style == "ernie" or not _is_dropped(pieces, i)]
        return [index for i in kept for index in self._piece_ids[pieces[i]]]

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`."""
        tokenizer_files.refuse_surrogates(text)
        cleaned = self._cleaned(text)
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

    def _cleaned(self, text: str) -> str:
        return text if self._clean is None else text.translate(self._clean)

    def _join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace(SPACE, " ").strip(" ")

    def _split_digit_comma(self, piece: str) -> Sequence[str]:
        """Style "ernie": what precedes the comma of "digit," is encoded anew.

        The published code means to take off the "▁" that this puts before a piece from within a word, but compares str
        with bytes, so under Python 3 the "▁" stays. Kept so, because published scores come from that code.
        """
        if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit():
            return (piece,)
        return (*self._processor.encode(piece[:-1].replace(SPACE, ""), out_type=str), ",")


class XlmRobertaTokenizer(Tokenizer):
    """SentencePiece as XLM-R uses it: its pieces as they come, its ids + 1.

    `<s> <pad> </s> <unk>` are 0 to 3 and `<mask>` is the last id; the model file has no piece for `<pad>` and `<mask>`.
    """

    style = "xlm-roberta"
    cls_id, pad_id, sep_id, unk_id = range(4)
    required = (MODEL_FILE,)
    _separators = 2

    def __init__(self, files: Mapping[str, bytes]):
        """Builds a tokenizer from the contents of the model file; see `Tokenizer.load` for what it raises."""
        self._files = files
        self._processor = processor = _read_model(files[MODEL_FILE])
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        leading = len(_XLM_ROBERTA_SP_SPECIALS)
        if tuple(pieces[:leading]) != _XLM_ROBERTA_SP_SPECIALS:
            raise ValueError(
                f"{MODEL_FILE}: its first pieces are {' '.join(pieces[:leading])}; XLM-R's are "
                f"{' '.join(_XLM_ROBERTA_SP_SPECIALS)}"
            )
        self._tokens = [*_XLM_ROBERTA_SPECIALS, *pieces[leading:], "<mask>"]
        self.vocab_size = len(self._tokens)
        self.mask_id = self.vocab_size - 1
        self.fingerprint = tokenizer_files.digest((files[MODEL_FILE],), self.style)

    def encode_ids(self, text: str) -> list[int]:
        """See `Tokenizer.encode_ids`."""
        tokenizer_files.refuse_surrogates(text)
        # SentencePiece's 0 is <unk>; the ids of <s> and </s> never come of text.
        return [index + 1 if index else self.unk_id for index in self._processor.encode(text)]

    def _encode_rest(self, text: str) -> list[int]:
        tokenizer_files.refuse_surrogates(text)
        indices = map(self._processor.piece_to_id, _rest(self._processor, text))
        return [index + 1 if index else self.unk_id for index in indices]

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`."""
        encoding = Encoding(self.encode_ids(text), [])
        normalised, origins = self._processor.normalize(text, with_offsets=True)
        position = 0
        for piece in self._processor.encode(text, out_type=str):
            end = position + len(piece)
            first, last, _ = _locate(piece, normalised, position, end)
            encoding.offsets.append(_span(normalised[first:last], first, origins, range(len(text) + 1)))
            position = end
        return encoding

    def _join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace(SPACE, " ").strip(" ")


def _read_model(contents: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(contents)
    except RuntimeError as error:
        raise ValueError(f"{MODEL_FILE}: not a SentencePiece model ({error})") from error
    if processor.is_byte(processor.piece_to_id("<0x00>")):  # such pieces have no place in the text
        raise ValueError(f"{MODEL_FILE}: has byte pieces (byte_fallback); ERNIE-M's and XLM-R's models have none")
    return processor


def _rest(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[str]:
    """The pieces of a text that goes on behind another: without the "▁" that SentencePiece puts before a text."""
    pieces: list[str] = processor.encode(_BEFORE + text, out_type=str)
    first = next(i for i, piece in enumerate(pieces) if _BEFORE in piece)
    own = pieces[first].partition(_BEFORE)[2]  # unknown characters in a row are one piece
    return [own, *pieces[first + 1 :]] if own else pieces[first + 1 :]


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
