"""A corpus prepared by Beam's workers, by the command: what comes out, whoever makes it and however often killed."""

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader, mixture, prepare, prepared
from ernie_m_jax.data.order import Order
from ernie_m_jax.data.readers import DataError
from tests import beam_corpus, s3
from tests.beam_corpus import JOIN, LANGUAGES, call, content, ids, kept
from tests.command import ROOT


def flat(shards):
    return list(itertools.chain(*shards))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tokenizer_path):
    """A folder with text and its config, and the raw lines."""
    folder = tmp_path_factory.mktemp("corpus")
    return folder, beam_corpus.write(folder, tokenizer_path)


@pytest.fixture(scope="module")
def one(corpus):
    """What one worker makes of it, and what it says."""
    return corpus[0] / "one", call(corpus[0], corpus[0] / "one").stdout


def test_what_is_stored_is_each_text_once_in_its_order(corpus, one, tokenizer):
    folder, said = one
    for language in LANGUAGES:
        shards = ids(folder, f"monolingual-0-{language}")
        expected = [tokenizer.encode_ids(line) for line in kept(corpus[1][language])]
        assert flat(shards) == expected
        assert len(shards) > 4
        assert 50 < len(expected) < len(list(filter(str.strip, corpus[1][language]))) * 0.9  # many stood there twice
        assert (
            f"monolingual-0-{language}.array_record: {len(expected):,} records, {sum(map(len, expected)):,} t" in said
        )
    pairs = [list(map(tokenizer.encode_ids, pair)) for pair in kept(corpus[1]["en-de"])]
    assert flat(ids(folder, "parallel-en-de")) == [[len(a), *a, *b] for a, b in pairs]


def test_lines_are_joined_within_a_shard(corpus, one, tokenizer):
    lines = kept(corpus[1]["en"])
    shards = ids(one[0], "monolingual-0-en")
    for number, joined in enumerate(ids(one[0], f"monolingual-{JOIN}-en")):
        own, lines = lines[: len(shards[number])], lines[len(shards[number]) :]
        count = max(1, round(JOIN * len(own) / sum(len(line) + 1 for line in own)))
        groups = [" ".join(own[row : row + count]) for row in range(0, len(own), count)]
        assert joined == [tokenizer.encode_ids(group) for group in groups]
    assert not lines
    assert len(shards) == number + 1


def test_the_manifest_counts_each_shard(corpus, one, tokenizer):
    folder = one[0]
    manifest = prepared.verify(str(folder))
    assert sorted([*manifest.files, prepared.MANIFEST]) == sorted(path.name for path in folder.iterdir())
    assert list(manifest.files) == sorted(manifest.files)
    assert manifest.tokenizer == tokenizer.fingerprint
    for name, file in manifest.files.items():
        ((*records,),) = ids(folder, name)
        assert (file.records, file.tokens) == (
            len(records),
            sum(map(len, records)) - name.startswith("par") * len(records),
        )
        assert file.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    filled = {"-0-en": list(filter(str.strip, corpus[1]["en"]))}
    filled["-en-de"] = [pair for pair in corpus[1]["en-de"] if all(map(str.strip, pair))]  # each twice: whole parts
    for part, lines in filled.items():
        left_out = sum(f.skipped.get("repeated or blank", 0) for name, f in manifest.files.items() if part in name)
        assert left_out == len(lines) - len(kept(lines)) > 0


def reading(folder, output):
    """The config with the prepared folder in place of its text."""
    tree = config_files.from_file(str(folder / "config.py"))
    for kind in ("monolingual", "parallel"):
        tree["data"][kind] = {"ids": base.source(str(output)).to_dict()}
    return configs.resolve(tree)


