"""mBERT's tokenizer: text cut at white space and punctuation, then WordPiece.

In: the contents of a published tokenizer's files. Out: a `tokenizer.Tokenizer`, which `Tokenizer.load` hands out. Words
are cut here, as transformers' slow class cuts them; the pieces of a word come from the `tokenizers` library.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from ernie_m_jax.tokenizer import files as tokenizer_files
from ernie_m_jax.tokenizer.base import VOCABULARY_FILE, Encoding, Tokenizer
from ernie_m_jax.tokenizer.files import CONFIG_FILE

FAST_FILE = "tokenizer.json"

_LONGEST_WORD = 100  # characters; BERT makes one unknown token of a longer one
_HAN = (  # what BERT takes for Chinese: the CJK ideographs that Unicode had in 2018
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class _Cleaning(dict[int, str | None]):
    """For `str.translate`: controls dropped, white space to a space, Chinese characters between spaces."""

    def __init__(self, separate_han: bool):
        super().__init__({0xFFFD: None})
        self._separate_han = separate_han

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        self[code] = character
        if character in "\t\n\r" or category == "Zs":
            self[code] = " "
        elif category.startswith("C"):
            self[code] = None
        elif self._separate_han and any(first <= code <= last for first, last in _HAN):
            self[code] = f" {character} "
        return self[code]


class _Separated(dict[int, str | None]):
    """For `str.translate`: punctuation between spaces; marks (Mn) dropped if `drop_marks`."""

    def __init__(self, drop_marks: bool):
        super().__init__()
        self._drop_marks = drop_marks

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        symbol = 33 <= code <= 126 and not character.isalnum()  # to BERT "$" or "^" is punctuation, in ASCII only
        self[code] = f" {character} " if symbol or category.startswith("P") else character
        if self._drop_marks and category == "Mn":
            self[code] = None
        return self[code]


class BertTokenizer(Tokenizer):
    """WordPiece, as transformers' BertTokenizer.

    Text is cleaned and cut at white space and punctuation, words into the longest pieces of vocab.txt from the left.
    `tokenizer_config.json` says how (`do_lower_case`, `tokenize_chinese_chars`, `strip_accents`); what it leaves out
    is taken from `tokenizer.json`'s BertNormalizer, else from BertTokenizer's defaults (true, true, as do_lower_case).
    """

    style = "bert"
    required = (VOCABULARY_FILE,)
    optional = (CONFIG_FILE, FAST_FILE)

    def __init__(self, files: Mapping[str, bytes]):
        """Builds a tokenizer from the contents of its files; see `Tokenizer.load` for what it raises."""
        self._files = files
        vocabulary = files[VOCABULARY_FILE]
        self._tokens, ids = _read_lines(vocabulary)
        self.vocab_size = len(self._tokens)
        config = tokenizer_files.read_object(files, CONFIG_FILE)
        for key, value in (("do_basic_tokenize", True), ("never_split", None)):
            if config.get(key, value) != value:
                raise ValueError(f"{CONFIG_FILE}: {key} {config[key]!r} is not supported; it must be {value!r}")
        keys = ("cls", "pad", "sep", "unk", "mask")
        names = {key: tokenizer_files.token_name(config, f"{key}_token", f"[{key.upper()}]") for key in keys}
        for key, name in names.items():
            setattr(self, f"{key}_id", tokenizer_files.special_id(ids, name, VOCABULARY_FILE))
        self._lower, separate_han, self._strip = settings = _settings(config, files)
        self._clean, self._separate = _Cleaning(separate_han), _Separated(self._strip)
        self._word_piece = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(ids, unk_token=names["unk"], max_input_chars_per_word=_LONGEST_WORD)
        )
        effective = json.dumps([settings, names], sort_keys=True).encode()
        self.fingerprint = tokenizer_files.digest((vocabulary, effective), self.style)

    def encode_ids(self, text: str) -> list[int]:
        """See `Tokenizer.encode_ids`."""
        tokenizer_files.refuse_surrogates(text)
        words = self._separated(self._cleaned(text)).split()
        return self._word_piece.encode(words, is_pretokenized=True).ids if words else []

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`."""
        tokenizer_files.refuse_surrogates(text)
        cleaned = [self._cleaned(character) for character in text]
        origins = [i for i, part in enumerate(cleaned) for _ in part]  # cleaned character -> original character
        joined = "".join(cleaned)
        parts, spans = [], []
        for start, end in _clusters(joined):  # what follows reaches no further than a cluster
            part = self._separated(joined[start:end])
            parts.append(part)
            spans += [(origins[start], origins[end - 1] + 1)] * len(part)
        words = list(re.finditer(r"\S+", "".join(parts)))
        if not words:
            return Encoding([], [])
        encoded = self._word_piece.encode([word[0] for word in words], is_pretokenized=True)
        encoding = Encoding(encoded.ids, [])
        begins = [words[index].start() for index in encoded.word_ids if index is not None]
        for (first, last), begin in zip(encoded.offsets, begins, strict=True):
            encoding.offsets.append((spans[begin + first][0], spans[begin + last - 1][1]))
        return encoding

    def _cleaned(self, text: str) -> str:
        return (tokenizer_files.lowered(text) if self._lower else text).translate(self._clean)

    def _separated(self, cleaned: str) -> str:
        """Cleaned text as WordPiece takes it: its words between white space."""
        composed = unicodedata.normalize("NFC", cleaned)
        return (unicodedata.normalize("NFD", composed) if self._strip else composed).translate(self._separate)

    def _join(self, tokens: Sequence[str]) -> str:
        return " ".join(tokens).replace(" ##", "").strip()


