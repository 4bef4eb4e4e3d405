"""How fast text becomes ids: our tokenizers, transformers' slow classes, and the `tokenizers` library's fast ones.

    python -m venv reference
    reference/bin/pip install "transformers==4.57.6" sentencepiece "sacremoses==0.2.0" protobuf "etils[epath]" fsspec
    PYTHONPATH=. reference/bin/python benchmarks/tokenizer_speed.py --output benchmarks/results/tokenizer_speed.json

One process on one core, timed in processor time; ids only, no special tokens; the text is the bundled Universal
Declaration of Human Rights, 918 paragraphs in 18 languages, one call per paragraph. A repeat goes through all
tokenizers in turn: each is made anew, reads every text once ("cold": it remembers nothing but from these texts), then
all again ("warm": its caches filled by that). The SentencePiece model is trained here, on the bundled text and the
tests' lines; --tokenizer takes a published one. mBERT's and XLM's vocabularies are the tests'. Prints a table (medians,
and the range of the warm runs) and writes it with hardware, versions and date. Ids are checked too: those of the slow
classes must be ours.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the library reads it: one core for everyone

import argparse
import csv
import datetime
import gzip
import importlib.metadata
import json
import lzma
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

from machine import processor

from ernie_m_jax.tokenizer import Tokenizer, train

ROOT = pathlib.Path(__file__).parents[1]
FIXTURE = ROOT / "tests" / "golden" / "tokenizer"
LIBRARIES = ("transformers", "tokenizers", "sentencepiece", "sacremoses")
REFERENCES = {  # ours -> what it is measured against
    "ernie": ("ErnieMTokenizer",),
    "huggingface": ("ErnieMTokenizer",),
    "xlm-roberta": ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
    "bert": ("BertTokenizer", "BertTokenizerFast"),
    "xlm": ("XLMTokenizer",),
}
EQUAL = {  # must give our ids, text for text
    "huggingface": "ErnieMTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "bert": "BertTokenizer",
    "xlm": "XLMTokenizer",
}

Encode = Callable[[str], list[int]]


def read_texts() -> list[str]:
    """The declaration's paragraphs in all languages."""
    path = ROOT / "ernie_m_jax" / "data" / "corpora" / "udhr" / "udhr18.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [text for row in rows[1:] for text in row[1:]]


def builders(folder: pathlib.Path) -> dict[str, Callable[[], Encode]]:
    """Name -> a function that makes the tokenizer anew and returns its encoding function."""
    import transformers
    from transformers.models.deprecated.ernie_m.tokenization_ernie_m import ErnieMTokenizer

    model, vocabulary = str(folder / "sentencepiece.bpe.model"), str(folder / "vocab.txt")
    bert, xlm = str(FIXTURE / "bert" / "vocab.txt"), FIXTURE / "xlm"

    def ours(style: str) -> Callable[[], Encode]:
        path = FIXTURE / style if style in ("bert", "xlm") else folder
        return lambda: Tokenizer.load(path, style).encode_ids

    def slow(kind: type, *files: str, **settings: bool) -> Callable[[], Encode]:
        def build() -> Encode:
            tokenizer = kind(*files, **settings)
            return lambda text: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))

        return build

    def fast(kind: type, file: str, **settings: bool) -> Callable[[], Encode]:
        converted = kind(file, **settings).backend_tokenizer.to_str()  # once: converting takes seconds

        def build() -> Encode:
            import tokenizers

            tokenizer = tokenizers.Tokenizer.from_str(converted)
            return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

        return build

    return {
        **{style: ours(style) for style in REFERENCES},
        "ErnieMTokenizer": slow(ErnieMTokenizer, model, vocabulary),
        "XLMRobertaTokenizer": slow(transformers.XLMRobertaTokenizer, model),
        "XLMRobertaTokenizerFast": fast(transformers.XLMRobertaTokenizerFast, model),
        "BertTokenizer": slow(transformers.BertTokenizer, bert, do_lower_case=False),
        "BertTokenizerFast": fast(transformers.BertTokenizerFast, bert, do_lower_case=False),
        "XLMTokenizer": slow(transformers.XLMTokenizer, str(xlm / "vocab.json"), str(xlm / "merges.txt")),
    }


