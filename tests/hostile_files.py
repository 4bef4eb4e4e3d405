"""Small good files of every kind that a reader takes, and how each kind is damaged past its own checksums.

A case is a set of files by their path below a folder. Where a format has a checksum or packs its content (zip, gzip,
tar, ArrayRecord, a manifest's digest), a half of the cases are damaged inside and packed again, so that more is
reached than the check.
"""

import functools
import gzip
import hashlib
import io
import json
import pickletools
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ernie_m_jax.checkpoint import manifest
from ernie_m_jax.data import array_records, prepared, stored_ids
from ernie_m_jax.task import Record
from ernie_m_jax.tokenizer import train
from ernie_m_jax.weights import checksums, safetensors_files
from tests import raw_files
from tests.mutations import damaged, dumped, hostile_json, hostile_tree

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
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "b",
        "welt",
        "tag",
        "guten",
        "##e",
        "##n",
        "frei",
        ",",
        ".",
        "3",
    ]
    settings = {"do_lower_case": True, "strip_accents": None, "cls_token": "[CLS]", "mask_token": {"content": "[MASK]"}}
    fast = {"normalizer": {"type": "BertNormalizer", "lowercase": False, "handle_chinese_chars": True}}
    files = {"vocab.txt": "\n".join(words).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    return [files, {"vocab.txt": files["vocab.txt"], "tokenizer.json": json.dumps(fast).encode()}]


def byte_pairs():
    """XLM's files."""
    tokens = [
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
        "<special1>",
        "w",
        "e",
        "l",
        "t</w>",
        "g",
        "u",
        "n",
        "el",
        "we",
        "wel",
        "welt</w>",
        "frei</w>",
    ]
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


def _array_record(lines):
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
    return [{"x.array_record": _array_record(content.split(b"\n"))} for content in objects()]


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


def with_one(change):
    """Damages one of a case's files: `change(rng, content, other files' contents)`."""

    def mutate(rng, case):
        name = rng.choice(sorted(case))
        others = [content for other, content in sorted(case.items()) if other != name]
        return {**case, name: change(rng, case[name], others)}

    return mutate


def of_kind(change, *endings):
    """As `with_one(change)` for files of these endings; others are damaged as bytes."""

    def mutate(rng, case):
        name = rng.choice(sorted(case))
        how = change if name.endswith(endings) else damaged
        return {**case, name: how(rng, case[name])}

    return mutate


def safetensors(rng, content, others=()):
    """Damages a header and states its new length, or any of the bytes."""
    if content[:1] == b"{":
        return hostile_json(rng, content, others)
    if rng.random() < 0.4:
        return damaged(rng, content, others)
    length = struct.unpack("<Q", content[:8])[0]
    header = hostile_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _pickle_program(rng):
    """Random opcodes with arguments that mostly fit them."""
    parts = [b"\x80\x02"]
    for _ in range(rng.randrange(1, 40)):
        opcode = rng.choice(pickletools.opcodes)
        parts.append(opcode.code.encode("latin1"))
        if opcode.arg is not None:
            size = opcode.arg.n
            content = rng.choice((b"a", b"os\nsystem\n", b"numpy\nndarray\n", b"\xff\xff", b"3\n", bytes(4)))
            if size == -1:
                parts.append(content + b"\n")
            elif size == -2 or size == -3 or size < -1:
                width = {"uint1": 1, "int4": 4, "uint4": 4, "uint8": 8}.get(opcode.arg.name[-5:], rng.choice((1, 4, 8)))
                length = rng.choice((len(content), len(content), 2**31 - 1, 2 ** (8 * width) - 1))
                parts.append((length % 2 ** (8 * width)).to_bytes(width, "little") + content)
            else:
                parts.append(bytes(rng.choice((0, 1, 2, 255)) for _ in range(size)))
    return b"".join(parts) + b"."


def pickled(rng, content, others=()):
    """Damages a pickle, or makes up a program."""
    if rng.random() < 0.4:
        return _pickle_program(rng)
    return damaged(rng, content, others)


def zipped(rng, content, others=()):
    """Damages the pickle within a zip, or any of its bytes."""
    if rng.random() < 0.4:
        return damaged(rng, content, others)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            inside = old.read(entry)
            new.writestr(entry.filename, pickled(rng, inside) if entry.filename.endswith(".pkl") else inside)
    return made.getvalue()


def tarred(rng, content, others=()):
    """Damages a tar, within its gzip or with its header's checksum mended."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.6:
        return gzip.compress(tarred(rng, gzip.decompress(content)), 1, mtime=0)
    if content[:2] == b"\x1f\x8b" or rng.random() < 0.4:
        return damaged(rng, content, others)
    changed = bytearray(content)
    start = rng.choice([at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"])
    field, size = rng.choice(((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (329, 8)))
    value = rng.choice(
        (b"7" * 12, b"\x80" + b"\xff" * 11, b"-1", b"../../x", b"/etc/x", b"S", b"L", b"x", b"2", b"\xff" * 9)
    )
    changed[start + field : start + field + size] = value[:size].ljust(size, b"\0")
    changed[start + 148 : start + 156] = b" " * 8
    changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
    return bytes(changed)


def gzipped(change):
    """Damages what is packed, or the packed bytes."""

    def how(rng, content, others=()):
        if rng.random() < 0.5:
            return damaged(rng, content, others)
        return gzip.compress(change(rng, gzip.decompress(content)), 1)

    return how


def array_record_lines(rng, content, others=()):
    """Damages the objects of an ArrayRecord file, or any of its bytes."""
    if rng.random() < 0.5:
        return damaged(rng, content, others)
    lines = rng.choice(objects()).split(b"\n")
    lines[rng.randrange(len(lines))] = hostile_json(rng, lines[0])
    return _array_record(lines)


def prepared_files(rng, case):
    """Damages a prepared folder; half of the manifests then fit the damaged file."""
    name = rng.choice([prepared.MANIFEST, *sorted(case)])
    if name == prepared.MANIFEST:
        return {**case, name: hostile_json(rng, case[name])}
    content = damaged(rng, case[name])
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            line = dumped(
                hostile_tree(rng, {"texts": ["a", "b"], "languages": ["en", "en"], "fields": {"x": [1, "a"]}})
            )
            lines = [line] * 3
        else:
            lines = [damaged(rng, struct.pack("<4I", 2, 4, 5, 6)) for _ in range(2)]
        content = _array_record(lines)
    tree = json.loads(case[prepared.MANIFEST])
    tree["files"][name] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**case, name: content, prepared.MANIFEST: dumped(tree)}


def sealed(rng, case):
    """Damages a checkpoint; a half of the hostile manifests have the digest that they name."""
    name = rng.choice([*sorted(case), "2/manifest.json", "4/manifest.json", "selected.json"])
    if not name.endswith("manifest.json"):
        return {**case, name: (hostile_json if name.startswith("selected") else damaged)(rng, case[name])}
    if rng.random() < 0.4:
        return {**case, name: hostile_json(rng, case[name])}
    files = hostile_tree(rng, json.loads(case[name])["files"])
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return {**case, name: dumped({"files": files, "sha256": digest})}