def _clusters(text: str) -> list[tuple[int, int]]:
    """Spans that NFC and NFD treat alone: a character with what reorders or composes with it."""
    bounds = [0] if text else []
    nfc = functools.partial(unicodedata.normalize, "NFC")
    for i in range(1, len(text)):
        character, so_far = text[i], text[bounds[-1] : i]
        if character.isascii() or (
            not unicodedata.combining(unicodedata.normalize("NFD", character)[0])
            and nfc(so_far + character) == nfc(so_far) + nfc(character)
        ):
            bounds.append(i)
    return list(zip(bounds, [*bounds[1:], len(text)], strict=False))


def _read_lines(contents: bytes) -> tuple[list[str], dict[str, int]]:
    """Tokens of a WordPiece vocabulary, one per line, and their ids."""
    tokens: list[str] = []
    ids: dict[str, int] = {}
    for number, line in enumerate(contents.removesuffix(b"\n").split(b"\n")):
        try:
            token = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{VOCABULARY_FILE}, line {number + 1}: not UTF-8 ({error.reason})") from error
        if token in ids:
            raise ValueError(f"{VOCABULARY_FILE}, line {number + 1}: {token!r} is on line {ids[token] + 1} too")
        ids[token] = number
        tokens.append(token)
    return tokens, ids


def _settings(config: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[bool, bool, bool]:
    """Whether to lower the case, to separate Chinese characters, and to strip accents."""
    normaliser = tokenizer_files.read_object(files, FAST_FILE).get("normalizer") or {"type": "BertNormalizer"}
    if not isinstance(normaliser, dict) or normaliser.get("type") != "BertNormalizer":
        raise ValueError(f"{FAST_FILE}: its normalizer is no BertNormalizer, so this is no BERT tokenizer")

    def setting(key: str, fast_key: str, default: bool) -> bool:
        there = tokenizer_files.boolean(normaliser, fast_key, FAST_FILE, default)
        return tokenizer_files.boolean(config, key, CONFIG_FILE, there)

    if config.get("strip_accents", "") is None:  # null is BERT's own "as do_lower_case"
        config = {key: value for key, value in config.items() if key != "strip_accents"}
    if normaliser.get("strip_accents", "") is None:
        normaliser = {key: value for key, value in normaliser.items() if key != "strip_accents"}
    lower = setting("do_lower_case", "lowercase", True)
    han = setting("tokenize_chinese_chars", "handle_chinese_chars", True)
    return lower, han, setting("strip_accents", "strip_accents", lower)
