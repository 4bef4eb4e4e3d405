"""Prepared folders: what they restore, and what of them is refused."""

import concurrent.futures
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ernie_m_jax.data import array_records, prepared
from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.task import Record
from tests.command import ROOT

RECORDS = [
    Record(("größer 😀", "b\n\t"), ("en", "en"), {"label": "neutral", "id": "1"}),
    Record(("a b",), ("zh-cn",), {"words": ("a", "b"), "tags": ("O", "B-X"), "id": "x:1"}),
    Record(("q", "c"), ("en", "en"), {"answers": (("c", 0), ("", 1)), "id": ""}),
    Record(("q", "c"), ("en", "en"), {"answers": ()}),
    Record(("x",), ("en",)),
    Record(
        ("\x00 \u2028 \ud800",),
        ("en",),
        {"list": [1, ("a",), [2.5, True, None]], "dict": {"list": [0], "dict": {}, "": {"a": ()}}, "n": 10**30},
    ),
]
TASK, LABELS = "xnli", ("a", "b")


def make(path, splits=("train", "dev"), records=RECORDS, language="en"):
    writer = prepared.Writer(str(path))
    for split in splits:
        writer.add(f"{split}-{language}.array_record", array_records.record_lines(records), {"no label": 2}, "a note")
    writer.finish(TASK, LABELS, "raw")
    return path


def open_split(path, split="dev", languages=("en",), task=TASK, labels=LABELS):
    return prepared.open_split(str(path), task, split, languages, labels)


def test_every_record_comes_back_as_it_was(tmp_path):
    opened = open_split(make(tmp_path / "new" / "folder"))["en"]
    assert len(opened) == len(RECORDS)
    for number, record in enumerate(RECORDS):
        for found in (opened[number], opened[number - len(RECORDS)]):
            assert found == record
            assert repr(found) == repr(record)  # types too
    assert (opened.skipped, opened.note) == ({"no label": 2}, "a note")
    with pytest.raises(IndexError):
        opened[len(RECORDS)]
    copy = pickle.loads(pickle.dumps(opened))
    assert [copy[number] for number in range(len(copy))] == RECORDS


@pytest.mark.parametrize("value", [np.int64(1), np.float32(0.5), b"a", {1: 2}, {"a": {1, 2}}, (object(),)])
def test_a_field_that_json_would_change_is_refused(tmp_path, value):
    with pytest.raises(DataError, match=r"record 1 in 'de': cannot be written: .* fields hold text, numbers, tuples"):
        make(tmp_path, records=[RECORDS[0], Record(("a",), ("de",), {"x": value})])
    assert list(tmp_path.iterdir()) == []


def test_the_same_records_make_the_same_bytes(tmp_path):
    many = [Record((f"text {number}",), ("en",), {"id": str(number)}) for number in range(20_000)]
    one, two = (make(tmp_path / name, records=many) for name in ("one", "two"))
    assert sorted(path.name for path in one.iterdir()) == [
        "dev-en.array_record",
        "manifest.json",
        "train-en.array_record",
    ]
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_no_records_are_a_file_too(tmp_path):
    assert len(open_split(make(tmp_path, records=[]))["en"]) == 0


# What is not finished


def test_a_folder_without_manifest_is_not_taken_for_a_prepared_one(tmp_path):
    writer = prepared.Writer(str(tmp_path))
    writer.add("train-en.array_record", array_records.record_lines(RECORDS), {})
    with pytest.raises(DataError, match=r"no manifest\.json: its preparation did not finish; run it again"):
        prepared.is_prepared(str(tmp_path))
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        open_split(tmp_path)
    assert prepared.is_prepared(str(make(tmp_path)))


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path):
    def lines():
        yield b"{}"
        raise KeyboardInterrupt

    writer = prepared.Writer(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        writer.add("train-en.array_record", lines(), {})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"nowhere/x: cannot be written"):
        array_records.write(str(tmp_path / "nowhere" / "x"), [b"{}"])


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / f".train-en.array_record.{'a' * 32}.tmp"
    left.write_bytes(b"x")
    (tmp_path / "own.tmp").touch()
    with pytest.raises(DataError, match="did not finish"):
        prepared.is_prepared(str(tmp_path))
    make(tmp_path)
    assert not left.exists()
    assert (tmp_path / "own.tmp").exists()


