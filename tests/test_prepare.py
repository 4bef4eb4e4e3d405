"""Preparing a task's raw data by command: real files in, a folder that a config names in their place."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader, prepare, prepared
from ernie_m_jax.data.readers import DataError
from tests import labelled_files, raw_files
from tests.command import ROOT
from tests.test_data_keys import CONFIGS, bound, everything

TASKS = tuple(CONFIGS)
XNLI = tasks.load("xnli").languages


def run(*arguments):
    prepare.main([*map(str, arguments)])


def refused(capsys, *arguments):
    """What the command says when it refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip("\n")


def prepared_paths(name, paths, folder):
    """A prepared folder for each raw one, once it is made."""
    made = {}
    for source in dict.fromkeys(paths.values()):
        output = folder / f"prepared-{source.rpartition('/')[2]}"
        run(name, "--source", source, "--output", output)
        made[source] = str(output)
    return {split: made[source] for split, source in paths.items()}


# Records


@pytest.mark.parametrize("name", TASKS)
def test_prepared_records_are_those_of_the_raw_files(name, tmp_path):
    paths = raw_files.write(name, tmp_path)
    raw, ready = bound(name, paths), bound(name, prepared_paths(name, paths, tmp_path))
    for one, other in ((raw.splits(), ready.splits()),):
        assert list(one) == list(other) == ["dev", "test"]
        for split in one:
            assert list(one[split]) == list(other[split]) == ["de", "en"]
            assert repr(everything(one[split])) == repr(everything(other[split]))  # types too
    one, other = raw.records(None), ready.records(None)
    assert list(one) == list(other)
    for language, group in one.items():
        assert other[language].weight == group.weight
        assert repr(everything({0: group.records})) == repr(everything({0: other[language].records}))


@pytest.mark.parametrize("name", ["conll", "mlqa"])  # whose fields hold tuples
def test_training_reads_the_same_batches(name, tmp_path, tokenizer):
    paths = raw_files.write(name, tmp_path)
    found = []
    for task in (bound(name, paths), bound(name, prepared_paths(name, paths, tmp_path))):
        with contextlib.closing(loader.Loader(task, tokenizer, task.records(None))) as source:
            found.append([next(source) for _ in range(3)])
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for feature in one:
            np.testing.assert_array_equal(one[feature], other[feature], err_msg=feature)


def test_one_table_of_fifteen_languages(tmp_path, capsys, monkeypatch):
    words = dict.fromkeys(XNLI, labelled_files.WORDS["en"]) | labelled_files.WORDS
    monkeypatch.setattr(labelled_files, "WORDS", words)
    labelled_files.write_xnli(tmp_path, XNLI, 3, 6, 9)
    run("xnli", "--source", tmp_path / "XNLI-1.0", "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert re.search(r"\ntrain: left out: \S+XNLI-1\.0: no file of the train split in 'en'; looked for: ", f"\n{said}")
    assert re.search(r"\nlanguage +dev +test\nen +6 +9\n(.*\n){13}ur +6 +9\nall +90 +135\nfor the config: ", said)
    assert "test-ur.array_record: 9 records, " in said
    names = {f"{split}-{language}.array_record" for split in ("dev", "test") for language in XNLI}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"manifest.json"}
    manifest = prepared.manifest(str(tmp_path / "out"))
    assert (manifest.task, manifest.labels) == ("xnli", tasks.load("xnli").labels)
    assert manifest.source == str(tmp_path / "XNLI-1.0")
    config = CONFIGS["xnli"].get_config("size=tiny")
    for split in ("dev", "test"):
        config.objectives.xnli[split] = str(tmp_path / "out")
    splits = tasks.bind(configs.resolve(config), "xnli").splits()
    assert {split: list(opened) for split, opened in splits.items()} == {split: list(XNLI) for split in ("dev", "test")}


# What is asked for


def test_what_is_asked_for_must_be_there(tmp_path, capsys):
    paths = raw_files.write("mlqa", tmp_path)
    squad, mlqa, out = paths["train"], paths["dev"], tmp_path / "out"
    assert "squad: no file of the dev split" in refused(
        capsys, "mlqa", "--source", squad, "--output", out, "--splits", "train,dev"
    )
    assert "no file of the dev split in 'hi'" in refused(
        capsys, "mlqa", "--source", mlqa, "--output", out, "--languages", "en,hi"
    )
    assert "--splits: 'nope' must be train, dev or test" in refused(
        capsys, "mlqa", "--source", mlqa, "--output", out, "--splits", "nope"
    )
    assert not out.exists()
    run("mlqa", "--source", mlqa, "--output", out, "--languages", "de", "--splits", "test")
    assert {path.name for path in out.iterdir()} == {"test-de.array_record", "manifest.json"}
    said = capsys.readouterr().out
    assert "left out" not in said


