"""Home Assistant's translated strings out of its PyPI wheel, for `ablation_corpus.py`.

The package is Apache-2.0. Strings are joined on component and key. What would give a pair away is taken out:
placeholders, code, addresses. A string counts once: of those whose letters are the same in any language, or whose
English shares most of its words with one that came before, the first stays; so neither hidden pairs nor near duplicates
straddle the parts of the corpus. Whole components are held out, for development and as the test.
"""

import json
import pathlib
import random
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ablation_split import Rows, Texts

# The wheel's code of each language.
CODES = {
    "en": "en",
    "de": "de",
    "ja": "ja",
    "zh": "zh-Hant",
    "ko": "ko",
    "tr": "tr",
    "hu": "hu",
    "et": "et",
    "ru": "ru",
    "el": "el",
    "he": "he",
}
LANGUAGES = ("en", "de", "tr", "ko")
HELD_OUT = {"dev": 0.08, "test": 0.1}  # shares of the components
SHORTEST = 4  # English words
NEAR = 0.7  # shared among the words of two English strings, from which on they count as one

FILE = re.compile(r"homeassistant/components/([^/]+)/translations/([^/.]+)\.json")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
GIVEAWAY = re.compile(r"\[%key:[^%]*%\]|`[^`]*`|<[^>]*>|https?://\S+|\{[^{}]*\}|%\w+%")
MARKS = re.compile(r"[*_#\"“”„«»「」]|\(\s*\)")
LETTERS = re.compile(r"[^\W\d_]+")


def clean(text: str) -> str:
    """A string without placeholders, code, tags, addresses and mark-up, its white space single spaces."""
    return " ".join(MARKS.sub(" ", GIVEAWAY.sub(" ", LINK.sub(r"\1", text))).split())


def letters(text: str) -> str:
    """What of a string counts when it is compared: neither case nor digits nor anything between words."""
    return "".join(LETTERS.findall(text.casefold()))


def read(wheel: pathlib.Path, languages: Sequence[str]) -> Rows:
    """The strings that all the languages have, cleaned, each once, by component and key in their order."""
    tables: dict[str, dict[tuple, str]] = {language: {} for language in languages}
    named = {CODES[language]: language for language in languages}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            match = FILE.fullmatch(name)
            if match and match[2] in named:
                table = tables[named[match[2]]]
                table |= {(match[1], key): text for key, text in _flat(json.loads(archive.read(name)))}
    rows = {}
    for place in sorted(tables[languages[0]]):
        if all(place in table for table in tables.values()):
            texts = {language: clean(table[place]) for language, table in tables.items()}
            if _usable(texts, languages[0]):
                rows[place] = texts
    return _each_once(rows, languages[0])


def _flat(table: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value


def _usable(texts: Texts, first: str) -> bool:
    """Whether it is a sentence, and translated: in no two languages the same."""
    compared = [letters(text) for text in texts.values()]
    enough = len(texts[first].split()) >= SHORTEST and min(map(len, compared)) > 1
    return enough and len(set(compared)) == len(compared)


def _each_once(rows: Rows, first: str) -> Rows:
    seen: set[tuple[str, str]] = set()
    kept: dict[tuple, Texts] = {}
    sizes: list[int] = []
    having: dict[str, list[int]] = defaultdict(list)  # word -> the kept strings that have it, by number
    for place, texts in rows.items():
        same = {(language, letters(text)) for language, text in texts.items()}
        words = set(LETTERS.findall(texts[first].casefold()))
        shared = Counter(number for word in words for number in having[word])
        near = any(count >= NEAR * (len(words) + sizes[number] - count) for number, count in shared.items())
        if near or same & seen:
            continue
        seen |= same
        for word in words:
            having[word].append(len(sizes))
        sizes.append(len(words))
        kept[place] = texts
    return kept


def held_out(strings: Rows, seed: int) -> tuple[dict[str, list[Texts]], Rows]:
    """The strings of the held-out components, and those of the others."""
    components = sorted({component for component, _ in strings})
    shuffled = random.Random(seed).sample(components, len(components))
    found, rest = {}, dict(strings)
    for name, share in HELD_OUT.items():
        count = round(share * len(components))
        chosen, shuffled = set(shuffled[:count]), shuffled[count:]
        found[name] = [texts for (component, _), texts in strings.items() if component in chosen]
        rest = {place: texts for place, texts in rest.items() if place[0] not in chosen}
    return found, rest
