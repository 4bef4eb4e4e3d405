"""Preparing a task's raw data: what is refused before anything is read or written, and what is said of it."""

import json
import re
import shutil

import pytest

from ernie_m_jax.data import prepared
from tests import raw_files
from tests.test_prepare import refused, run
from tests.test_prepare_pairs import write_pairs

FILES = {
    "xnli": "XNLI-1.0/xnli.dev.tsv",
    "conll": "conll/eng.train",
    "mlqa": "squad/train-v1.1.json",
    "pawsx": "x-final/{language}/dev_2k.tsv",
}


# One file is one split


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_split(name, tmp_path, capsys):
    raw_files.write(name, tmp_path)
    source, out = tmp_path / FILES[name], tmp_path / "out"
    arguments = [name, "--source", source, "--output", out, "--languages", "en"]
    for more in ([], ["--splits", "train,dev"]):
        said = refused(capsys, *arguments, *more)
        assert re.search(r"--splits: .* is a file, which is one split; name it: --splits dev, for example", said)
        assert not out.exists()
    run(*arguments, "--splits", "dev")
    assert {path.name for path in out.iterdir()} == {"dev-en.array_record", "manifest.json"}


def test_a_file_by_language_is_one_split(tmp_path, capsys):
    raw_files.write("conll", tmp_path)
    source = f"en={tmp_path}/conll/eng.train,de={tmp_path}/conll/deu.train"
    said = refused(capsys, "conll", "--source", source, "--output", tmp_path / "out")
    assert f"{tmp_path}/conll/eng.train is a file" in said
    run("conll", "--source", source, "--output", tmp_path / "out", "--splits", "train")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train-en.array_record",
        "train-de.array_record",
        "manifest.json",
    }
    run("conll", "--source", f"en={tmp_path}/conll,de={tmp_path}/conll", "--output", tmp_path / "folders")
    assert len(list((tmp_path / "folders").iterdir())) == 7


@pytest.mark.parametrize(("name", "file"), [("xnli", "xnli.dev.tsv"), ("conll", "eng.testa")])
def test_a_file_with_two_names_is_one_split(name, file, tmp_path, capsys):
    folder = tmp_path / FILES[name].partition("/")[0]
    raw_files.write(name, tmp_path)
    other = folder / file.replace(".dev", ".test").replace("testa", "testb")
    other.unlink()
    other.symlink_to(folder / file)
    arguments = [name, "--source", folder, "--output", tmp_path / "out", "--languages", "en"]
    said = refused(capsys, *arguments)
    assert re.search(r"dev and test in 'en' are one file, \S+: leave one of them out by --splits", said)
    assert not (tmp_path / "out").exists()
    run(*arguments, "--splits", "test")


# Where it is written


def test_the_output_is_not_where_the_source_is(tmp_path, capsys, monkeypatch):
    paths = raw_files.write("pawsx", tmp_path)
    (tmp_path / "link").symlink_to(paths["dev"])
    before = sorted(tmp_path.rglob("*"))
    for output in (paths["dev"], tmp_path, tmp_path / "link", tmp_path / "x-final" / "." / "en" / ".."):
        said = refused(capsys, "pawsx", "--source", paths["dev"], "--output", output)
        assert f"--output {output}: the source stands in this folder; name a new one" in said
    source = f"{paths['dev']}/{{language}}/dev_2k.tsv"
    for output in (paths["dev"], f"{paths['dev']}/en"):
        said = refused(capsys, "pawsx", "--source", source, "--splits", "dev", "--output", output)
        assert "the source stands in this folder" in said
    said = refused(capsys, "pawsx", "--source", paths["dev"], "--output", f"{paths['dev']}/en")
    assert "x-final/en: a folder of the source with files in it, such as dev_2k.tsv; name a new one" in said
    pairs = write_pairs(tmp_path / "v1", "tatoeba.{pair}.{side}")
    for source in (pairs, f"{pairs}/tatoeba.{{pair}}.{{language}}"):
        said = refused(capsys, "tatoeba", "--source", source, "--pairs", "ara-eng", "--output", pairs)
        assert "the source stands in this folder" in said
    shutil.rmtree(pairs)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.chdir(paths["dev"])
    run("pawsx", "--source", ".", "--output", "new")  # beside the raw files
    assert (tmp_path / "x-final" / "new" / "manifest.json").exists()