def test_training_meets_every_record_once_an_epoch(corpus, one, tokenizer):
    config = reading(corpus[0], one[0])
    for objective, start, join in (("mmlm", f"monolingual-{JOIN}", True), ("tlm", "parallel", False)):
        task = tasks.bind(config, objective)
        entries = task.records(mixture.Sources(config))
        order = Order(entries, config.seed)
        for number, name in enumerate(order.names):
            expected = flat(ids(one[0], f"{start}-{name}"))
            met = [order.record(number, place).ids for place in range(len(expected))]
            whole = [met_ids[0].tolist() if join else [len(met_ids[0]), *met_ids[0], *met_ids[1]] for met_ids in met]
            assert sorted(whole) == sorted(expected)
        with contextlib.closing(loader.Loader(task, tokenizer, entries)) as batches:
            assert {len(feature) for feature in next(batches).values()} == {8}


@pytest.mark.slow
def test_one_shard_is_what_one_process_makes(corpus, tmp_path):
    given = ["corpus", f"--config={corpus[0] / 'config.py'}", "--config.data.monolingual.more.path="]
    call(corpus[0], tmp_path / "beam", "--shard_megabytes=9", "--keep_duplicates", given[-1])
    prepare.main([*given, f"--output={tmp_path / 'plain'}"])
    assert content(tmp_path / "beam") == content(tmp_path / "plain")
    assert len(content(tmp_path / "plain")) == 6


@pytest.mark.slow
def test_four_workers_make_the_same_bytes(corpus, one):
    call(corpus[0], corpus[0] / "four", workers=4)
    assert content(corpus[0] / "four") == content(one[0])


@pytest.mark.slow
def test_a_portable_runner_makes_the_same_bytes(corpus, one):
    flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
    call(corpus[0], corpus[0] / "portable", *flags)
    assert content(corpus[0] / "portable") == content(one[0])