def test_what_is_no_folder_of_this_kind(tmp_path):
    (tmp_path / "train.tsv").touch()
    for path in (tmp_path, tmp_path / "train.tsv", tmp_path / "nothing", "tfds:xnli", ""):
        assert not prepared.is_prepared(str(path))


def test_a_finished_folder_is_not_written_over(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match=r"prepared already; remove the folder, or name another one"):
        make(tmp_path)
    with pytest.raises(DataError, match="cannot be written: "):
        prepared.Writer(str(tmp_path / "manifest.json" / "x"))


# What is refused at opening


def changed(path, change):
    tree = json.loads((path / "manifest.json").read_text())
    change(tree)
    (path / "manifest.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": "pawsx"}, r"prepared for the task 'xnli', not for 'pawsx'"),
        ({"labels": ("a", "c")}, r"prepared with the labels a, b; config\.model\.labels has a, c"),
        ({"labels": ()}, r"prepared with the labels a, b; config\.model\.labels has \(none\)"),
        ({"languages": ("en", "de")}, r"no dev split in 'de'; prepared are: train-en, dev-en"),
        ({"split": "test"}, r"no test split in 'en'; prepared are: train-en, dev-en"),
    ],
)
def test_other_data_than_the_config_means(tmp_path, keys, message):
    with pytest.raises(DataError, match=message) as error:
        open_split(make(tmp_path), **keys)
    assert isinstance(error.value, MissingData) == ("split" in message)
    assert open_split(tmp_path, labels=LABELS[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(version=2), r"version 2; this package reads version 1: prepare the data again"),
        (lambda tree: tree.pop("version"), r"cannot be read: KeyError\('version'\)"),
        (lambda tree: tree.pop("files"), "cannot be read"),
        (lambda tree: tree.update(labels=5), "cannot be read"),
        (lambda tree: tree.update(more=5), "cannot be read"),
        (lambda tree: tree["files"]["dev-en.array_record"].pop("bytes"), "cannot be read"),
        (lambda tree: tree["files"].update({"dev-en.array_record": 5}), "cannot be read"),
        (
            lambda tree: tree["files"]["dev-en.array_record"].update(bytes=5),
            r"dev-en\S*: \d+ bytes, the manifest has 5",
        ),
        (lambda tree: tree["files"]["dev-en.array_record"].update(records=5), r"6 records, the manifest has 5"),
    ],
)
def test_a_manifest_that_does_not_fit(tmp_path, change, message):
    changed(make(tmp_path), change)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_none(tmp_path, content):
    (make(tmp_path) / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read: .*; prepare the data again"):
        open_split(tmp_path)


def test_a_file_that_is_gone_cut_or_none(tmp_path):
    path = make(tmp_path) / "dev-en.array_record"
    content = path.read_bytes()
    for other, message in (
        (content[:-1], rf"{len(content) - 1} bytes, the manifest has {len(content)}; copy the folder again, or prep"),
        (bytes(len(content)), "cannot be read as ArrayRecord"),
        (None, "no such file, but the manifest names it"),
    ):
        path.write_bytes(other) if other is not None else path.unlink()
        with pytest.raises(DataError, match=message):
            open_split(tmp_path)
        assert len(open_split(tmp_path, "train")["en"]) == len(RECORDS)
        with pytest.raises(DataError, match=r"1 of 2 files differ: .*dev-en\.array_record"):
            prepared.verify(str(tmp_path))


def test_a_file_of_other_objects(tmp_path):
    writer = prepared.Writer(str(tmp_path))
    writer.add("dev-en.array_record", [b'{"en": "a"}', b"5", b"x", b'{"texts": 5, "languages": [], "fields": {}}'], {})
    writer.finish(TASK, LABELS, "raw")
    opened = open_split(tmp_path)["en"]
    for number in range(4):
        with pytest.raises(DataError, match=rf"dev-en\.array_record: record {number}: not a "):
            opened[number]


def test_a_damaged_record_is_named_when_it_is_read(tmp_path):
    path = make(tmp_path) / "dev-en.array_record"
    content = bytearray(path.read_bytes())
    content[content.index(b"words") if b"words" in content else 500] ^= 1
    path.write_bytes(content)
    opened = open_split(tmp_path)["en"]
    with pytest.raises(DataError, match=r"dev-en\.array_record: record \d: cannot be read: "):
        list(opened)


def test_threads_read_one_file_together(tmp_path):
    """Threads are switched as often as can be, or a wrong place between finding a record and reading it is rare."""
    usual = sys.getswitchinterval()
    many = [Record((f"text {number}",), ("en",), {"id": str(number)}) for number in range(300)]
    opened = open_split(make(tmp_path, records=many))["en"]
    order = [int(number) for number in np.random.default_rng(0).integers(0, 300, 3000)]
    try:
        sys.setswitchinterval(1e-6)
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            found = list(threads.map(opened.__getitem__, order))
    finally:
        sys.setswitchinterval(usual)
    assert found == [many[number] for number in order]


def test_verify_finds_every_flipped_byte(tmp_path):
    path = make(tmp_path) / "train-en.array_record"
    assert set(prepared.verify(str(tmp_path)).files) == {"train-en.array_record", "dev-en.array_record"}
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in [0, len(content) - 1, *rng.integers(0, len(content), 20)]:
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"1 of 2 files differ: .*train-en\.array_record"):
            prepared.verify(str(tmp_path))
        content[place] ^= 1
    path.write_bytes(content)
    prepared.verify(str(tmp_path))