def test_what_is_no_folder_is_said_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        for name in ("xnli", "tatoeba"):
            said = refused(capsys, name, "--source", "/nowhere", "--output", output)
            assert f"--output {output}: {tmp_path}/file is no folder; name another one" in said


def test_splits_and_labels_are_looked_at_first(tmp_path, capsys):
    arguments = ["--source", "/nowhere", "--output", tmp_path / "out"]
    said = refused(capsys, "xnli", *arguments, "--splits", "dev,tset")
    assert said == "--splits: 'tset' must be train, dev or test"
    said = refused(capsys, "xnli", *arguments, "--labels", "neutral,entailment,neutral")
    assert said == "--labels: 'neutral' is named twice; name each label once"
    raw_files.write("xnli", tmp_path)
    said = refused(capsys, "xnli", "--source", tmp_path / "XNLI-1.0", "--output", tmp_path / "out", "--labels", "a,b")
    assert re.search(r"^--labels: 'contradiction' is missing, for which .* 'contradictory'; named are a, b$", said)


@pytest.mark.parametrize("name", ["xnli", "tatoeba"])
def test_a_source_that_is_prepared(name, tmp_path, capsys):
    raw, out = raw_files.write("xnli", tmp_path)["dev"], tmp_path / "ready"
    run("xnli", "--source", raw, "--output", out)
    said = refused(capsys, name, "--source", out, "--output", tmp_path / "out")
    assert said == f"--source {out}: is prepared already, for the task 'xnli'; name it in the config, or give raw data"


# What is left out, and what is next


@pytest.mark.parametrize(
    ("name", "languages", "wanted"),
    [
        ("xnli", "en", ("XNLI-1.0.zip", "XNLI-MT-1.0.zip", "//dl.fbaipublicfiles.com/XNLI/", "//cims.nyu.edu/~sbow")),
        ("pawsx", "de", ("https://storage.googleapis.com/paws/pawsx/x-final.tar.gz",)),
        ("conll", "es", ("conll2002/ner/", "esp.train", "into")),
        ("conll", "en", ("Reuters", "conll2003/ner/", "into")),
        ("mlqa", "en", ("rajpurkar", "MLQA_V1.zip", "xquad")),
        ("tatoeba", "", ("facebookresearch/LASER", "data/tatoeba/v1", "google-research/xtreme")),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_missing_download_is_named_with_where_to_get_it(name, languages, wanted, there, tmp_path, capsys):
    folder = tmp_path / "raw"
    if there:
        folder.mkdir()
    arguments = ["--languages", languages] if languages else []
    with pytest.raises(SystemExit):
        run(name, "--source", folder, "--output", tmp_path / "out", *arguments)
    shown, said = capsys.readouterr()
    assert shown == ""
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(part in said for part in (str(folder), *wanted))
    assert not (tmp_path / "out").exists()


def test_a_file_that_the_source_names_must_be_there(tmp_path, capsys):
    raw_files.write("conll", tmp_path)
    source = f"en={tmp_path}/nope/eng.train,de={tmp_path}/conll/deu.train"
    said = refused(capsys, "conll", "--source", source, "--splits", "train", "--output", tmp_path / "out")
    assert said.startswith(f"{tmp_path}/nope/eng.train: no such file or directory. CoNLL-2003's English texts are")
    assert f"put them into {tmp_path}/nope" in said
    assert not (tmp_path / "out").exists()
    raw = f"en={tmp_path}/conll,de={tmp_path}/conll"
    (tmp_path / "conll" / "eng.testb").unlink()
    said = refused(capsys, "conll", "--source", raw, "--output", tmp_path / "out")
    assert "no file of the test split in 'en'" in said
    run("conll", "--source", raw, "--output", tmp_path / "out", "--splits", "train,dev")


def test_every_language_that_is_left_out_has_its_reason_and_advice(tmp_path, capsys):
    folder = raw_files.write("conll", tmp_path)["train"]
    run("conll", "--source", folder, "--output", tmp_path / "out")
    said = capsys.readouterr().out.splitlines()
    for split, end in {"train": "train", "dev": "testa", "test": "testb"}.items():
        for language, code in {"es": "esp", "nl": "ned"}.items():
            start = f"{split}: left out: {language}: {folder}: no file of the {split} split in '{language}'; looked for"
            assert sum(line.startswith(f"{start}: {code}.{end}, ") for line in said) == 1
    advice = [line for line in said if line.startswith("to have ")]
    assert [line.partition(":")[0] for line in advice] == ["to have es", "to have nl"]  # once, not for every split
    assert re.search(rf": Get esp\.train, .*/conll2002/ner/, and put them into {folder}$", advice[0])


def test_the_advice_of_all_languages_is_given_once(tmp_path, capsys):
    folder = raw_files.write("mlqa", tmp_path)["train"]
    run("mlqa", "--source", folder, "--output", tmp_path / "out")
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": /")[0] for line in said if "left out" in line] == [
        *(f"train: left out: {language}" for language in ("es", "de", "ar", "hi", "vi", "zh")),
        *("dev: left out", "test: left out"),
    ]
    (advice,) = (line for line in said if "MLQA_V1.zip" in line)
    assert advice.startswith("to have es, de, ar, hi, vi, zh, dev, test: SQuAD 1.1 is https://")


