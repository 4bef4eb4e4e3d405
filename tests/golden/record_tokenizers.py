"""Records what the published tokenizers make of the fixture's texts, for `tests/test_tokenizer_parity.py`.

    python -m venv reference && reference/bin/pip install "transformers==4.57.6" sentencepiece "sacremoses==0.2.0" numpy
    reference/bin/python tests/golden/record_tokenizers.py

Needs neither this package nor torch. The same texts and tokenizers (`tests/golden/tokenizer`) give the same numbers.
transformers' slow classes speak for themselves; for style "ernie", whose original cannot be installed, this file has
the algorithm as the notes on the published code give it, written apart from the package's.

Writes `lines.npz` and `nasty.npz` (no special tokens; the ids of text 0 in every case, then of text 1, so that like
stands near like) and `truncated.npz` (with special tokens, singles and pairs). A length of -1: not recorded, the case
is not for this text; -2: transformers raised IndexError.
"""

import json
import lzma
import pathlib
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import sentencepiece
import transformers
from transformers.models.deprecated.ernie_m.tokenization_ernie_m import ErnieMTokenizer

FIXTURE = pathlib.Path(__file__).parent / "tokenizer"
NOT_RECORDED, RAISED = -1, -2
EVERY = 8  # a variant of bert or xlm sees one line of so many, and all nasty texts
PAIRS, SINGLE_LENGTHS, PAIR_LENGTHS = 60, (3, 12), (None, 4, 5, 16, 33, 64)
NASTY_PAIRS = 30

Encode = Callable[[str], list[int]]


class OriginalErnie:
    """The tokenizer of the published ERNIE-M code, as the notes on it describe it."""

    cls, sep = 0, 2

    def __init__(self, folder: pathlib.Path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
        rows = (folder / "vocab.txt").read_text("utf-8").split("\n")[:-1]
        self.vocabulary = {row: number for number, row in enumerate(rows)}

    def clean(self, text: str) -> str:
        kept = ""
        for character in text:
            kind = unicodedata.category(character)
            if character in "“”":
                kept += '"'
            elif character in "‘’":
                kept += "'"
            elif character == "—":
                kept += "-"
            elif character in " \t\r\n" or kind == "Zs":
                kept += " "
            elif kind != "Cc" and kind != "Cf":
                kept += character
        return kept

    def tokens(self, text: str) -> list[str]:
        found = []
        for piece in self.model.EncodeAsPieces(self.clean(text)):
            if piece.endswith(",") and len(piece) >= 2 and piece[-2].isdigit():
                number = piece[:-1].replace("▁", "")
                found.extend(self.model.EncodeAsPieces(number))  # its new "▁" stays: see the package's own comment
                found.append(",")
            else:
                found.append(piece)
        return found

    def ids(self, text: str) -> list[int]:
        unknown = self.vocabulary["[UNK]"]
        return [self.vocabulary.get(token, unknown) for token in self.tokens(text)]

    def single(self, text: str, length: int | None) -> list[int]:
        ids = self.ids(text)
        while length is not None and len(ids) + 2 > length:
            ids.pop()
        return [self.cls, *ids, self.sep]

    def pair(self, first: str, second: str, length: int | None) -> list[int]:
        a, b = self.ids(first), self.ids(second)
        while length is not None and len(a) + len(b) + 4 > length:
            (a if len(a) > len(b) else b).pop()
        return [self.cls, *a, self.sep, self.sep, *b, self.sep]


class Transformers:
    """A slow tokenizer of transformers, in one language where it takes one."""

    def __init__(self, slow: transformers.PreTrainedTokenizer, language: str | None = None):
        self.slow = slow
        if language:
            inner = slow._tokenize
            slow._tokenize = lambda text: inner(text, lang=language)

    def ids(self, text: str) -> list[int]:
        return self.slow.convert_tokens_to_ids(self.slow.tokenize(text))

    def single(self, text: str, length: int | None) -> list[int]:
        return self.slow(text, truncation=length is not None, max_length=length)["input_ids"]

    def pair(self, first: str, second: str, length: int | None) -> list[int]:
        strategy = "longest_first" if length is not None else False
        return self.slow(first, second, truncation=strategy, max_length=length)["input_ids"]


def cases() -> dict[str, OriginalErnie | Transformers]:
    """Name -> reference. A name up to ":" is a style; what follows names a setting that the test knows too."""
    ernie_m, bert, xlm = FIXTURE / "ernie_m", FIXTURE / "bert" / "vocab.txt", FIXTURE / "xlm"
    model, vocabulary = str(ernie_m / "sentencepiece.bpe.model"), str(ernie_m / "vocab.txt")

    def bert_as(**settings: bool) -> Transformers:
        return Transformers(transformers.BertTokenizer(str(bert), **settings))

    def xlm_as(language: str, lower: bool = True) -> Transformers:
        files = (str(xlm / "vocab.json"), str(xlm / "merges.txt"))
        return Transformers(transformers.XLMTokenizer(*files, do_lowercase_and_remove_accent=lower), language)

    return {
        "ernie": OriginalErnie(ernie_m),
        "huggingface": Transformers(ErnieMTokenizer(model, vocabulary)),
        "xlm-roberta": Transformers(transformers.XLMRobertaTokenizer(model)),
        "bert": bert_as(do_lower_case=False),
        "xlm": xlm_as("en"),
        "bert:uncased": bert_as(),
        "bert:stripped": bert_as(do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False),
        "bert:accented": bert_as(do_lower_case=True, strip_accents=False),
        "xlm:cased": xlm_as("en", lower=False),
        "xlm:fr": xlm_as("fr"),
        "xlm:de": xlm_as("de"),
        "xlm:ro": xlm_as("ro", lower=False),
        "xlm:ru": xlm_as("ru"),
    }


def record(name: str, rows: Iterable[Sequence[list[int] | int]], **extra: np.ndarray) -> None:
    """Writes ids (uint16, joined) and lengths [rows, columns] (int32; negative: no ids, for that reason)."""
    ids: list[int] = []
    lengths = []
    for row in rows:
        lengths.append([value if isinstance(value, int) else len(value) for value in row])
        for value in row:
            ids += [] if isinstance(value, int) else value
    table = np.array(lengths, np.int32)
    arrays = {"ids": np.array(ids, np.uint16), "lengths": table, **extra}
    with zipfile.ZipFile(FIXTURE / name, "w", zipfile.ZIP_LZMA) as archive:  # an npz, smaller than numpy writes it
        for key, array in arrays.items():
            member = zipfile.ZipInfo(f"{key}.npy")  # without the time: the same bytes again
            member.compress_type = zipfile.ZIP_LZMA
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, array)
    raised = [int((column == RAISED).sum()) for column in table.T]
    print(f"{name}: {len(table)} rows, {len(ids)} ids, IndexError in each column: {raised}")