def test_a_tfds_data_set_that_is_not_prepared(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    said = refused(capsys, "xnli", "--source", "tfds:xnli", "--output", tmp_path / "out")
    assert "tfds:xnli (split 'train'): cannot be opened" in said
    assert "download_and_prepare" in said


def test_a_split_that_a_tfds_data_set_lacks_is_left_out(tmp_path, capsys):
    import tensorflow_datasets as tfds

    class Nli(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Translation(("en", "de"))
            label = tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
            features = tfds.features.FeaturesDict({"premise": text, "hypothesis": text, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples(5), "test": self._generate_examples(2)}

        def _generate_examples(self, count):
            for number in range(count):
                both = {"en": f"text {number}", "de": f"größer {number}"}
                yield number, {"premise": both, "hypothesis": both, "label": number % 3}

    tfds.disable_progress_bar()
    builder = Nli(data_dir=str(tmp_path / "tfds"), file_format="array_record")
    builder.download_and_prepare()
    source = f"tfds:{builder.data_dir}"
    run("xnli", "--source", source, "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert re.search(r"train: left out: .*the splits there are ", said)
    assert "all           5     2" not in said
    assert re.search(r"language +dev +test\nen +5 +2\nde +5 +2\nall +10 +4\nfor the config: ", said)
    own = bound("xnli", {"dev": source, "test": source, "train": ""})
    ready = bound("xnli", {"dev": str(tmp_path / "out"), "test": str(tmp_path / "out"), "train": ""})
    for split, opened in own.splits().items():
        assert repr(everything(opened)) == repr(everything(ready.splits()[split]))


@pytest.mark.parametrize(("name", "reason"), raw_files.BAD.items())
def test_bad_rows(name, reason, tmp_path, capsys):
    source, language = raw_files.write(name, tmp_path, bad=True)["train"], "en" if name == "mlqa" else "de"
    arguments = ["--source", source, "--output", tmp_path / "out", "--languages", language]
    said = refused(capsys, name, *arguments)
    assert 'set --bad_rows to "skip"' in said
    assert re.search(r":\d+: " if name != "mlqa" else r"question 'bad': ", said)
    assert not (tmp_path / "out").exists()
    run(name, *arguments, "--bad_rows", "skip")
    assert f"train {language}: left out: {reason} 1\n" in capsys.readouterr().out
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert files[f"train-{language}.array_record"]["skipped"] == {reason: 1}
    assert files[f"train-{language}.array_record"]["records"] == 7
    ready = bound(name, dict.fromkeys(("train", "dev", "test"), str(tmp_path / "out")), train_languages=(language,))
    assert len(ready.records(None)[language].records) == 7
    said = " ".join(capsys.readouterr().out.split())
    assert f"mine train {language}: left out: {reason} 1" in said
    assert ("not UTF-8; read as latin-1" in said) == (name == "conll")


def test_other_labels(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "eng.train").write_text("a B-X\n")
    arguments = ["conll", "--source", tmp_path / "raw", "--languages", "en"]
    assert "tag 'B-X' is not allowed" in refused(capsys, *arguments, "--output", tmp_path / "out")
    run(*arguments, "--output", tmp_path / "out", "--labels", "O,B-X,I-X")
    paths = dict.fromkeys(("train", "dev", "test"), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"prepared with the labels O, B-X, I-X; config\.model\.labels has O, B-PER"):
        bound("conll", paths, train_languages=("en",)).records(None)


def test_labels_of_a_task_that_has_none(tmp_path, capsys):
    arguments = ["mlqa", "--source", tmp_path, "--output", tmp_path / "out", "--labels", "a"]
    assert "--labels: a given, but mlqa has no labels" in refused(capsys, *arguments)


# Opening


def test_another_tasks_folder_is_refused(tmp_path):
    paths = raw_files.write("xnli", tmp_path)
    ready = prepared_paths("xnli", paths, tmp_path)
    with pytest.raises(DataError, match=r"prepared for the task 'xnli', not for 'pawsx'"):
        bound("pawsx", ready).records(None)
    with pytest.raises(DataError, match=r"no train split in 'fr'; prepared are: train-en, train-de"):
        bound("xnli", ready, train_languages=("fr",)).records(None)


def test_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
    """Its name is a module's, and its records have fields of every kind that is kept."""
    (tmp_path / "my_reader.py").write_text(
        "import dataclasses, pathlib\n"
        "from ernie_m_jax.finetune import xnli\n"
        "from ernie_m_jax.task import Record\n"
        "class Rows(list):\n"
        "    skipped = {}\n"
        "def read(path, split, languages, labels, bad_rows, config_key):\n"
        "    text = pathlib.Path(path).read_text()\n"
        "    fields = {'n': 1, 'both': (1.5, [split, None]), 'labels': tuple(labels)}\n"
        "    rows = {code: Rows([Record((text,), (code,), fields)]) for code in languages}\n"
        "    for one in rows.values():\n"
        "        one.path = path\n"  # a file that holds every split
        "    return rows\n"
        "TASK = dataclasses.replace(xnli.TASK, read=read, labels=('x',), languages=())\n"
    )
    (tmp_path / "text").write_text("größer")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["my_reader", "--source", tmp_path / "text", "--output", tmp_path / "out"]
    assert "no task 'my_reader'" in refused(capsys, *arguments)
    (tmp_path / "mine").mkdir()
    shutil.move(tmp_path / "my_reader.py", tmp_path / "mine" / "reader.py")
    arguments[0] = "mine.reader"
    assert "name them by --languages" in refused(capsys, *arguments)
    arguments += ["--languages", "qq"]
    assert "text is a file, which is one split" in refused(capsys, *arguments)
    run(*arguments, "--splits", "train,dev")
    opened = prepared.open_split(str(tmp_path / "out"), "mine.reader", "dev", ("qq",), ("x",))
    assert repr(opened["qq"][0].fields) == repr({"n": 1, "both": (1.5, ["dev", None]), "labels": ("x",)})


@pytest.mark.parametrize("name", ["mmlm", "xlni", "no.such.module", "verified"])
def test_what_is_no_task_with_labelled_data(name, tmp_path, capsys):
    said = refused(capsys, name, "--source", tmp_path, "--output", tmp_path / "out")
    assert name in said
    assert not (tmp_path / "out").exists()


# Again


def test_the_same_files_make_the_same_bytes_and_are_not_written_over(tmp_path, capsys):
    source = raw_files.write("conll", tmp_path)["train"]
    arguments = ["conll", "--source", source, "--languages", "en,de", "--output"]
    for name in ("one", "two"):
        run(*arguments, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert "prepared already" in refused(capsys, *arguments, tmp_path / "one")


def test_a_killed_preparation_is_not_complete_and_runs_again(tmp_path):
    source, out = raw_files.write("pawsx", tmp_path)["train"], tmp_path / "out"
    with (tmp_path / "x-final" / "de" / "translated_train.tsv").open("a") as file:
        file.writelines(f"{number}\tone {number}\tother\t1\n" for number in range(40_000))
    arguments = ["pawsx", f"--source={source}", f"--output={out}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ernie_m_jax.data.prepare", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not out.is_dir() or not os.listdir(out):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    paths = dict.fromkeys(("train", "dev", "test"), str(out))
    with pytest.raises(DataError, match=r"no manifest\.json: its preparation did not finish; run it again"):
        bound("pawsx", paths).splits()
    run(*arguments)
    names = {
        f"{split}-{code}.array_record" for split, code in itertools.product(("train", "dev", "test"), ("en", "de"))
    }
    assert {path.name for path in out.iterdir()} == names | {"manifest.json"}
    run("verify", out)
    assert len(bound("pawsx", paths).records(None)["de"].records) == 40_007


def test_verify_says_what_differs(tmp_path, capsys):
    source = raw_files.write("pawsx", tmp_path)["train"]
    run("pawsx", "--source", source, "--output", tmp_path / "out")
    run("verify", tmp_path / "out")
    assert "test-de.array_record: 5 records, " in capsys.readouterr().out
    path = tmp_path / "out" / "dev-en.array_record"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "1 of 6 files differ: dev-en.array_record: its SHA-256 is not" in refused(capsys, "verify", tmp_path / "out")
    assert "no prepared folder" in refused(capsys, "verify", tmp_path)


# The command


def test_the_command_in_a_process_of_its_own(tmp_path):
    source = raw_files.write("xnli", tmp_path)["dev"]
    command = [sys.executable, "-m", "ernie_m_jax.data.prepare", "xnli", f"--source={source}", "--languages=en"]
    done = subprocess.run(
        [*command, f"--output={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "test-en.array_record: 5 records" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status", "wanted"),
    [
        (["xnli", "--help"], 0, "--bad_rows"),
        (["tatoeba", "--help"], 0, "--pairs"),
        (["--help"], 0, "TASK is xnli, pawsx, conll, mlqa, tatoeba or a module of your own"),
        ([], 2, "TASK"),
        (["xnli", "--source=x"], 2, "--output"),
        (["tatoeba", "--source=x", "--output=y", "--bad_rows=skip"], 2, "--bad_rows"),
        (["xnli", "--source=x", "--output=y", "--bad_rows=drop"], 2, "drop"),
    ],
)
def test_flags(arguments, status, wanted, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == status
    said = capsys.readouterr()
    assert wanted in " ".join((said.out + said.err).split())
