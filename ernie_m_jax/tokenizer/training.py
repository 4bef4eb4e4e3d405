"""Text to a new tokenizer: SentencePiece's unigram model and the vocabulary file in ERNIE-M's order.

In: text files or lines, and a vocabulary size. Out: `sentencepiece.bpe.model` and `vocab.txt`, which
`tokenizer.Tokenizer.load` reads. `main` is the command line of `python -m ernie_m_jax.tokenizer`.
"""

import argparse
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
from etils import epath

from ernie_m_jax import stores
from ernie_m_jax.tokenizer import base
from ernie_m_jax.tokenizer import files as tokenizer_files
from ernie_m_jax.tokenizer.sentencepiece import CleaningTable, ErnieTokenizer

_SP_SPECIALS = 3  # <unk> <s> </s>, SentencePiece's first ids; vocab.txt has its own special tokens instead
_SPECIALS = len(base.LEADING_SPECIALS) + 1
# The threads' shares of the sentences decide the order in which expected counts are added, so the result depends on
# their number: fixed, whatever the machine has.
_THREADS = 16
_MAX_LINE_BYTES = 1 << 30  # SentencePiece leaves out longer lines without a word; its default is 4192
_RESERVED = "\u2585"  # SentencePiece's own mark; it leaves out lines with it


def train(
    inputs: Iterable[str] | Iterable[os.PathLike],
    vocab_size: int,
    output_dir: epath.PathLike,
    character_coverage: float = 0.9999,
) -> base.Tokenizer:
    """Trains SentencePiece (unigram, nfkc) and writes a tokenizer's two files.

    The same input gives the same bytes. Controls are dropped from the text and white space becomes a space, as the
    encoder's cleaning does; quotes and dashes are left, for style "huggingface" sees them. Both files are complete
    before either replaces an earlier one.

    Args:
      inputs: paths (`os.PathLike`: text files, UTF-8, one sentence per line) or lines (`str`).
      vocab_size: number of lines of vocab.txt: `[CLS] [PAD] [SEP] [UNK]`, the pieces, `[MASK]`.
      output_dir: directory to write, made where missing, or its URL.
      character_coverage: share of the text's characters that get a piece, 0.98 to 1.

    Returns:
      The trained tokenizer, style "ernie".

    Raises:
      FileNotFoundError, IsADirectoryError: an input file is not there or is a directory.
      NotADirectoryError: `output_dir` is a file.
      TypeError: `inputs` is one string or path, mixes paths and lines, or has a file's name as a line.
      ValueError: no text, invalid UTF-8 (with file and line), a size that the text is too small for (with the largest
        possible one) or that is too small for the text's characters (with the smallest), or a coverage out of range.
    """
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise NotADirectoryError(f"output {os.fspath(output_dir)}: not a directory")
    if vocab_size <= _SPECIALS:
        raise ValueError(f"vocab_size {vocab_size}: must be above {_SPECIALS}, the special tokens")
    if not 0.98 <= character_coverage <= 1:
        raise ValueError(f"character_coverage {character_coverage}: must be from 0.98 to 1, SentencePiece's limits")
    model = _train_model(_Lines(inputs), vocab_size, character_coverage)
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    pieces = [processor.id_to_piece(i) for i in range(_SP_SPECIALS, processor.get_piece_size())]
    vocabulary = "".join(f"{token}\n" for token in (*base.LEADING_SPECIALS, *pieces, base.MASK)).encode()
    files = {base.MODEL_FILE: model, base.VOCABULARY_FILE: vocabulary}
    trained = ErnieTokenizer(files)
    if trained.vocab_size != vocab_size:
        raise AssertionError(f"SentencePiece returned {len(pieces)} pieces for vocab_size {vocab_size}")
    tokenizer_files.write(output_dir, files)
    return trained


