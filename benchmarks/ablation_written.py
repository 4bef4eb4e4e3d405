"""Back-translates a study's monolingual text once, so that a generator that does not change can be tried.

    python benchmarks/ablation_written.py --run runs/messages/camlm-0 --text corpus/pairs-50/text --output written

Writes LANGUAGE.tsv.gz for each language of the text: its lines, and what the run's model writes of them in every other
language, with the columns of `ablation_corpus.py`'s real translations. A line of which nothing is written in some
language is left out, and so is one of more than 250 tokens, which with its translation has no room in the model.
"""

import argparse
import gzip
import pathlib
import sys

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from ablation_corpus import write_table
from ablation_split import Texts

import ernie_m_jax

LONGEST = 250  # tokens


def written(model: ernie_m_jax.Model, lines: list[str], language: str) -> list[Texts]:
    """The lines of a language with what the model writes in the others."""
    lines = [line for line in lines if len(model.tokenizer.encode_ids(line)) <= LONGEST]
    texts = {language: lines}
    for target in model.languages:
        if target != language:
            found = model.back_translate(lines, language, target)
            texts[target] = [" ".join(one.text.split()) for one in found]
    rows = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
    return [row for row in rows if all(row.values())]


def main() -> None:
    """Writes the files; the folder is there once all are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="work directory whose model writes")
    parser.add_argument("--text", type=pathlib.Path, required=True, help="folder with LANGUAGE.txt.gz")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder that is not there yet")
    arguments = parser.parse_args()
    model = ernie_m_jax.load(arguments.run, scan_layers=False)
    unfinished = arguments.output.with_name(f"{arguments.output.name}.part")
    for language in model.languages:
        lines = gzip.decompress((arguments.text / f"{language}.txt.gz").read_bytes()).decode().splitlines()
        rows = written(model, lines, language)
        write_table(unfinished / f"{language}.tsv.gz", model.languages, rows)
        print(f"{language}: {len(rows)} of {len(lines)} lines", flush=True)
    unfinished.rename(arguments.output)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
