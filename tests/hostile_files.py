"""Small good files of every kind that a reader takes.

A case is a set of files by their path below a folder. Most were written by the library that their format belongs to.
"""

import functools
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from ernie_m_jax.checkpoint import manifest
from ernie_m_jax.data import array_records, prepared, stored_ids
from ernie_m_jax.task import Record
from ernie_m_jax.tokenizer import train
from ernie_m_jax.weights import checksums, safetensors_files
from tests import raw_files

GOLDEN = Path(__file__).parent / "golden" / "files"
SENTENCES = ("Guten Tag, Welt", "Alle Menschen sind frei", "3,5 Prozent", "sind frei ; Tag", "Welt 😀 é")


def folder(path):
    """The files below a folder, by their path in it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def written(write):
    """The files that a function writes into the folder it is given."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return folder(Path(place))


def golden(*names):
    """A case of each of these recorded files or folders."""
    paths = [GOLDEN / name for name in names]
    return [folder(path) if path.is_dir() else {path.name: path.read_bytes()} for path in paths]


def checksummed():
    """A file of safetensors with its digests beside it."""

    def write(place):
        arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.int64)}
        safetensors_files.write_safetensors(place / "model.safetensors", arrays)
        digests = {name: checksums.digest(array) for name, array in arrays.items()}
        (place / checksums.FILE).write_text(json.dumps(digests))

    return [written(write)]


