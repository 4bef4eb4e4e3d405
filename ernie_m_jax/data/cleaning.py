"""Compiler messages in, plain sentences out: what would give a translation pair away is taken off.

`prepare.diagnostics` calls this on the published messages. Placeholders such as `{0}`, quoted code words and bare code
(`--flag`, `tsconfig.json`, `camelCase`) stand identically in every language: a model could pair two messages by them
without understanding either. All functions are pure.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

NOT_LATIN = ("ja", "ko", "ru", "zh-cn", "zh-tw")  # a Latin word in lower case is code here
SPACELESS = ("ja", "ko", "zh-cn", "zh-tw")  # measured in characters rather than words
ABBREVIATIONS = ("e.g", "i.e", "z.B", "d.h", "p.ej", "u.a", "n.p", "m.in", "p.ex", "ex", "np")

_LETTER = r"A-Za-zÀ-ÖØ-öø-ɏЀ-ӿ"
_UNSPACED = r"\u3001-\u9fff\uff00-\uffef"  # kana, Chinese characters and their punctuation
_QUOTED = re.compile(
    r"\[[^\[\]]*\]|«[^«»]*»|„[^„“”\"]*[“”\"]|“[^“”]*[”“]|「[^「」]*」|『[^『』]*』|‚[^‚‘’]*[‘’]"
    r"|``?[^`]*``?|\"[^\"]*\""
    rf"|(?<![{_LETTER}])['‘](?:(?!['’](?![{_LETTER}]))[^\"«»„“”「」])*?['’](?![{_LETTER}])"  # 'it's' as one
    rf"|(?<![{_LETTER}])['‘][^'‘’]*['’]"
)
_PARTICLE = (  # Korean, written for both endings of an unknown word
    r"(?:이\(가\)|가\(이\)|을\(를\)|를\(을\)|은\(는\)|는\(은\)|과\(와\)|와\(과\)|\(으\)로|으로\(로\)|\(이\)라|\(이\))"
)
_PLACEHOLDER = re.compile(r"\{\d+\}|--\w[\w-]*")
_RUN = re.compile(rf"(?<![{_LETTER}0-9])[!-~]+(?![{_LETTER}0-9])")
_CODE = re.compile(
    r"^--|[_<>=*\[\]{}\\@#|&^~$]|^\.+\w|\w\.\.|[A-Za-z0-9]\.[A-Za-z]|[a-z][A-Z]|\(\)|[A-Za-z]\d|\d[A-Za-z]|://|^/\w|\w/$|[.]/"
    r"|[A-Z]{2,}/|^-[A-Za-z]$"
)
_COMPOUND = re.compile(r"-[A-Z][a-z]+$")  # German: the noun after `d.ts-` stays
_NAME = re.compile(r"TypeScript|JavaScript")  # camel case, yet ordinary names
_WORD = re.compile(rf"[{_LETTER}0-9]+")
_GAP = "\x00"  # where something was taken out; `_tidy` reads the neighbourhood and removes it
_DANGLING = re.compile(r"\b(?:or|and)(?: *[.,;)]| *$)|^(?:or|and)\b", re.IGNORECASE)
_QUOTES = re.compile(rf"[\"«»„“”「」『』‚‘`]|(?<![{_LETTER}])['’]|['’](?![{_LETTER}])")


def clean(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Cleans aligned messages.

    Args:
      messages: one mapping from language to text per message, all with the same languages.

    Returns:
      The cleaned messages in the same order, an empty text where nothing readable is left.
    """
    unquoted = [{language: _unquote(text) for language, text in message.items()} for message in messages]
    code = [set().union(*(words for _, words in message.values())) for message in unquoted]
    plain: Counter[tuple[str, str]] = Counter()
    for message, words in zip(unquoted, code, strict=True):
        for language, (text, _) in message.items():
            plain.update((language, word) for word in set(_WORD.findall(text)) - words)
    cleaned = []
    for message, words in zip(unquoted, code, strict=True):
        english = set(re.findall(r"\b[a-z]+\b", message["en"][0]))
        row = {}
        for language, (text, _) in message.items():
            foreign = words | english if language in NOT_LATIN else {w for w in words if plain[language, w] < 3}
            row[language] = _tidy(_without_words(text, foreign))
        cleaned.append(row)
    return cleaned


