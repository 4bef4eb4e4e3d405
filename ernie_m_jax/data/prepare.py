r"""Published data in, files of the package's formats out; run once, before training.

Two commands:

    python -m ernie_m_jax.data.prepare diagnostics --input diagnostics14.tsv.gz --output DIR
    python -m ernie_m_jax.data.prepare array_record --input corpus:udhr --kind parallel --languages en,de \
        --output 'DIR/{pair}.array_record'

The first makes the bundled corpus `diagnostics` (see its README): cleaned messages, 200 held out, the others half as
pairs and half as monolingual text. The second turns any source that `records.open_source` reads into one ArrayRecord
file per language or pair, the fastest form for random access at scale.
"""

import argparse
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ernie_m_jax.config import ConfigError, SourceConfig
from ernie_m_jax.data import cleaning, records

SEED = 2021  # of the bundled files; the year of the paper
HELD_OUT = 200  # messages, all of them with four English words or more where there are enough

Rows = list[dict[str, str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; `argv` defaults to the process's arguments.

    What a user can fix ends in one line on standard error and exit status 2.
    """
    parser = argparse.ArgumentParser(prog="python -m ernie_m_jax.data.prepare", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    messages = commands.add_parser("diagnostics", help="clean and split aligned compiler messages")
    messages.add_argument("--input", required=True, help="wide TSV (.gz), header row: key and languages")
    messages.add_argument("--output", required=True, help="folder for pairs.tsv.gz, mono.tsv.gz, heldout.tsv.gz")
    messages.add_argument("--held-out", type=int, default=HELD_OUT, help="messages kept for evaluation")
    messages.add_argument("--seed", type=int, default=SEED)
    convert = commands.add_parser("array_record", help="convert a source into ArrayRecord files")
    convert.add_argument("--input", required=True, help="path of the source, as in the config")
    convert.add_argument("--format", default="auto", help="as in the config")
    convert.add_argument("--kind", required=True, choices=("monolingual", "parallel"))
    convert.add_argument("--languages", required=True, help="comma-separated")
    convert.add_argument("--pairs", default="", help="comma-separated, such as en-de; empty: all")
    convert.add_argument("--columns", default="", help="comma-separated, as in the config")
    convert.add_argument("--split", default="train")
    convert.add_argument("--output", required=True, help="path with {language} or {pair} in its name")
    args = parser.parse_args(argv)
    try:
        if args.command == "diagnostics":
            counts = diagnostics(Path(args.input), Path(args.output), args.held_out, args.seed)
        else:
            source = SourceConfig(args.input, args.format, (), _names(args.pairs), _names(args.columns), args.split)
            counts = array_record(source, _names(args.languages), args.kind, args.output)
    except (ConfigError, records.DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.write("".join(f"{name}\t{count}\n" for name, count in counts.items()))


def diagnostics(source: Path, output: Path, held_out: int = HELD_OUT, seed: int = SEED) -> dict[str, int]:
    """Cleans the messages, holds some out and writes `pairs`, `mono` and `heldout` as `.tsv.gz`.

    A message is dropped when any language is left without two words (four characters in Japanese, Korean and
    Chinese), equals the English, or equals an earlier message's text in the same language. So no held-out message
    equals a training message in any language. In `mono` each language's column is shuffled on its own: no row is
    aligned. Every choice is a sort by SHA-256 of seed, purpose and key, so it depends on no library's generator.

    Args:
      source: wide TSV (.gz) with the header `key`, `en` and further languages.
      output: folder of the three files.
      held_out: messages for evaluation, preferring four English words or more.
      seed: of the choices.

    Returns:
      Number of messages by file name and of those read.
    """
    header, keys, messages = _read_wide(source)
    kept: dict[str, dict[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for key, message in zip(keys, cleaning.clean(messages), strict=True):
        texts = {(language, cleaning.fold(text)) for language, text in message.items()}
        if cleaning.usable(message) and not texts & seen:
            seen |= texts
            kept[key] = message
    order = _shuffled(kept, seed, "held out")
    long_first = sorted(order, key=lambda key: len(kept[key]["en"].split()) < 4)  # stable
    evaluation = set(long_first[:held_out])
    training = [key for key in _shuffled(kept, seed, "pairs") if key not in evaluation]
    half = len(training) // 2
    if len(evaluation) < held_out or not half:
        raise records.DataError(
            f"{source}: {len(kept)} messages are left after cleaning, too few to hold out {held_out} and train"
        )
    languages = header[1:]
    output.mkdir(parents=True, exist_ok=True)
    chosen = {"pairs": set(training[:half]), "heldout": evaluation}
    for name, names in chosen.items():
        rows = [[key, *(kept[key][language] for language in languages)] for key in kept if key in names]
        _write_tsv_gz(output / f"{name}.tsv.gz", [header, *rows])
    mono = training[half : 2 * half]
    columns = [[kept[key][language] for key in _shuffled(mono, seed, f"mono {language}")] for language in languages]
    _write_tsv_gz(output / "mono.tsv.gz", [languages, *zip(*columns, strict=True)])
    return {"read": len(keys), "kept": len(kept), "pairs": half, "mono": half, "heldout": held_out}


def array_record(source: SourceConfig, languages: tuple[str, ...], kind: records.Kind, output: str) -> dict[str, int]:
    """Writes one ArrayRecord file per language or pair: a JSON object per record, with the language as key.

    Args:
      source: anything `records.open_source` reads.
      languages: codes to read.
      kind: `monolingual` or `parallel`.
      output: path with `{language}` (monolingual) or `{pair}` (parallel).

    Returns:
      Number of records by language or pair.
    """
    from array_record.python import array_record_module

    key = "{language}" if kind == "monolingual" else "{pair}"
    if key not in output:
        raise records.DataError(f"--output {output!r} must contain {key}: one file each")
    counts = {}
    for name, sequence in records.open_source("input", source, languages, kind).items():
        path = output.replace(key, name)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for index in range(len(sequence)):
            record = sequence[index]
            line = dict(zip(record.languages, record.texts, strict=True))
            writer.write(json.dumps(line, ensure_ascii=False).encode())
        writer.close()
        counts[name] = len(sequence)
    return counts


def _read_wide(path: Path) -> tuple[list[str], list[str], Rows]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            table = [line.rstrip("\n").split("\t") for line in file]
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise records.DataError(f"{path}: cannot be read: {error}") from error
    header = table[0] if table else [""]
    if header[0] != "key" or "en" not in header:
        raise records.DataError(f"{path}:1: the header must be key, en and further languages, got {header}")
    for number, row in enumerate(table, 1):
        if len(row) != len(header):
            raise records.DataError(f"{path}:{number}: {len(row)} columns, the header has {len(header)}")
    return header, [row[0] for row in table[1:]], [dict(zip(header[1:], row[1:], strict=True)) for row in table[1:]]


def _write_tsv_gz(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes a gzip file that carries neither name nor time, so that its bytes depend on its content only."""
    text = "".join("\t".join(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _shuffled(keys: Iterable[str] | Mapping[str, object], seed: int, purpose: str) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).digest())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    main()
