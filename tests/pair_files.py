"""Sentence-pair files in the published formats, written for a test, and what is read of them."""

import csv
import gzip

from ernie_m_jax.data import labelled
from tests.labelled_files import PAWS, XNLI_HEADER

NLI = ("entailment", "neutral", "contradiction")
ALIASES = {"contradictory": "contradiction"}
MULTINLI_HEADER = XNLI_HEADER[1:16]


def open_pairs(path, split="train", languages=("en",), labels=NLI, aliases=ALIASES, **keys):
    aliases = None if labels == PAWS else aliases
    return labelled.open_pairs(str(path), split, languages, labels, aliases, **keys)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def tsv(path, *rows, newline="\n"):
    return write(path, "".join("\t".join(row) + newline for row in rows))


def xtreme(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return path


def named(header, **cells):
    """A row with these cells under a header's names."""
    return [cells.get(name, "") for name in header]


def plain(pairs):
    """Sentences, label and id of every record."""
    assert [pairs[index] for index in range(len(pairs))] == list(pairs)
    return [(*record.texts, record.fields.get("label"), record.fields["id"]) for record in pairs]