@pytest.mark.slow
def test_text_and_shards_on_an_object_store(corpus, one, tmp_path):
    with s3.server(tmp_path) as environment:
        files, environment = s3.files(environment), os.environ | environment
        for path in corpus[0].iterdir():
            if path.is_file():
                files.put_file(str(path), f"{s3.BUCKET}/text/{path.name}")
        output, text = f"s3://{s3.BUCKET}/ids", f"s3://{s3.BUCKET}/text"
        flags = [
            f"--config.data.monolingual.lines.path={text}/{{language}}.txt",
            f"--config.data.monolingual.more.path={text}/more.tsv.gz",
            f"--config.data.parallel.pairs.path={text}/{{pair}}.{{language}}",
        ]
        call(corpus[0], output, *flags, workers=2, env=environment)
        found = {path.rpartition("/")[2]: files.cat_file(path) for path in files.find(f"{s3.BUCKET}/ids")}
        assert found == content(one[0])
        assert "prepared already" in call(corpus[0], output, *flags, status=2, env=environment).stderr


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_makes_the_same_bytes(tmp_path, tokenizer_path):
    beam_corpus.write(tmp_path, tokenizer_path, lines=1000)
    call(tmp_path, tmp_path / "whole", workers=2)
    output = tmp_path / "killed"
    done = {}
    for wanted in (0, 5, 20):  # before the first shard, and twice after some
        process = subprocess.Popen(
            beam_corpus.command(tmp_path, output, workers=4),
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        while not list(output.glob(".work-*/digests-*")) or len(list(output.glob("*.array_record"))) < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(DataError, match="its preparation did not finish; run it again"):
            prepared.is_prepared(str(output))
        done = {path.name: path.stat().st_ino for path in output.glob("*.array_record")}
        assert len(done) >= wanted
    call(tmp_path, output, workers=2)
    assert content(output) == content(tmp_path / "whole")
    assert len(done) < len(content(output))
    # Made once, but for what the four workers had at hand: two files of lines each.
    assert sum(path.stat().st_ino == done.get(path.name) for path in output.iterdir()) >= len(done) - 8


@pytest.mark.slow
def test_another_job_takes_nothing_of_a_killed_one(corpus, one, tmp_path):
    folder = corpus[0]
    (tmp_path / "en.txt").write_text("A bad byte: \udce9\n", "utf-8", "surrogateescape")
    broken = f"--config.data.monolingual.broken.path={tmp_path}/{{language}}.txt"
    said = call(folder, tmp_path / "out", broken, "--config.data.monolingual.broken.languages=en", status=2).stderr
    assert said.splitlines()[-1] == (
        f"error: source 'data.monolingual.broken': {tmp_path}/en.txt:1: invalid UTF-8 (invalid continuation byte); "
        "convert the file to UTF-8"
    )
    assert "Traceback" not in said
    assert list((tmp_path / "out").glob("parallel-*.array_record"))
    assert not list((tmp_path / "out").glob("manifest.json"))
    call(folder, tmp_path / "out")
    assert content(tmp_path / "out") == content(one[0])


@pytest.mark.slow
def test_a_language_with_much_text_is_cut(corpus, one, tmp_path):
    most = 2000
    for workers in (1, 2):
        call(corpus[0], tmp_path / str(workers), f"--max_characters={most}", "--shard_megabytes=0.005", workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    for name in ("monolingual-0-de", "monolingual-0-en", "parallel-en-de"):
        stored, whole = flat(ids(tmp_path / "1", name)), flat(ids(one[0], name))
        rest = iter(whole)
        assert all(record in rest for record in stored)  # in their order
        assert 0 < len(stored) < len(whole)
    letters = sum(sum(map(len, pair)) for pair in kept(corpus[1]["en-de"]))
    share = len(flat(ids(tmp_path / "1", "parallel-en-de"))) / len(kept(corpus[1]["en-de"]))
    assert share == pytest.approx(most / letters, rel=0.25)
    manifest = prepared.manifest(str(tmp_path / "1"))
    assert any(file.skipped.get("over --max_characters") for file in manifest.files.values())
    said = call(corpus[0], tmp_path / "none", "--max_characters=0.001", status=2).stderr
    assert "error: --max_characters 0.001 leaves nothing of " in said


@pytest.mark.slow
def test_a_run_trains_on_shards(corpus, one, tmp_path):
    flags = [f"--config.data.{kind}.ids.path={one[0]}" for kind in ("monolingual", "parallel")]
    flags += [f"--config.data.{name}.path=" for name in ("monolingual.lines", "monolingual.more", "parallel.pairs")]
    arguments = [f"--config={corpus[0] / 'config.py'}", f"--workdir={tmp_path}", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "ernie_m_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "summary.json").exists()


# What is refused


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        prepare.main([*map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_beam_that_is_not_installed_is_one_line(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    given = ["corpus", f"--config={corpus[0] / 'config.py'}", f"--output={tmp_path / 'out'}"]
    said = refused(capsys, *given, "--runner=DirectRunner")
    assert said.startswith("error: --runner needs apache-beam: pip install 'ernie_m_jax[prepare]' (")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_flags_without_a_runner_are_refused(corpus, tmp_path, capsys):
    given = ["corpus", f"--config={corpus[0] / 'config.py'}", f"--output={tmp_path / 'out'}"]
    assert "error: --max_characters is for --runner, which is not given" in refused(
        capsys, *given, "--max_characters=9"
    )
    assert "unrecognized arguments: --direct_num_workers=4" in refused(capsys, *given, "--direct_num_workers=4")
    said = refused(capsys, *given, "--runner=DirectRunner", "--shard_megabytes=0")
    assert "--shard_megabytes: '0' must be above 0" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--direct_num_worker=4"], "--direct_num_worker: neither this command nor Apache Beam knows the flag"),
        (["--runner=Nobody"], "--runner=Nobody: Unexpected pipeline runner: Nobody."),
        (["--config.tokenizer.path="], "config.tokenizer.path is empty: with --runner the tokenizer must be there"),
        (["--config.data.parallel.pairs.path=none.{language}"], "none.de: no such file"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(flags, message, corpus, tmp_path):
    said = call(corpus[0], tmp_path / "out", *flags, status=2).stderr
    assert f"error: {message}" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_a_finished_folder_is_left_alone(corpus, one):
    before = content(one[0])
    assert "prepared already; remove the folder" in call(corpus[0], one[0], status=2).stderr
    assert content(one[0]) == before
