"""How the readers of text, of labelled data and of prepared folders read whatever lies in a folder, to its end."""

import contextlib

import numpy as np

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import given, labelled, prepared, records, squad, stored_ids, tagged
from ernie_m_jax.data.readers import DataError

LANGUAGES = ("en", "de")
INPUTS = (("question",), ("context",))


def first_file(place):
    return min(path for path in place.iterdir() if path.is_file())


def _read_all(opened):
    for sequence in opened.values():
        for index in range(len(sequence)):
            for text in sequence[index].texts:
                text.encode("utf-8", "surrogatepass")


def _source(path, kind):
    keys = SourceConfig(path=path, format="auto", languages=(), pairs=(), columns=(), split="train")
    languages = ("en",) if path.endswith(("{language}.txt", "{language}.txt.gz")) else LANGUAGES
    _read_all(records.open_source("fuzzed", keys, languages, kind))


def read_records(place):
    name = min(path.name for path in place.iterdir())
    path = str(place / name.replace("en.txt", "{language}.txt").replace("x.de", "x.{language}"))
    kinds = ("monolingual",) if "txt" in name else ("parallel",) if "x.{" in path else ("monolingual", "parallel")
    refused = 0
    for kind in kinds:
        try:
            _source(path, kind)
        except DataError as error:
            refused += 1
            if refused == len(kinds):
                raise error


def read_pairs(place):
    name = min(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    names = ("0", "1", "contradiction", "entailment", "neutral")
    split = "test" if "test" in name else "train"
    path = str(place / name)
    with contextlib.suppress(DataError):
        _read_all(labelled.open_pairs(path, split, ("en",), names, bad_rows="skip"))
    _read_all(labelled.open_pairs(path, split, ("en",), names, {"contradictory": "contradiction"}))


def read_tagged(place):
    path = str(first_file(place))
    with contextlib.suppress(DataError):
        _read_all(tagged.open_tagged(path, "test", ("en",), ("PER", "LOC", "ORG"), "skip"))
    _read_all(tagged.open_tagged(path, "train", ("en",), ("PER", "LOC", "ORG")))


def read_questions(place):
    path = str(first_file(place))
    with contextlib.suppress(DataError):
        _read_all(squad.open_questions(path, "test", ("en",), "skip"))
    _read_all(squad.open_questions(path, "train", ("en",)))


def read_given(place):
    for row in given.rows(str(first_file(place)), INPUTS):
        given.check(row)


def read_prepared(place):
    manifest = prepared.manifest(str(place))
    with contextlib.suppress(DataError):
        prepared.verify(str(place))
    if manifest.task != stored_ids.TASK:
        _read_all(prepared.open_split(str(place), "pawsx", "train", ("en",), ("0", "1")))
        return
    opened = stored_ids.open_folder(str(place), [("en",), LANGUAGES])
    for sequence in (opened["en"].joined(0), opened["en-de"]):
        for index in range(len(sequence)):
            if any(np.any(ids < 0) for ids in sequence[index].ids):
                raise AssertionError("a negative id")