def archived():
    """Folders of weights, packed."""
    cases = []
    for name in ("bert_safetensors", "variables"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(GOLDEN / name, "model")
        cases += [{"x.tar": packed.getvalue()}, {"x.tgz": gzip.compress(packed.getvalue(), 1, mtime=0)}]
    return cases


@functools.cache
def _sentencepiece():
    texts = [line.split() for line in SENTENCES * 20]
    return written(lambda place: train([" ".join(words) for words in texts], 36, place / "t"))


def sentencepiece():
    """A tokenizer trained on a few sentences."""
    return [{Path(name).name: content for name, content in _sentencepiece().items()}]


def wordpiece():
    """mBERT's files."""
    words = b"[PAD] [UNK] [CLS] [SEP] [MASK] a b welt tag guten ##e ##n frei , . 3".replace(b" ", b"\n")
    settings = {"do_lower_case": True, "strip_accents": None, "cls_token": "[CLS]", "mask_token": {"content": "[MASK]"}}
    fast = {"normalizer": {"type": "BertNormalizer", "lowercase": False, "handle_chinese_chars": True}}
    files = {"vocab.txt": words, "tokenizer_config.json": json.dumps(settings).encode()}
    return [files, {"vocab.txt": files["vocab.txt"], "tokenizer.json": json.dumps(fast).encode()}]


def byte_pairs():
    """XLM's files."""
    tokens = b"<s> </s> <pad> <unk> <special1> w e l t</w> g u n el we wel welt</w> frei</w>".decode().split()
    merges = b"e l 9\nw el 8\nwel t</w> 7\nu n 3\n"
    vocabulary = {token: number for number, token in enumerate(tokens)}
    settings = {"do_lowercase_and_remove_accent": True, "lang2id": {"en": 0, "de": 1}, "bos_token": "<s>"}
    return [
        {
            "vocab.json": json.dumps(vocabulary).encode(),
            "merges.txt": merges,
            "tokenizer_config.json": json.dumps(settings).encode(),
        }
    ]


def array_record_of(lines):
    """The bytes of an ArrayRecord file of these lines."""
    return written(lambda place: array_records.write(str(place / "x"), lines))["x"]


def objects():
    """JSON lines of every layout."""
    pair = {"en": "one two", "de": "eins zwei"}
    return [
        b"\n".join(json.dumps(tree).encode() for tree in trees)
        for trees in (
            [pair, {"en": "a", "de": "b"}],
            [{"translation": pair}, {"translation": pair}],
            [{"translation": {"language": ["en", "de"], "translation": ["x", "y"]}}] * 2,
            [{"language": ["en", "de"], "translation": ["x", "y"]}] * 2,
            [{"text": "one", "language": "en"}, {"text": "zwei", "language": "de"}],
        )
    ]


def texts():
    """Files of records by their formats' endings."""
    text = "\n".join((*SENTENCES, "", "  x ")).encode()
    table = b"en\tde\tfr\none\teins\tun\ntwo\tzwei\t\n\nthree\tdrei\ttrois\n"
    plain = [{"en.txt": text}, {"x.tsv": table}, {"x.en": text, "x.de": text}]
    return plain + [{"x.jsonl": content} for content in objects()]


def packed_texts():
    """The same, packed."""
    return [{f"{name}.gz": gzip.compress(content, 1) for name, content in case.items()} for case in texts()]


def array_record():
    """ArrayRecord files of JSON objects."""
    return [{"x.array_record": array_record_of(content.split(b"\n"))} for content in objects()]


def pairs():
    """XNLI, PAWS-X, XTREME's folders, JSON lines."""
    cases = [
        written(lambda place, task=task: raw_files.write(task, place, counts=(3, 3, 3))) for task in ("xnli", "pawsx")
    ]
    quoted = b'one two\tthree\t1\n"a ""b"""\tc\t0\n'
    rows = [{"premise": "a", "hypothesis": "b", "label": 1, "language": "en", "id": 3}, {"text_a": "a", "text_b": "b"}]
    lines = b"\n".join(json.dumps(row).encode() for row in (rows[0], rows[0]))
    return [
        *({name: content} for case in cases for name, content in case.items()),
        {"train-en.tsv": quoted},
        {"x.jsonl": lines},
    ]


def tagged():
    """CoNLL's files."""
    more = b"-DOCSTART- -X- O O\n\nEU NNP I-ORG I-ORG\nrejects VBZ I-VP O\n\nWolf\tB-PER\nin\tO\nParis\tB-LOC\n"
    cases = written(lambda place: raw_files.write("conll", place, counts=(3, 3, 3)))
    return [{"x.txt": content} for content in (*cases.values(), more)]


def questions():
    """SQuAD's and MLQA's files."""
    cases = written(lambda place: raw_files.write("mlqa", place, counts=(3, 3, 3)))
    return [{"x.json": content} for content in cases.values()]


def given():
    """What a user has a model answer."""
    lines = [{"question": "a?", "context": "b a", "id": 1}, {"QUESTION": "c", "context": "d"}]
    table = b"question\tcontext\tid\na\tb c\t1\nd\te\t2\n"
    return [
        {"x.jsonl": b"\n".join(json.dumps(line).encode() for line in lines)},
        {"x.tsv": table},
        {"x.txt": b"a\tb\nc\td\n"},
        {"x.txt.gz": gzip.compress(b"a\tb\nc\td\n")},
    ]


def prepared_folders():
    """A prepared task, and ids of a corpus."""

    def task(place):
        writer = prepared.Writer(str(place))
        records = [Record(("a", "b"), ("en", "en"), {"label": "1", "id": "x", "words": ("a", "b")})] * 3
        writer.add("train-en.array_record", array_records.record_lines(records), {"empty": 1}, "a note")
        writer.finish("pawsx", ("0", "1"), "raw")

    def ids(place):
        writer = prepared.Writer(str(place))
        for name, rows in (
            (stored_ids.monolingual_file(0, "en"), [[4, 5, 6], [7]]),
            (stored_ids.parallel_file("en-de"), [[1, 4, 5, 6], [2, 4, 5]]),
        ):
            writer.add(name, [np.array(row, stored_ids.ID).tobytes() for row in rows], {}, compressed=False)
            writer.counted(name, 4)
        writer.finish(stored_ids.TASK, (), "config.py", "f" * 64)

    return [written(task), written(ids)]


@functools.cache
def checkpoint():
    """A directory of steps, as `checkpoints.py` leaves it, with other bytes in place of the arrays."""

    def write(place):
        for step in (2, 4):
            (place / str(step) / "state").mkdir(parents=True)
            for name in ("state/array", "state/_METADATA", "streams.json"):
                (place / str(step) / name).write_bytes(f"{name} of {step}".encode())
            manifest.write_manifest(place / str(step))
        (place / "selected.json").write_text('{"step": 4}')

    return [written(write)]


def metrics():
    """A run's numbers."""
    lines = [
        {"step": 0, "objective": "mmlm", "loss": 3.5, "accuracy": "nan", "tokens": 60, "fill": 0.9},
        {"step": 1, "timing": {"tokens_per_second": 5.0, "data_wait": 0.1}},
        {"step": 1, "objective": "tlm", "loss": 3.1, "tokens": 61, "fill": 0.8, "skipped": 1},
        {"step": 2, "eval": "xnli", "dev/accuracy": 33.3},
    ]
    stage = {"steps": 2, "tokens": 121, "fill": 0.85, "tokens_per_second": 5.0, "objectives": {"mmlm": {"loss": 3.5}}}
    stage |= {"data_wait": None, "evals": {"xnli": {"dev/accuracy": 33.3}}}
    run = {"stages": {"one": stage}, "evals": {}, "objectives": {}, "wall_seconds": 3.0}
    return [
        {
            "metrics.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines),
            "stage.json": json.dumps(stage).encode(),
            "summary.json": json.dumps(run).encode(),
        }
    ]
