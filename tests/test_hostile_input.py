"""Hostile input: some inputs of the fuzzer for every reader, and what it has found, each as small as it gets."""

import gzip
import hashlib
import json
import time

import pytest
from etils import epath

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.checkpoint import manifest
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.config import ConfigError, SourceConfig
from ernie_m_jax.data import array_records, labelled, prepared, readers, records, squad, stored_ids, tagged
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import tables
from ernie_m_jax.reporting import metrics, screen, summary
from ernie_m_jax.tokenizer import Tokenizer
from launch.ledger import Ledger
from tests import fuzzing, hostile_files
from tests.conftest import small_tree
from tests.hostile_readers import READERS, Reader

DEEP = "[" * 50_000


def test_some_inputs_of_every_reader():
    results = dict(fuzzing.run(list(READERS), 40, seed=1))
    assert {reader: counts.findings for reader, counts in results.items() if counts.findings} == {}
    for reader, counts in results.items():
        assert counts.inputs == counts.accepted + counts.refused == 40, reader
        assert counts.refused or reader in ("metrics", "checkpoint"), reader  # these pass over what is damaged
        assert counts.megabytes < 200, reader
    assert sum(counts.accepted for counts in results.values()) > 100


def test_the_same_seed_gives_the_same_inputs():
    cases = READERS["questions"].cases()
    made = [fuzzing.case_of("questions", 1, index, cases) for index in range(20)]
    assert made == [fuzzing.case_of("questions", 1, index, cases) for index in range(20)]
    assert made != [fuzzing.case_of("questions", 2, index, cases) for index in range(20)]


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        (KeyError("a"), "KeyError"),
        (DataError("one\ntwo"), "several lines"),
        (DataError("one"), "refused"),
    ],
)
def test_what_a_reader_does_not_document_is_a_finding(ends, found, monkeypatch, tmp_path):
    def read(_):
        raise ends

    monkeypatch.setitem(READERS, "own", Reader(list, dict, read, (DataError,)))
    assert found in fuzzing.outcome("own", tmp_path)


@pytest.mark.parametrize("style", ["bert", "xlm"])
def test_a_tokenizer_config_nested_too_deeply(style, tmp_path):
    case = (hostile_files.wordpiece if style == "bert" else hostile_files.byte_pairs)()[0]
    fuzzing.put({**case, "tokenizer_config.json": DEEP.encode()}, tmp_path / "t")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: not JSON"):
        Tokenizer.load(tmp_path / "t", style)


def test_a_special_token_with_a_line_feed(tmp_path):
    case = {**hostile_files.wordpiece()[0], "tokenizer_config.json": b'{"mask_token": "a\\nb"}'}
    fuzzing.put(case, tmp_path / "t")
    with pytest.raises(ValueError, match=r"mask_token is .* must be a token") as error:
        Tokenizer.load(tmp_path / "t", "bert")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("languages", [5, [None], "en", True])
def test_languages_of_a_tokenizer_that_are_no_object(languages, tmp_path):
    case = {**hostile_files.byte_pairs()[0], "tokenizer_config.json": json.dumps({"lang2id": languages}).encode()}
    fuzzing.put(case, tmp_path / "t")
    with pytest.raises(ValueError, match="lang2id"):
        Tokenizer.load(tmp_path / "t", "xlm")


def test_a_language_of_a_tokenizer_with_a_line_feed(tmp_path):
    case = {**hostile_files.byte_pairs()[0], "tokenizer_config.json": b'{"lang2id": {"x\\ny": 0}}'}
    fuzzing.put(case, tmp_path / "t")
    with pytest.raises(ValueError, match=r"has only x\\ny$"):
        Tokenizer.load(tmp_path / "t", "xlm")


def test_a_token_that_is_half_a_pair_of_surrogates(tmp_path):
    case = hostile_files.byte_pairs()[0]
    vocabulary = {**json.loads(case["vocab.json"]), "\ud800": 17}
    fuzzing.put({**case, "vocab.json": json.dumps(vocabulary).encode()}, tmp_path / "t")
    with pytest.raises(ValueError, match="surrogate"):
        Tokenizer.load(tmp_path / "t", "xlm")


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        '{"language": 5, "translation": ["a", "b"]}',
        '{"language": ["en", "de"], "translation": 1.5}',
        '{"language": ["en"], "translation": ["a", "b"]}',
        '{"language": [{"a": 1}, "de"], "translation": ["a", "b"]}',
        '{"translation": {"language": ["en", "de"], "translation": ["a"]}}',
        '{"translation": {"language": ["en", 3], "translation": ["a", "b"]}}',
    ],
)
def test_json_lines_of_another_layout(line, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=r"x\.jsonl:1"):
        records.open_source("x", SourceConfig(str(path), "auto", (), (), (), "train"), ("en", "de"), "parallel")