def measure(made: dict[str, Callable[[], Encode]], texts: list[str], repeats: int) -> tuple[dict, dict]:
    """Tokens per second of each, {name: {"cold": [...], "warm": [...]}}, and the ids of each text."""
    rates: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warm": []} for name in made}
    ids = {}
    for _ in range(repeats):
        for name, build in made.items():
            encode = build()
            for moment in ("cold", "warm"):
                start = time.process_time()
                rows = [encode(text) for text in texts]
                rates[name][moment].append(sum(map(len, rows)) / (time.process_time() - start))
            ids[name] = rows
    return rates, ids


def table(rates: dict) -> str:
    """A Markdown table: ours, each followed by what it is measured against."""
    lines = ["| tokenizer | tokens/s, warm (range) | tokens/s, cold | ours to it, warm | cold |"]
    lines.append("| --- | --- | --- | --- | --- |")

    def row(name: str, ratios: tuple[str, str]) -> str:
        warm, cold = rates[name]["warm"], rates[name]["cold"]
        spread = f"{median(warm):,.0f} ({min(warm):,.0f}-{max(warm):,.0f})"
        return f"| {name} | {spread} | {median(cold):,.0f} | {ratios[0]} | {ratios[1]} |"

    for ours, others in REFERENCES.items():
        lines.append(row(f"{ours}", ("", "")))
        for other in others:
            ratios = [median(rates[ours][moment]) / median(rates[other][moment]) for moment in ("warm", "cold")]
            lines.append(row(other, (f"{ratios[0]:.2f}", f"{ratios[1]:.2f}")))
    return "\n".join(lines)


def trained(folder: pathlib.Path, vocab_size: int, texts: list[str]) -> pathlib.Path:
    """A tokenizer trained on the texts and the tests' lines."""
    lines = json.loads(lzma.decompress((FIXTURE / "texts.json.xz").read_bytes()))["lines"]
    train([*texts, *(line for _, line in lines)], vocab_size, folder)
    return folder


def main() -> None:
    """Measures, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--vocab_size", type=int, default=20_000, help="of the SentencePiece model trained here")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a folder with sentencepiece.bpe.model and vocab.txt")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    arguments = parser.parse_args()
    texts = read_texts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.tokenizer or trained(pathlib.Path(temporary), arguments.vocab_size, texts)
        vocab_size = Tokenizer.load(folder).vocab_size
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        rates, ids = measure(builders(folder), texts, arguments.repeats)
    different = {name: sum(a != b for a, b in zip(ids[name], ids[other], strict=True)) for name, other in EQUAL.items()}
    if any(different.values()):
        raise SystemExit(f"texts whose ids are not those of the slow class: {different}")
    print(table(rates))
    fast = sum(a != b for a, b in zip(ids["xlm-roberta"], ids["XLMRobertaTokenizerFast"], strict=True))
    print(f"\n{len(texts)} texts, {sum(map(len, texts)):,} characters; XLMRobertaTokenizerFast differs in {fast} texts")
    report = {
        "command": f"python benchmarks/tokenizer_speed.py {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, 1 core, load average {os.getloadavg()[0]:.2f} at the end",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "texts": {"number": len(texts), "characters": sum(map(len, texts)), "sentencepiece_vocabulary": vocab_size},
        "tokens": {name: sum(map(len, rows)) for name, rows in ids.items()},
        "texts_that_differ": {**different, "XLMRobertaTokenizerFast": fast},
        "median_tokens_per_second": {
            name: {moment: round(median(values)) for moment, values in of.items()} for name, of in rates.items()
        },
        "tokens_per_second": {
            name: {moment: [round(value) for value in values] for moment, values in of.items()}
            for name, of in rates.items()
        },
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
