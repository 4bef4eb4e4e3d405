"""Good files in, hostile ones out, past what each format checks by itself.

Where a format has a checksum or packs its content (zip, gzip, tar, ArrayRecord, a manifest's digest), a half of the
inputs are damaged inside and packed again, so that more is reached than the check.
"""

import gzip
import hashlib
import io
import json
import pickletools
import struct
import zipfile

from ernie_m_jax.data import prepared
from tests.hostile_files import array_record_of, objects
from tests.mutations import damaged, dumped, hostile_json, hostile_tree


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
    return array_record_of(lines)


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
        content = array_record_of(lines)
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