def test_the_last_line_is_for_the_config(tmp_path, capsys):
    source, out = raw_files.write("pawsx", tmp_path)["dev"], tmp_path / "my data"
    run("pawsx", "--source", source, "--output", out, "--splits", "dev,test")
    said = capsys.readouterr().out
    assert said.endswith(
        f"for the config: '--config.objectives.pawsx.dev={out}' '--config.objectives.pawsx.test={out}'\n"
    )
    pairs = write_pairs(tmp_path / "v1", "tatoeba.{pair}.{side}")
    run("tatoeba", "--source", pairs, "--output", tmp_path / "out")
    template = f"{tmp_path}/out/{{pair}}.array_record"
    assert capsys.readouterr().out.endswith(
        f"for the config: '--config.data.parallel.NAME.path={template}' or, to search in, "
        f"'--config.evals.NAME.source.path={template}'\n"
    )


def test_a_row_of_no_known_language_says_that_it_counts_in_each(tmp_path):
    rows = [
        "language\tgold_label\tsentence1\tsentence2",
        "en\tneutral\ta\tb",
        "de\tneutral\ta\tb",
        "x",
        "de\tneutral\t\tb",
    ]
    (tmp_path / "raw.tsv").write_text("".join(f"{row}\n" for row in rows))
    arguments = ["xnli", "--source", tmp_path / "raw.tsv", "--splits", "dev", "--bad_rows", "skip"]
    run(*arguments, "--output", tmp_path / "out", "--languages", "en,de")
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    each = {"wrong number of cells (of no known language: counted in each)": 1}
    assert files["dev-en.array_record"]["skipped"] == each
    assert files["dev-de.array_record"]["skipped"] == {**each, "empty sentence": 1}


def test_one_folder_of_all_of_xnli(tmp_path, capsys):
    raw_files.write("xnli", tmp_path / "raw")
    run("xnli", "--source", tmp_path / "raw", "--output", tmp_path / "out")
    names = {f"{split}-{language}.array_record" for split in ("train", "dev", "test") for language in ("en", "de")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"manifest.json"}
    multi = tmp_path / "raw" / "multinli_1.0" / "multinli_1.0_train.txt"
    multi.parent.mkdir()
    multi.write_text("gold_label\tsentence1\tsentence2\nneutral\ta\tb\n")
    said = refused(capsys, "xnli", "--source", tmp_path / "raw", "--output", tmp_path / "other")
    assert (
        "several files fit the train split in 'en': XNLI-MT-1.0/multinli/multinli.train.en.tsv, multinli_1.0/" in said
    )
    shutil.rmtree(tmp_path / "raw" / "XNLI-MT-1.0")
    run("xnli", "--source", tmp_path / "raw", "--output", tmp_path / "english", "--splits", "train")
    assert {path.name for path in (tmp_path / "english").iterdir()} == {"train-en.array_record", "manifest.json"}


# Again


def test_fewer_languages_into_an_unfinished_folder(tmp_path, capsys):
    source, out = raw_files.write("pawsx", tmp_path)["dev"], tmp_path / "out"
    arguments = ["pawsx", "--source", source, "--output", out]
    run(*arguments)
    (out / "manifest.json").unlink()
    with prepared.writing(str(tmp_path / "busy")):
        said = refused(capsys, *arguments[:-1], tmp_path / "busy")
        assert said == f"{tmp_path}/busy: another preparation is writing here; wait for it, or name another folder"
    run(*arguments, "--languages", "de", "--splits", "dev")
    assert {path.name for path in out.iterdir()} == {"dev-de.array_record", "manifest.json"}
