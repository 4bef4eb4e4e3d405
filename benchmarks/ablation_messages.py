"""The TypeScript compiler's messages out of its npm package, for `ablation_corpus.py`.

    npm pack typescript@5.9.3

Apache-2.0, by Microsoft, translated by people; the package is read, not installed. The messages are cleaned and held
out as the corpus bundled with `ernie_m_jax` is (`ernie_m_jax/data/corpora/diagnostics/README.md`), so `dev` and `test`
are the bundled files. Beyond those this has the translations of the monolingual text, and other shares of pairs.
"""

import json
import pathlib
import re
import tarfile
from collections.abc import Mapping, Sequence

from ablation_split import Rows, Texts

from ernie_m_jax.data import prepare

LANGUAGES = ("en", "de", "fr", "ru")
FILE = re.compile(r"package/lib/([\w-]+)/diagnosticMessages\.generated\.json")
ENGLISH = "package/lib/typescript.js"
# A message in the compiler's own source: number, category, name and text, the last two as string literals.
MESSAGE = re.compile(r'diag\((\d+), \d+ /\* \w+ \*/, ("(?:[^"\\]|\\.)*"), ("(?:[^"\\]|\\.)*")')


def read(package: pathlib.Path, languages: Sequence[str]) -> Rows:
    """The messages that every language of the package has, by number, cleaned; of these languages.

    All languages are cleaned together, as for the bundled corpus: what one of them quotes goes out of the others.
    """
    if languages[0] != "en":
        raise SystemExit(f"--languages {' '.join(languages)}: en comes first, its texts say what is held out")
    english, tables = _published(package)
    everything = ("en", *sorted(tables))
    if unknown := set(languages) - set(everything):
        raise SystemExit(f"{package.name} has no {', '.join(sorted(unknown))}; it has {' '.join(everything)}")
    messages = {}
    for name, (number, text) in english.items():
        found = {"en": text, **{language: table.get(name, "") for language, table in tables.items()}}
        if all(found.values()):
            messages[number] = {language: " ".join(found[language].split()) for language in everything}
    kept = prepare.distinct({number: messages[number] for number in sorted(messages, key=int)})
    # A whole of its own each: there is nothing that messages belong to.
    return {(number, 0): {language: message[language] for language in languages} for number, message in kept.items()}


def _published(package: pathlib.Path) -> tuple[dict[str, tuple[str, str]], dict[str, Mapping[str, str]]]:
    """By the message's name: its number and English text; and by language the translations."""
    english: dict[str, tuple[str, str]] = {}
    tables: dict[str, Mapping[str, str]] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file and (match := FILE.fullmatch(member.name)):
                tables[match[1]] = json.loads(file.read())
            elif file and member.name == ENGLISH:
                found = MESSAGE.findall(file.read().decode())
                english = {json.loads(name): (number, json.loads(text)) for number, name, text in found}
    return english, tables


def label(place: tuple) -> str:
    """What kind of message it is, for a labelled task: the thousands of its number (1 syntax, 2 types, 6 options)."""
    return str(int(place[0]) // 1000)


def held_out(messages: Rows, seed: int) -> tuple[dict[str, list[Texts]], Rows]:
    """The bundled corpus's `dev` and `test`, whatever the seed, and the others."""
    del seed
    by_number = {place[0]: texts for place, texts in messages.items()}
    chosen = prepare.split(by_number)
    found = {name: [texts for number, texts in by_number.items() if number in set(chosen[name])]
             for name in ("dev", "test")}  # fmt: skip
    training = {*chosen["pairs"], *chosen["mono"]}
    return found, {place: texts for place, texts in messages.items() if place[0] in training}
