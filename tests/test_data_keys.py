"""The data of the tasks that have labels: every one opened the same way, out of raw files in their own layouts."""

import pytest

from configs.finetune import conll as conll_config
from configs.finetune import mlqa as mlqa_config
from configs.finetune import pawsx as pawsx_config
from configs.finetune import xnli as xnli_config
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data.readers import DataError
from tests import raw_files

CONFIGS = {"xnli": xnli_config, "pawsx": pawsx_config, "conll": conll_config, "mlqa": mlqa_config}
LABELS = {"xnli": 3, "pawsx": 2, "conll": 9, "mlqa": 0}


def bound(name, paths, **keys):
    """A task with the labels of its own config and these paths; its entry has another name than the task."""
    config = CONFIGS[name].get_config("size=tiny").to_dict()
    trained = ("en",) if name == "mlqa" else ("en", "de")
    own = config["objectives"].pop(name) | {"task": name, "train_languages": trained, "languages": ("de", "en")}
    config["objectives"] = {"mine": own | paths | keys}
    config["stages"]["finetune"]["weights"] = {"mine": 1.0}
    config["evals"], config["train"]["select"] = {}, ""
    return tasks.bind(configs.resolve(config), "mine")


def everything(opened):
    return {language: [records[index] for index in range(len(records))] for language, records in opened.items()}


@pytest.mark.parametrize("name", LABELS)
def test_a_task_says_how_its_raw_files_are_read(name, tmp_path):
    paths, task = raw_files.write(name, tmp_path), tasks.load(name)
    assert len(task.labels) == LABELS[name]
    assert {"en", "de"} < set(task.languages)
    own = bound(name, paths)
    for split, opened in own.splits().items():
        read = task.read(paths[split], split, ("de", "en"), task.labels, "error", "")
        assert list(read) == list(opened) == ["de", "en"]
        assert everything(read) == everything(opened)
        assert all(records.skipped == {} for records in read.values())
    groups = own.records(None)
    assert {language: len(group.records) for language, group in groups.items()} == dict.fromkeys(groups, 7)
    assert set(groups) == ({"en"} if name == "mlqa" else {"en", "de"})


def test_the_others_read_no_raw_files():
    assert {name for name in tasks.names() if tasks.load(name).read is not None} == set(LABELS)


@pytest.mark.parametrize(("name", "reason"), raw_files.BAD.items())
def test_what_is_left_out_is_said_by_entry_split_and_language(name, reason, tmp_path, capsys):
    paths = raw_files.write(name, tmp_path, bad=True)
    language = "en" if name == "mlqa" else "de"
    with pytest.raises(DataError, match=r'set config\.objectives\.mine\.bad_rows to "skip"'):
        bound(name, paths).records(None)
    assert len(bound(name, paths, bad_rows="skip").records(None)[language].records) == 7
    said = " ".join(capsys.readouterr().out.split())
    assert f"mine train {language}: left out: {reason} 1" in said
    assert ("mine train de: " in said and "deu.train is not UTF-8; read as latin-1" in said) == (name == "conll")
    with pytest.raises(DataError, match=r'set --bad_rows to "skip"'):
        tasks.load(name).read(paths["train"], "train", (language,), tasks.load(name).labels, "error", "")


def test_other_labels_are_the_configs(tmp_path):
    (tmp_path / "eng.train").write_text("a B-X\n")
    model = {"labels": ("B-X", "I-X", "O"), "num_labels": 3}
    config = CONFIGS["conll"].get_config("size=tiny")
    config.model.update(model)
    config.objectives.conll.train = str(tmp_path)
    (group,) = tasks.bind(configs.resolve(config), "conll").records(None).values()
    assert group.records[0].fields["tags"] == ("B-X",)
