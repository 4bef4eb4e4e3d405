"""Preparing pairs of texts by command, of which a config names the files."""

import re

import pytest

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import prepared, records
from ernie_m_jax.evaluation import retrieval
from tests.test_prepare import refused, run


def write_pairs(folder, pattern, pairs=("ara-eng", "deu-eng")):
    folder.mkdir(parents=True)
    for pair in pairs:
        for side in pair.split("-"):
            lines = [f"{side} {number}\n" for number in range(4)]
            (folder / pattern.format(pair=pair, side=side)).write_text("".join(lines))
    return folder


@pytest.mark.parametrize("pattern", ["tatoeba.{pair}.{side}", "{pair}.{side}"])
def test_pairs_of_a_folder(tmp_path, capsys, pattern):
    source = write_pairs(tmp_path / "v1", pattern)
    (source / "README.md").touch()
    run("tatoeba", "--source", source, "--output", tmp_path / "out")
    assert re.search(r"^ara-eng.array_record: 4 records.*\ndeu-eng.array_record: 4", capsys.readouterr().out)
    assert prepared.verify(str(tmp_path / "out")).task == "tatoeba"
    languages, pairs = ("ara", "deu", "eng"), ("ara-eng", "deu-eng")
    raw = f"{source}/{pattern.format(pair='{pair}', side='{language}')}"
    found = [
        retrieval.paired_sentences(SourceConfig(path, "auto", (), pairs, (), "train"), languages, "x")
        for path in (raw, f"{tmp_path}/out/{{pair}}.array_record")
    ]
    assert found[0] == found[1]
    assert list(found[1]) == [("ara", "eng"), ("deu", "eng")]
    for name, arguments in {"by pair": ["--pairs=deu-eng"], "by language": ["--languages=eng,deu"]}.items():
        run("tatoeba", "--source", source, "--output", tmp_path / name, *arguments)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"deu-eng.array_record", "manifest.json"}
    said = refused(capsys, "tatoeba", "--source", source, "--output", tmp_path / "no", "--languages", "eng,fra")
    assert "no pair of these languages; pairs there: ara-eng, deu-eng" in said
    said = refused(capsys, "tatoeba", "--source", source, "--output", tmp_path / "no", "--pairs", "fra-eng")
    assert "fra-eng.fra: no such file. Tatoeba's pairs are" in said
    assert not (tmp_path / "no").exists()


def test_pairs_of_any_parallel_source(tmp_path, capsys):
    arguments = ["tatoeba", "--source", "corpus:udhr", "--output", tmp_path / "out"]
    assert "name --pairs" in refused(capsys, *arguments)
    run(*arguments, "--pairs", "de-en,ja-en")
    source = SourceConfig(f"{tmp_path}/out/{{pair}}.array_record", "auto", (), ("ja-en",), (), "train")
    raw = SourceConfig("corpus:udhr", "auto", (), ("ja-en",), (), "train")
    one, other = (records.open_source("x", each, ("en", "ja"), "parallel")["ja-en"] for each in (raw, source))
    assert list(one) == [other[number] for number in range(len(other))]