def attempt(encode: Callable[..., list[int]], *arguments: object) -> list[int] | int:
    try:
        return encode(*arguments)
    except IndexError:
        return RAISED


def main() -> None:
    """Records every case."""
    texts = json.loads(lzma.decompress((FIXTURE / "texts.json.xz").read_bytes()))
    lines, nasty = [text for _, text in texts["lines"]], texts["nasty"]
    references = cases()
    names = np.array(list(references))

    def row(number: int, text: str, every: int) -> list[list[int] | int]:
        return [
            attempt(reference.ids, text) if number % every == 0 or ":" not in name else NOT_RECORDED
            for name, reference in references.items()
        ]

    record("lines.npz", (row(number, text, EVERY) for number, text in enumerate(lines)), cases=names)
    record("nasty.npz", (row(number, text, 1) for number, text in enumerate(nasty)), cases=names)
    step = len(lines) // PAIRS
    pairs = [(lines[i * step], lines[(i * step * 7 + 3) % len(lines)]) for i in range(PAIRS)]
    pairs += [(nasty[i], nasty[-1 - i]) for i in range(NASTY_PAIRS)]
    plain = [reference for name, reference in references.items() if ":" not in name]
    rows = []
    for first, second in pairs:
        for length in SINGLE_LENGTHS:
            rows.append([attempt(reference.single, first, length) for reference in plain])
        for length in PAIR_LENGTHS:
            rows.append([attempt(reference.pair, first, second, length) for reference in plain])
    record(
        "truncated.npz",
        rows,
        cases=np.array([name for name in names if ":" not in name]),
        texts=np.array(json.dumps(pairs)),
        single_lengths=np.array(SINGLE_LENGTHS),
        pair_lengths=np.array([length or 0 for length in PAIR_LENGTHS]),
    )
    versions = {
        name: sys.modules[name].__version__ for name in ("transformers", "tokenizers", "sentencepiece", "numpy")
    }
    print(json.dumps({"python": sys.version.split()[0], "unicode": unicodedata.unidata_version, **versions}))


if __name__ == "__main__":
    main()
