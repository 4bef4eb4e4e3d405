"""Fine-tuning the study's arms in English: the files it reads, its config, its means, and arms that are not there."""

import json
import pathlib
import sys

import pytest

from benchmarks import ablation_groups
from ernie_m_jax import config as configs
from ernie_m_jax.data import labelled

sys.path.insert(0, str(pathlib.Path(ablation_groups.__file__).parent))
import ablation_finetuned

LANGUAGES = ablation_groups.LANGUAGES


def corpus(folder):
    (folder / "labelled").mkdir(parents=True)
    for part in ("train", "dev", "test"):
        rows = [("label", *LANGUAGES), *(("95", *(f"{part} {code} {n}" for code in LANGUAGES)) for n in range(3))]
        rows.append(("1", *(f'{part} "quoted {code}' for code in LANGUAGES)))
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / "labelled" / f"{part}.tsv").write_text(text, "utf-8")
    return folder


def test_the_files_are_read_as_pairs_with_the_groups_as_labels(tmp_path):
    ablation_finetuned.write_files(corpus(tmp_path / "corpus"), tmp_path / "data")
    path = str(tmp_path / "data" / "test-{language}.tsv")
    opened = labelled.open_pairs(path, "test", LANGUAGES, ablation_groups.GROUPS, {}, "error")
    assert list(opened) == list(LANGUAGES)
    found = [(record.texts[0], record.fields["label"]) for record in (opened["de"][n] for n in range(4))]
    assert found == [("test de 0", "95"), ("test de 1", "95"), ("test de 2", "95"), ('test "quoted de', "1")]


def test_english_alone_is_learned_from_and_chooses_the_checkpoint(tmp_path):
    config = configs.resolve(ablation_groups.get_config(f"data={tmp_path},seed=3"))
    keys = configs.to_dict(config)["objectives"]["groups"]
    assert keys["train_languages"] == ["en"]
    assert keys["test"] == f"{tmp_path}/test-{{language}}.tsv"
    assert (config.train.select, config.seed) == ("dev/dev/en/accuracy", 3)
    assert len(config.model.labels) == config.model.num_labels == 13


def test_the_other_languages_accuracy_is_their_mean(tmp_path):
    (tmp_path / "finetune").mkdir()
    values = {f"{part}/{code}/accuracy": 10.0 * n for part in ("dev", "test") for n, code in enumerate(LANGUAGES)}
    (tmp_path / "finetune" / "summary.json").write_text(json.dumps({"evals": {"groups": values}}))
    wanted = {"dev_en": 0.0, "dev_others": 20.0, "test_en": 0.0, "test_others": 20.0}
    assert ablation_finetuned.accuracies(tmp_path) == wanted


def test_arms_that_are_not_there_are_named(tmp_path, monkeypatch, capsys):
    arguments = {"data": "corpus", "arms": "arms", "workdir": "groups", "output": "groups.json"}
    flags = [word for name, value in arguments.items() for word in (f"--{name}", str(tmp_path / value))]
    monkeypatch.setattr(sys, "argv", ["ablation_finetuned.py", *flags, "--groups", "mmlm", "tlm", "--seeds", "1"])
    with pytest.raises(SystemExit):
        ablation_finetuned.main()
    assert f"not finished in {tmp_path / 'arms'}: mmlm-0, tlm-0" in capsys.readouterr().err
