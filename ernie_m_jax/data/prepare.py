r"""Published data in, files of the package's formats out; run once, before training.

    python -m ernie_m_jax.data.prepare xnli --source XNLI-1.0 --output prepared/xnli --languages en,de
    python -m ernie_m_jax.data.prepare tatoeba --source tatoeba --output prepared/tatoeba --pairs de-en,fr-en
    python -m ernie_m_jax.data.prepare corpus --config configs/pretrain/stage1.py --output prepared/ids
    python -m ernie_m_jax.data.prepare corpus --config configs/pretrain/stage1.py --output prepared/ids \
        --runner=DirectRunner --direct_num_workers=4 --direct_running_mode=multi_processing
    python -m ernie_m_jax.data.prepare verify prepared/xnli
    python -m ernie_m_jax.data.prepare array_record --input corpus:udhr --kind parallel --languages en,de \
        --output 'DIR/{pair}.array_record'
    python -m ernie_m_jax.data.prepare diagnostics --input diagnostics14.tsv.gz --output DIR

The first two take a task: xnli, pawsx, conll, mlqa, tatoeba, or a module of your own by its dotted path. They read the
published files once and write a prepared folder (`prepared.py`). A labelled task's train, dev and test may name that
folder instead of the files; tatoeba's pairs are named as a source's path, `DIR/{pair}.array_record`. The last line
printed is what to put into the config. A source that is one file is one split, the one that --splits names. `corpus`
reads the text of a pre-training config through its tokenizer once and stores the ids (`stored_ids.py`), which the
config's sources may then name; --config.KEY=VALUE goes over the config as in training. With --runner it is done by
the workers of Apache Beam (`preparation_beam.py`), whose flags may follow. `verify`
compares every byte of a prepared folder with its manifest. `array_record` turns any source that `records.open_source`
reads into one ArrayRecord file per language or pair, the fastest form for random access at scale. `diagnostics` makes
the bundled corpus of that name (see its README): cleaned messages, 200 for development, 200 for the test, the others
half as pairs and half as monolingual text.
"""

import argparse
import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.config import ConfigError, SourceConfig
from ernie_m_jax.data import cleaning, preparation, preparation_beam, preparation_corpus, prepared, records

SEED = 2021  # of the bundled files; the year of the paper
HELD_OUT = 200  # messages of dev and of test each, with four English words or more where there are enough

PROGRAM = "python -m ernie_m_jax.data.prepare"
COMMANDS = ("corpus", "verify", "diagnostics", "array_record")
TASKS = "TASK is xnli, pawsx, conll, mlqa, tatoeba or a module of your own; TASK --help shows its flags."
SHARDED = ("shard_megabytes", "max_characters", "keep_duplicates")  # what `corpus` takes with --runner
LISTS = ("languages", "pairs", "splits", "labels")