def usable(message: Mapping[str, str]) -> bool:
    """Whether every language still has two words (four characters where words are not spaced) and no quote is left.

    Args:
      message: a cleaned message with its English under `en`.
    """
    if _DANGLING.search(message["en"]):
        return False
    english = fold(message["en"])
    for language, text in message.items():
        enough = len(fold(text)) >= 4 if language in SPACELESS else len(_WORD.findall(text)) >= 2
        if not enough or _QUOTES.search(text) or (language != "en" and fold(text) == english):
            return False
    return True


def fold(text: str) -> str:
    """The text as compared for duplicates: case, spaces and punctuation do not count."""
    return re.sub(r"[\W_]+", "", text).casefold()


def _unquote(text: str) -> tuple[str, set[str]]:
    """Takes quoted words, placeholders and bare code out; returns the rest and the words that were in them."""
    text = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) not in ("Cc", "Cf"))
    text = text.replace("\xa0", " ").replace("\u3000", " ").replace("\u202f", " ")
    removed: set[str] = set()

    def gap(match: re.Match[str]) -> str:
        removed.update(_WORD.findall(_PLACEHOLDER.sub(" ", match[0])))
        return _GAP

    def code(match: re.Match[str]) -> str:
        run = match[0]
        body = run.strip("()'\",:;.!?") if "()" not in run else run.strip("'\",:;.!?")
        start = run.find(body)
        if not body.startswith("-"):
            body = _COMPOUND.sub("", body)
        if run[max(start - 1, 0) : start] == ".":  # `.json` keeps its dot
            start, body = start - 1, "." + body
        if body in ABBREVIATIONS or not _CODE.search(_NAME.sub("", body)):
            return run
        removed.update(_WORD.findall(body))
        return run[:start] + _GAP + run[start + len(body) :]

    text = _QUOTED.sub(gap, text)
    text = _PLACEHOLDER.sub(_GAP, text)
    return _RUN.sub(code, text), removed


def _without_words(text: str, words: set[str]) -> str:
    return _WORD.sub(lambda match: _GAP if match[0] in words else match[0], text)


def _tidy(text: str) -> str:
    """Closes the gaps: no orphaned particles, brackets, hyphens or punctuation, single spaces."""
    text = re.sub(rf"{_GAP}{_PARTICLE}", _GAP, text)
    text = re.sub(rf"{_GAP}['’]?[{_LETTER}]{{1,5}}\b|[-–/]+{_GAP}|{_GAP}[-–/]+", _GAP, text)
    text = re.sub(rf"\(\s*{_GAP}[\s{_GAP},/]*\)|\[\s*{_GAP}[\s{_GAP},]*\]", _GAP, text)
    text = re.sub(rf"(?<=[{_UNSPACED}])[\s{_GAP}]*{_GAP}[\s{_GAP}]*(?=[{_UNSPACED}])", "", text)
    text = text.replace("’", "'").replace(_GAP, " ")
    text = re.sub(r"\(\s*\)", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?)。、，；：！？])", r"\1", text)
    text = re.sub(r"([(])\s+", r"\1", text)
    text = re.sub(r"([,、，;:])(?:\s*[,、，;:])+", r"\1", text)
    text = re.sub(r"[,、，;:]+\s*([.。?])", r"\1", text)
    text = re.sub(r"([.。?!])\1+", r"\1", text)
    return text.strip().lstrip("!?.,;:、，。-–—/ ").rstrip(",:;、，：-–—/ ")