def _train_model(lines: "_Lines", vocab_size: int, character_coverage: float) -> bytes:
    """Serialised SentencePiece model with vocab_size - 5 pieces of its own; its errors in terms of vocab_size."""
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=writer,
            model_type="unigram",
            vocab_size=vocab_size - _SPECIALS + _SP_SPECIALS,
            character_coverage=character_coverage,
            normalization_rule_name="nfkc",
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, ValueError, SyntaxError) as error:
        if lines.error is not None:  # SentencePiece makes a RuntimeError of what reading raised
            raise lines.error from None
        if not lines.count:
            raise ValueError(f"no text to train on: {lines.described} has no line with a visible character") from None
        added = _SPECIALS - _SP_SPECIALS
        if found := re.search(r"Vocabulary size too high .*<= (\d+)", str(error)):
            largest = int(found[1]) + added
            raise ValueError(
                f"vocab_size {vocab_size}: the text is too small for it; the largest possible is {largest}"
            ) from None
        if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            smallest = int(found[1]) + added
            raise ValueError(
                f"vocab_size {vocab_size}: too small for the text's characters; the smallest possible is {smallest}, "
                f"or lower character_coverage ({character_coverage})"
            ) from None
        raise ValueError(f"vocab_size {vocab_size}, character_coverage {character_coverage}: {error}") from error
    return writer.getvalue()


class _Lines:
    """Cleaned lines that hold something, once. Keeps what reading raised, and how many lines there were."""

    def __init__(self, inputs: Iterable[str] | Iterable[os.PathLike]):
        if isinstance(inputs, str | bytes | os.PathLike):
            raise TypeError(f"inputs {inputs!r}: must be a list of paths or an iterable of lines")
        self._inputs = inputs
        self.count = 0
        self.error: Exception | None = None
        self.described = "the input"
        if isinstance(inputs, list | tuple) and inputs and all(isinstance(item, os.PathLike) for item in inputs):
            self.described = ", ".join(os.fspath(item) for item in inputs)

    def __iter__(self) -> Iterator[str]:
        clean = CleaningTable({_RESERVED: " ", "\u2028": " ", "\u2029": " "})
        try:
            for line in self._read():
                if cleaned := line.translate(clean).strip():
                    self.count += 1
                    yield cleaned
        except Exception as error:
            self.error = error
            raise

    def _read(self) -> Iterator[str]:
        kind: type | None = None
        for number, item in enumerate(self._inputs, 1):
            kind = kind or (os.PathLike if isinstance(item, os.PathLike) else str)
            if not isinstance(item, kind):
                raise TypeError(
                    f"inputs, item {number}: {type(item).__name__}; must be all paths (os.PathLike) or all lines (str)"
                )
            if isinstance(item, str):
                try:
                    item.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(f"input line {number}: lone surrogate at character {error.start}") from None
                if number == 1 and item.strip() and os.path.isfile(item):
                    raise TypeError(
                        f"inputs, item 1: {item!r} is a file's name; a path must be an os.PathLike, not a str"
                    )
                yield item
            else:
                yield from _read_file(epath.Path(item))


def _read_file(path: epath.Path) -> Iterator[str]:
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; must be a text file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 with one line on stderr for bad input."""
    parser = argparse.ArgumentParser(
        "python -m ernie_m_jax.tokenizer", description="Train a tokenizer, or encode text."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train SentencePiece (unigram) and write the two files of a tokenizer")
    training.add_argument("--input", nargs="+", required=True, metavar="FILE", help="UTF-8 text, one sentence per line")
    training.add_argument(
        "--vocab_size", type=int, required=True, metavar="N", help="lines of vocab.txt, special tokens included"
    )
    training.add_argument("--output", required=True, metavar="DIR", help="directory to write; made where missing")
    training.add_argument(
        "--character_coverage",
        type=float,
        default=0.9999,
        metavar="C",
        help="share of the text's characters that get a piece, 0.98 to 1 (default: %(default)s)",
    )
    encoding = commands.add_parser(
        "encode", help="print the ids of each text, [CLS] and [SEP] included, one text per line"
    )
    encoding.add_argument("--tokenizer", required=True, metavar="DIR", help="directory with the files of a tokenizer")
    encoding.add_argument(
        "--style", choices=base.STYLES, default="ernie", help="behaviour to follow (default: %(default)s)"
    )
    encoding.add_argument("--language", metavar="CODE", help="style xlm: whose rules cut the text (default: en)")
    encoding.add_argument("text", nargs="+", metavar="TEXT")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "train":
            files = [pathlib.Path(stores.local(name)) for name in arguments.input]
            tokenizer = train(files, arguments.vocab_size, arguments.output, arguments.character_coverage)
            print(f"{arguments.output}: {tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint}")
        else:
            tokenizer = base.Tokenizer.load(arguments.tokenizer, arguments.style, arguments.language)
            for text in arguments.text:
                print(*tokenizer.encode_single(text))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0