Rows = list[dict[str, str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; `argv` defaults to the process's arguments.

    What a user can fix ends in one line on standard error and exit status 2.
    """
    given, settings = config_files.split(sys.argv[1:] if argv is None else argv)
    parser = _commands()
    is_task = bool(given) and not given[0].startswith("-") and given[0] not in COMMANDS
    args, flags = (_task_parser(given[0]) if is_task else parser).parse_known_args(given[is_task:])
    if flags and not (getattr(args, "runner", "") and flags[0].startswith("-")):
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if settings and (is_task or args.command != "corpus"):
        parser.error(f"{settings[0]}: only corpus takes a config")
    try:
        if is_task:
            _prepare(given[0], args)
        elif args.command == "corpus":
            _corpus(args, settings, flags)
        elif args.command == "verify":
            for name, file in prepared.verify(args.directory).files.items():
                print(f"{name}: {file.records:,} records, {file.bytes:,} bytes, as in the manifest")
        else:
            for name, count in _convert(args).items():
                print(f"{name}\t{count}")
    except (ConfigError, records.DataError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _commands() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.splitlines()[0], epilog=TASKS)
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"TASK, {', '.join(COMMANDS)}")
    ids = commands.add_parser("corpus", help="store the token ids of a pre-training config's text")
    ids.add_argument("--config", required=True, help="config file, as of a run; --config.KEY=VALUE goes over it")
    ids.add_argument("--output", required=True, help="folder for the files and their manifest.json")
    ids.add_argument("--runner", default="", help="Beam's, such as DirectRunner, which takes further flags of Beam's")
    ids.add_argument("--shard_megabytes", type=_above_zero, help="of text per file; with --runner")
    ids.add_argument("--max_characters", type=_above_zero, help="of each language or pair, about; with --runner")
    ids.add_argument("--keep_duplicates", action="store_const", const=True, help="with --runner")
    check = commands.add_parser("verify", help="compare a prepared folder with its manifest")
    check.add_argument("directory")
    messages = commands.add_parser("diagnostics", help="clean and split aligned compiler messages")
    messages.add_argument("--input", required=True, help="wide TSV (.gz), header row: key and languages")
    messages.add_argument("--output", required=True, help="folder for pairs, mono, dev and test, each .tsv.gz")
    messages.add_argument("--held-out", type=int, default=HELD_OUT, help="messages of dev and of test each")
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
    return parser


def _task_parser(task: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {task}", description="Prepares the data of a task.")
    parser.add_argument("--source", required=True, help="what the config's train, dev or test may name")
    parser.add_argument("--output", required=True, help="folder for the files and their manifest.json")
    parser.add_argument("--languages", default="", help="comma-separated; empty: those of the task that are there")
    if task in preparation.PARALLEL:
        parser.add_argument("--pairs", default="", help="comma-separated, such as de-en; empty: all there are")
        return parser
    parser.add_argument("--splits", default="", help="of train,dev,test; empty: those that are there")
    parser.add_argument("--labels", default="", help="comma-separated; empty: the task's own")
    parser.add_argument("--bad_rows", default="error", choices=("error", "skip"), help="skip: leave out and count them")
    return parser


def _prepare(task: str, args: argparse.Namespace) -> None:
    given = {name: _names(value) for name, value in vars(args).items() if name in LISTS}
    if task in preparation.PARALLEL:
        preparation.parallel(task, args.source, args.output, **given)
    else:
        preparation.labelled(task, args.source, args.output, **given, bad_rows=args.bad_rows)


def _corpus(args: argparse.Namespace, settings: Sequence[str], flags: Sequence[str]) -> None:
    given = {name: getattr(args, name) for name in SHARDED if getattr(args, name) is not None}
    if given and not args.runner:
        raise ConfigError(
            f"--{next(iter(given))} is for --runner, which is not given; one process stores all in one file"
        )
    tree = config_files.from_file(args.config)
    problems = config_files.override(tree, settings)
    config = configs.resolve(tree, problems=problems)
    if not args.runner:
        preparation_corpus.corpus(config, args.config, args.output)
        return
    options = preparation_beam.Options(args.runner, tuple(flags), **given)
    preparation_beam.prepare(config, args.config, args.output, options)


def _above_zero(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return number


def _convert(args: argparse.Namespace) -> dict[str, int]:
    if args.command == "diagnostics":
        return diagnostics(Path(args.input), Path(args.output), args.held_out, args.seed)
    source = SourceConfig(args.input, args.format, (), _names(args.pairs), _names(args.columns), args.split)
    return preparation.array_record(source, _names(args.languages), args.kind, args.output)


def diagnostics(source: Path, output: Path, held_out: int = HELD_OUT, seed: int = SEED) -> dict[str, int]:
    """Cleans the messages, holds some out and writes `pairs`, `mono`, `dev` and `test` as `.tsv.gz`.

    In `mono` each language's column is shuffled on its own: no row is aligned.

    Args:
      source: wide TSV (.gz) with the header `key`, `en` and further languages.
      output: folder of the four files.
      held_out: messages of `dev` and of `test` each, preferring four English words or more.
      seed: of the choices.

    Returns:
      Number of messages by file name and of those read.
    """
    header, keys, messages = _read_wide(source)
    kept = distinct(dict(zip(keys, messages, strict=True)))
    chosen = split(kept, held_out, seed)
    if len(chosen["dev"]) + len(chosen["test"]) < 2 * held_out or not chosen["pairs"]:
        raise records.DataError(
            f"{source}: {len(kept)} messages are left after cleaning, too few to hold out twice {held_out} and train"
        )
    languages = header[1:]
    output.mkdir(parents=True, exist_ok=True)
    for name in ("pairs", "dev", "test"):
        rows = [[key, *(kept[key][language] for language in languages)] for key in kept if key in chosen[name]]
        _write_tsv_gz(output / f"{name}.tsv.gz", [header, *rows])
    mono = chosen["mono"]
    columns = [[kept[key][language] for key in _shuffled(mono, seed, f"mono {language}")] for language in languages]
    _write_tsv_gz(output / "mono.tsv.gz", [languages, *zip(*columns, strict=True)])
    return {"read": len(keys), "kept": len(kept), **{name: len(names) for name, names in chosen.items()}}


def distinct(messages: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The messages by key, cleaned, without those that say too little or the same as another one.

    A message is dropped when any language is left without two words (four characters in Japanese, Korean and
    Chinese), equals the English, or equals an earlier message's text in the same language. So no held-out message
    equals a training message in any language.
    """
    kept: dict[str, dict[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for key, message in zip(messages, cleaning.clean(list(messages.values())), strict=True):
        texts = {(language, cleaning.fold(text)) for language, text in message.items()}
        if cleaning.usable(message) and not texts & seen:
            seen |= texts
            kept[key] = message
    return kept


def split(kept: Mapping[str, Mapping[str, str]], held_out: int = HELD_OUT, seed: int = SEED) -> dict[str, list[str]]:
    """The keys of `pairs`, `mono`, `dev` and `test`; an odd one out is in none.

    Every choice is a sort by SHA-256 of seed, purpose and key, so it depends on no library's generator.
    """
    order = _shuffled(kept, seed, "held out")
    long_first = sorted(order, key=lambda key: len(kept[key]["en"].split()) < 4)  # stable
    evaluation = long_first[: 2 * held_out]
    training = [key for key in _shuffled(kept, seed, "pairs") if key not in set(evaluation)]
    half = len(training) // 2
    return {
        "pairs": training[:half],
        "mono": training[half : 2 * half],
        "dev": evaluation[:held_out],
        "test": evaluation[held_out:],
    }


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