# Writing


def names(path):
    return {file.name for file in path.iterdir()}


def test_one_preparation_at_a_time(tmp_path):
    lines = list(array_records.record_lines(RECORDS))
    with prepared.writing(str(tmp_path)) as writer:
        writer.add("train-en.array_record", lines, {})
        with (
            pytest.raises(DataError, match=r": another preparation is writing here; wait for it, or name another f"),
            prepared.writing(str(tmp_path)),
        ):
            pass
        with pytest.raises(DataError, match="did not finish"):
            prepared.is_prepared(str(tmp_path))
        writer.finish(TASK, LABELS, "raw")
    assert names(tmp_path) == {"train-en.array_record", "manifest.json"}
    with pytest.raises(DataError, match="prepared already"), prepared.writing(str(tmp_path)):
        pass
    assert names(tmp_path) == {"train-en.array_record", "manifest.json"}
    prepared.verify(str(tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("x")])
def test_what_fails_leaves_nothing_behind(tmp_path, error):
    (tmp_path / "own.txt").touch()

    def fail():
        with prepared.writing(str(tmp_path)) as writer:
            writer.add("train-en.array_record", array_records.record_lines(RECORDS), {})
            raise error

    with pytest.raises((KeyboardInterrupt, DataError)):
        fail()
    assert names(tmp_path) == {"own.txt"}


@pytest.mark.parametrize("first", ["train-fr.array_record", "de-en.array_record"])
def test_what_a_killed_preparation_left_is_removed_whole(tmp_path, first):
    folder = tmp_path / "out"
    command = (
        "import os, sys; from ernie_m_jax.data import prepared\n"
        "with prepared.writing(sys.argv[1]) as writer:\n"
        "    writer.add(sys.argv[2], [b'{}'], {}); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", command, folder, first], cwd=ROOT, check=False).returncode == 9
    (folder / "own.txt").touch()
    assert first in names(folder)
    with pytest.raises(DataError, match="did not finish"):
        prepared.is_prepared(str(folder))
    with prepared.writing(str(folder)) as writer:
        writer.add("train-en.array_record", array_records.record_lines(RECORDS), {})
        writer.finish(TASK, LABELS, "raw")
    assert names(folder) == {"train-en.array_record", "manifest.json", "own.txt"}


def test_a_users_own_file_is_not_removed(tmp_path):
    (tmp_path / "de-en.array_record").touch()
    with prepared.writing(str(tmp_path)):
        pass
    assert names(tmp_path) == {"de-en.array_record"}


def test_verify_names_files_that_the_manifest_does_not(tmp_path):
    make(tmp_path)
    (tmp_path / "README").touch()
    prepared.verify(str(tmp_path))
    (tmp_path / "dev-fr.array_record").touch()
    with pytest.raises(DataError, match=r"1 of 3 files differ: dev-fr\.array_record: the manifest does not name it"):
        prepared.verify(str(tmp_path))