@pytest.mark.parametrize("line", [{"x\ny": "a"}, {"text": "a", "x\ny": "b"}, {"translation": {"x\ny": "a"}}])
def test_a_key_with_a_line_feed_makes_no_message_of_several_lines(line, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError) as refused:
        records.open_source("x", SourceConfig(str(path), "auto", (), (), (), "train"), ("en", "de"), "monolingual")
    assert "\n" not in str(refused.value)
    assert r"x\ny" in str(refused.value)


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path):
    path = tmp_path / "en.txt.gz"
    path.write_bytes(gzip.compress(bytes(70_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to more than"):
        readers.lines(str(path))
    path.write_bytes(gzip.compress(b"one line\n" * 500_000))  # shrinks well, and is small
    assert len(readers.lines(str(path))) == 500_000


def test_a_label_of_megabytes_takes_no_minute(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text(f"sentence1\tsentence2\tlabel\na\tb\t{'c' * 5_000_000}\nd\te\t1\n")
    started = time.process_time()
    found = labelled.open_pairs(str(path), "train", ("en",), ("0", "1"), bad_rows="skip")["en"]
    assert time.process_time() - started < 5
    assert [found[index].texts for index in range(len(found))] == [("d", "e")]


def test_a_line_of_megabytes_makes_no_message_of_megabytes(tmp_path):
    (tmp_path / "x.txt").write_text(f"a {'b' * 50_000}\n")
    with pytest.raises(DataError) as error:
        tagged.open_tagged(str(tmp_path / "x.txt"), "train", ("en",), ("PER",))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("answer", ["", 0, None, [], {}])
def test_an_answer_that_is_no_object(answer, tmp_path):
    tree = {"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "1", "question": "b", "answers": [answer]}]}]}]}
    (tmp_path / "x.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="answer"):
        squad.open_questions(str(tmp_path / "x.json"), "train", ("en",))


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"abc", "3 bytes"), (b"", "cut short"), (b"\xff\0\0\0", "cut short"), (b"\1\0\0\0\0\0\0\x80", "an id above")],
)
def test_stored_ids_that_are_none(content, what, tmp_path):
    writer = prepared.Writer(str(tmp_path))
    writer.add(stored_ids.parallel_file("en-de"), [content], {}, compressed=False)
    writer.finish(stored_ids.TASK, (), "config.py")
    found = stored_ids.open_folder(str(tmp_path), [("en", "de")])["en-de"]
    with pytest.raises(DataError, match=what):
        found[0]


@pytest.mark.parametrize(("key", "value"), [("task", "a\nb"), ("labels", ["a\nb"]), ("bytes", "3\n"), ("records", 2.0)])
def test_a_prepared_manifest_makes_no_message_of_several_lines(key, value, tmp_path):
    fuzzing.put(hostile_files.prepared_folders()[0], tmp_path / "x")
    path = tmp_path / "x" / prepared.MANIFEST
    tree = json.loads(path.read_text())
    (tree if key in tree else tree["files"]["train-en.array_record"])[key] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match="cannot be read") as error:
        prepared.manifest(str(tmp_path / "x"))
    assert "\n" not in str(error.value)


def test_questions_with_a_number_of_thousands_of_digits(tmp_path):
    (tmp_path / "x.json").write_text('{"data": [' + "9" * 5_000 + "]}")
    with pytest.raises(DataError, match="not JSON"):
        squad.open_questions(str(tmp_path / "x.json"), "train", ("en",))


@pytest.mark.parametrize("text", [None, 3, {"a": "b"}])
def test_a_prepared_text_that_is_none(text):
    with pytest.raises(DataError, match="not a prepared record"):
        array_records.restored({"texts": ["a", text], "languages": ["en", "en"], "fields": {}}, "here")


@pytest.mark.parametrize(
    "setting",
    [
        "--config.model.labels=" + "[" * 5_000,
        "--config.languages=" + "(" * 5_000,
        "--config.stages.one.weights={[]: 1}",
        "--config." + "a" * 100_000 + "=1",
        "--config.train.log_every=" + "a" * 100_000,
    ],
)
def test_flags_that_python_cannot_parse(setting):
    (problem,) = config_files.override(small_tree(), [setting])
    assert problem.startswith("config.")
    assert len(problem) < 1000


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"model__num_heads": 0, "compute__attention": "flash"}, "num_heads"),
        ({"stages__one__steps": 10**400}, "more than 64 bits"),
        ({"model__hidden_dropout": 10**400}, "more than 64 bits"),
    ],
)
def test_numbers_of_a_config_that_no_device_has(keys, what):
    with pytest.raises(ConfigError, match=what):
        configs.resolve(small_tree(**keys))


@pytest.mark.parametrize(
    "files",
    [{"a": {"sha256": "0"}}, {"a": []}, [], {"a": {"size": "1", "sha256": "0"}}, {"../a": {"size": 1, "sha256": "0"}}],
)
def test_a_manifest_with_the_right_digest_and_odd_content(files, tmp_path):
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    step = tmp_path / "step"
    step.mkdir()
    (tmp_path / "a").write_text("a")
    (step / manifest.MANIFEST).write_text(json.dumps({"files": files, "sha256": digest}))
    with pytest.raises(CheckpointError, match=r"damaged|missing"):
        manifest.verify(epath.Path(step))


def test_json_nested_too_deeply_is_damage(tmp_path):
    for name in (manifest.MANIFEST, "summary.json", "sweep.json"):
        (tmp_path / name).write_text(DEEP)
    with pytest.raises(CheckpointError, match="cannot be read"):
        manifest.verify(epath.Path(tmp_path))
    with pytest.raises(ConfigError, match="damaged"):
        tables.read(str(tmp_path))
    with pytest.raises(ConfigError, match="damaged"):
        Ledger(tmp_path, None)


def test_numbers_of_a_run_that_no_float_has(tmp_path, capsys):
    path = tmp_path / metrics.FILE
    lines = [{"step": 1, "objective": "a", "loss": 10**400}, {"step": 1, "objective": "a", "loss": 1, "tokens": "inf"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert summary.of_stage(metrics.repair(path))["tokens"] == 0
    assert "line 1: no metrics" in capsys.readouterr().out
    good = json.loads(hostile_files.metrics()[0]["stage.json"])
    assert summary.is_of_stage(good)
    for wrong in ({"steps": None}, {"steps": 10**400}, {"data_wait": {}}, {"objectives": {"a": {"loss": 10**400}}}):
        assert not summary.is_of_stage({**good, **wrong})


def test_a_name_that_is_no_unicode_is_shown(capsys):
    screen.show("the file \ud800.txt")
    assert r"the file \ud800.txt" in capsys.readouterr().out
