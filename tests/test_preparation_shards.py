"""What a preparation by Beam must not lose, keep or overwrite: workers that fail, folders and texts that change."""

import json
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import config_files, stores
from ernie_m_jax.data import array_records, prepared
from ernie_m_jax.data import preparation_beam as beam
from ernie_m_jax.data import preparation_duplicates as duplicates
from ernie_m_jax.data import preparation_shards as shards
from ernie_m_jax.data.readers import DataError
from tests import beam_corpus

WORK = ".work-0123456789abcdef"


@pytest.fixture
def config(tmp_path, tokenizer_path):
    """A config over a small corpus."""
    beam_corpus.write(tmp_path, tokenizer_path, lines=40)
    return configs.resolve(config_files.from_file(str(tmp_path / "config.py")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer_path):
    """The folder that is made of it."""
    folder = tmp_path_factory.mktemp("whole")
    beam_corpus.write(folder, tokenizer_path, lines=40)
    prepare(configs.resolve(config_files.from_file(str(folder / "config.py"))), folder / "out")
    return folder / "out"


def with_lines(tmp_path, tokenizer_path, path, **keys):
    """A config over lines in English alone."""
    beam_corpus.write(tmp_path, tokenizer_path, lines=4)
    tree = config_files.from_file(str(tmp_path / "config.py"))
    tree["data"]["monolingual"] = {"src": base.source(str(path), **keys).to_dict()}
    tree["data"]["parallel"] = {}
    tree["stages"]["one"]["weights"] = {"mmlm": 1.0}
    tree["objectives"]["mmlm"]["join_to_characters"] = 0
    tree["languages"] = ("en",)
    return configs.resolve(tree)


def prepare(config, output, megabytes=0.001, **options):
    """Prepares it by Beam in this process."""
    return beam.prepare(
        config, "config.py", str(output), beam.Options("DirectRunner", shard_megabytes=megabytes, **options)
    )


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


# What stands in the folder is nobody else's


@pytest.mark.parametrize("folder", ["memory://bucket/data", "memory://bucket", "memory:///bucket/data/"])
def test_a_source_behind_a_url_is_not_removed(folder, tmp_path, tokenizer_path):
    files = fsspec.filesystem("memory")
    source = "memory://bucket/data/train-en.array_record"
    array_records.write(source, [b'{"en": "hello there"}'] * 5)
    try:
        with pytest.raises(DataError, match="the source stands in this folder; name a new one"):
            prepare(with_lines(tmp_path, tokenizer_path, source), folder)
        assert files.isfile("/bucket/data/train-en.array_record")
        manifest = prepare(with_lines(tmp_path, tokenizer_path, source), "memory://bucket/data/ids")
        assert [file.records for file in manifest.files.values()] == [1]
    finally:
        files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("place", ["check_apart", "stored"])
def test_a_folder_that_another_preparation_finishes_is_left_alone(place, config, whole, tmp_path, monkeypatch):
    output = tmp_path / "out"
    # Another process finishes the folder while this one makes itself ready, or works.
    owner, name = (beam.corpus, "check_apart") if place == "check_apart" else (shards.Steps, "stored")
    original = getattr(owner, name)

    def meanwhile(*arguments):
        found = original(*arguments)
        shutil.copytree(whole, output, dirs_exist_ok=True)
        return found

    monkeypatch.setattr(owner, name, meanwhile)
    with pytest.raises(DataError, match="prepared already"):
        prepare(config, output)
    assert content(output) == content(whole)
    prepared.verify(str(output))


def test_what_a_preparation_left_when_it_was_killed_at_its_end_is_removed(config, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / WORK).mkdir()
    with pytest.raises(DataError, match="prepared already"):
        prepare(config, tmp_path / "out")
    assert not (tmp_path / "out" / WORK).exists()
    assert content(tmp_path / "out") == content(whole)


def test_what_lost_workers_leave_is_removed(config, tmp_path, monkeypatch):
    output, run = tmp_path / "out", beam._run

    def beside(*arguments):
        run(*arguments)
        (output / ".parallel-en-de.array_record.0123456789abcdef0123456789abcdef.tmp").touch()
        (output / "parallel-en-de-99999.array_record").touch()  # of another job that still lived
        (output / "mine.txt").touch()

    monkeypatch.setattr(beam, "_run", beside)
    prepare(config, output)
    (output / "mine.txt").unlink()
    prepared.verify(str(output))
    assert not [name for name in os.listdir(output) if "99999" in name or name.startswith(".")]


def test_a_shard_that_another_job_overwrites_is_made_again(config, whole, tmp_path, monkeypatch):
    output, run = tmp_path / "out", beam._run

    def beside(*arguments):
        run(*arguments)
        (output / "parallel-en-de-00000.array_record").write_bytes(b"of a job that still lives")

    with monkeypatch.context() as patch:
        patch.setattr(beam, "_run", beside)
        with pytest.raises(DataError, match=r"en-de-00000.*: another preparation wrote here; cancel it, and run"):
            prepare(config, output)
    assert not (output / "manifest.json").exists()
    prepare(config, output)
    assert content(output) == content(whole)


# What is left out is counted


def test_a_part_that_is_wholly_repeated_is_counted(tmp_path, tokenizer_path):
    lines = [f"line number {number} of the text" for number in range(40)]
    (tmp_path / "src.txt").write_text("\n".join(lines * 3), "utf-8")
    config = with_lines(tmp_path, tokenizer_path, tmp_path / "src.txt")
    manifest = prepare(config, tmp_path / "out", megabytes=0.0003)
    assert sum(file.records for file in manifest.files.values()) == 40
    assert sum(file.skipped.get("repeated or blank", 0) for file in manifest.files.values()) == 80
    assert len(manifest.files) < 6
    prepared.verify(str(tmp_path / "out"))


def test_long_lines_are_kept_by_their_characters(tmp_path, tokenizer_path):
    lines = [f"{number} " + "word " * 600 for number in range(200)]
    (tmp_path / "src.txt").write_text("\n".join(lines), "utf-8")
    config = with_lines(tmp_path, tokenizer_path, tmp_path / "src.txt")
    size = sum(len(line.strip()) for line in lines)
    manifest = prepare(config, tmp_path / "out", megabytes=1, max_characters=size / 4)
    (file,) = manifest.files.values()
    assert 30 <= file.records < 64  # by 64 in a row it would be none, 8 or more


def test_a_language_that_is_named_twice_is_read_once(tmp_path, tokenizer_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "en.txt").write_text("one\ntwo\n", "utf-8")
    config = with_lines(tmp_path, tokenizer_path, tmp_path / "text" / "{language}.txt", languages=("en", "en"))
    manifest = prepare(config, tmp_path / "out", keep_duplicates=True)
    assert [file.records for file in manifest.files.values()] == [2]


# What fails


def steps_of(config, tmp_path):
    """Steps of a job, with all that stands before the shards of its English lines."""
    asked = beam.corpus.ask(config, beam.mixture.Sources(config, opening=beam._unopened))
    job = beam._job(config, str(tmp_path / "out"), asked, beam.Options("DirectRunner", shard_megabytes=0.001))
    return beam._begin(job, job.work())


def test_what_a_disk_fails_at_is_left_to_the_runner(config, tmp_path):
    steps = steps_of(config, tmp_path)
    os.rmdir(steps.work)
    Path(steps.work).symlink_to(Path(steps.work).name)  # a loop: an OSError that is no fault of the text
    with pytest.raises(OSError, match="symbolic links"):
        shards.told(steps, "cut_text", "monolingual-en")
    os.unlink(steps.work)
    os.mkdir(steps.work)
    assert shards.told(steps, "cut_text", "monolingual-en")
    assert not list(Path(steps.work).glob("error-*"))


def test_what_is_wrong_with_the_text_is_noted_once(config, tmp_path):
    steps = steps_of(config, tmp_path)
    (tmp_path / "more.tsv.gz").write_bytes(b"no gzip")
    assert shards.told(steps, "cut_text", "monolingual-en") == []
    with pytest.raises(DataError, match=r"more.tsv.gz: cannot be read: Not a gzipped file"):
        steps.stored()


def test_a_note_of_a_part_that_is_there_is_no_error(config, whole, tmp_path, monkeypatch):
    run = beam._run

    def noted(pipeline, steps):
        run(pipeline, steps)
        Path(steps.work, "error-0123456789abcdef").write_text("a worker that failed, before another did it")

    monkeypatch.setattr(beam, "_run", noted)
    prepare(config, tmp_path / "out")
    assert content(tmp_path / "out") == content(whole)


def test_what_is_cut_off_is_not_done(config, whole, tmp_path):
    steps = steps_of(config, tmp_path)
    shards.told(steps, "cut_text", "monolingual-en")
    made = Path(steps.work, "parts-monolingual-en.json")
    made.write_bytes(made.read_bytes()[:20])
    prepare(config, tmp_path / "out")
    assert content(tmp_path / "out") == content(whole)


def test_half_a_surrogate_pair_is_told_with_its_record(tmp_path, tokenizer_path):
    lines = [json.dumps({"en": f"line {number}"}) for number in range(9)]
    (tmp_path / "src.jsonl").write_text("\n".join([*lines, '{"en": "\\ud83d"}', *lines]))
    config = with_lines(tmp_path, tokenizer_path, tmp_path / "src.jsonl")
    with pytest.raises(DataError) as caught:
        prepare(config, tmp_path / "out", megabytes=1)
    assert str(caught.value).startswith(
        f"source 'data.monolingual.src': {tmp_path}/src.jsonl: 19 lines or records from 1: record 9: invalid Unicode: "
    )


# What changes while it is read


def test_a_source_that_changes_is_told(config, tmp_path, monkeypatch):
    run = beam._run

    def changing(*arguments):
        run(*arguments)
        with open(tmp_path / "en.txt", "ab") as file:
            file.write(b"one more line\n")

    monkeypatch.setattr(beam, "_run", changing)
    with pytest.raises(DataError, match="a source changed while it was read; run the same command again"):
        prepare(config, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_tfds_source_has_a_version(tmp_path, tokenizer_path):
    (tmp_path / "set").mkdir()
    config = with_lines(tmp_path, tokenizer_path, f"tfds:{tmp_path}/set")
    with pytest.raises(DataError, match=r"set/dataset_info.json: no such file"):
        steps_of(config, tmp_path)
    works = set()
    for content in ("{}", '{"name": "other"}'):
        (tmp_path / "set" / "dataset_info.json").write_text(content)
        works.add(steps_of(config, tmp_path).job.work())
    assert len(works) == 2


# What is read of what is stored


def test_ranges_of_a_table_behind_a_url_are_read_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = np.zeros(5000, duplicates.ROW)
    table["high"], table["row"] = np.sort(rng.integers(0, 2**63, 5000).astype(np.uint64) * 2), np.arange(5000)
    url = "memory://bucket/table"
    duplicates.write(url, table)
    files, taken = fsspec.filesystem("memory"), []
    cat = type(files).cat_file

    def counted(self, path, start=None, end=None, **keys):
        found = cat(self, path, start=start, end=end, **keys)
        taken.append(len(found))
        return found

    monkeypatch.setattr(type(files), "cat_file", counted)
    try:
        found = [duplicates.read(url, first, first + 64) for first in range(0, duplicates.BUCKETS, 64)]
        assert np.array_equal(np.concatenate(found), table)
        assert sum(taken) < table.nbytes + duplicates.BUCKETS * 8 * 1.1
        duplicates.write_rows(url, [np.arange(3, dtype=np.uint32), np.arange(0), np.arange(7, dtype=np.uint32)])
        assert [duplicates.read_rows(url, 3, part).tolist() for part in range(3)] == [[0, 1, 2], [], [*range(7)]]
        assert stores.sizes("memory://bucket") == {"table": 4 * 8 + 10 * 4}
    finally:
        files.rm("/bucket", recursive=True)
