"""The contract of a task: one outside the package, one that stands in a config twice, and every name that is wrong."""

import contextlib
import functools
import io
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.training import loop, preemption, run
from tests import own_task
from tests.command import ROOT, call, refused
from tests.conftest import small_tree
from tests.test_train import lines

MODULE = "my_package.my_task"
TINY = {"model__num_layers": 1, "compute__scan_layers": False, "compute__vocab_chunk": 0}  # compiles fast
KEYS = {"task": MODULE, "window": 12, "records": 30}
FLAG = f"--config.objectives.mine.task={MODULE}"


def evaluation(objective, splits=("dev", "test")):
    return {"kind": "task", "every": 0, "start": False, "batch_size": 3, "objective": objective, "splits": splits}


def own_tree(tokenizer_path, **keys):
    """The small config with the user's task and nothing else to train."""
    stage = small_tree()["stages"]["one"] | {"weights": {"mine": 1.0}, "warmup_steps": 1}
    return small_tree(
        **TINY
        | {
            "tokenizer__path": str(tokenizer_path),
            "objectives": {"mine": KEYS},
            "model__head": "token_classification",
            "model__mlm_head": "none",
            "evals": {"tagging": evaluation("mine")},
            "stages": {"one": stage},
        }
        | keys
    )


def forget(package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def is_executed(package="my_package"):
    return package in sys.modules


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a user's package, which says in a file that it has been executed."""
    path = tmp_path_factory.mktemp("own")
    (path / "my_package").mkdir()
    (path / "my_package" / "__init__.py").write_text(
        "import pathlib\n(pathlib.Path(__file__).parent / 'executed').touch()\n"
    )
    shutil.copy(own_task.__file__, path / "my_package" / "my_task.py")
    return path


@pytest.fixture
def importable(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget("my_package")


@pytest.fixture(scope="module")
def trained(folder, tokenizer_path, tmp_path_factory):
    """A run of the user's task: its work directory, its summary and what the screen showed."""
    workdir, screen = tmp_path_factory.mktemp("trained"), io.StringIO()
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(screen):
            numbers = run.train(configs.resolve(own_tree(tokenizer_path)), workdir)
    finally:
        sys.path.remove(str(folder))
        forget("my_package")
    return workdir, numbers, screen.getvalue()


def test_a_task_outside_the_package_trains_and_is_scored(trained):
    workdir, numbers, screen = trained
    assert set(numbers["objectives"]["one"]) == {"mine"}
    found = numbers["objectives"]["one"]["mine"]
    assert found["steps"] == 6
    assert {"loss", "first_loss", "tag_right", "text_right"} <= set(found)
    logged = [line for line in lines(workdir) if "objective" in line]
    assert [line["objective"] for line in logged] == ["mine"] * 6
    assert all(0 <= line["tag_right"] <= 1 and np.isfinite(line["loss"]) for line in logged)
    assert "tagged" in screen  # the column of its own
    scores = numbers["stages"]["one"]["evals"]["tagging"]
    assert set(scores) == {
        f"{split}/{part}{metric}"
        for split in ("dev", "test")
        for part in ("", "en/", "de/")
        for metric in ("right", "filled")
    }
    texts = [record.texts[0].strip() for record in own_task.made("en", 11, 200)]
    assert scores["test/en/filled"] == pytest.approx(100 * sum(map(bool, texts)) / 11)
    assert scores["dev/right"] == pytest.approx((scores["dev/en/right"] + scores["dev/de/right"]) / 2)
    assert numbers["evals"]["tagging"] == {"one": scores["test/right"]}
    for name in ("tagging.csv", "tagging.png"):
        assert (workdir / "one" / name).stat().st_size > 0


def alone(examples):
    """Rows of one example each, as long as a window, laid out without the package's help."""
    rows = {"segments": np.zeros((len(examples), KEYS["window"]), np.int32)}
    for name in examples[0]:
        width = 1 if name.startswith("text") else KEYS["window"]
        rows[name] = np.stack([np.pad(example[name], (0, width - len(example[name]))) for example in examples])
    for row, example in zip(rows["segments"], examples, strict=True):
        row[: len(example["ids"])] = 1
    return rows


def test_its_windows_come_back_in_order_with_what_the_model_says_of_each_alone(trained, importable, tokenizer):
    workdir, _, _ = trained
    model = ernie_m_jax.load(workdir)
    task = tasks.bind(configs.resolve(own_tree(workdir / "tokenizer")), "mine")
    records = own_task.made("de", 11, 200)
    made = [task.examples(record, tokenizer, np.random.default_rng(0)) for record in records]
    assert {0, 1} < set(map(len, made))  # and several
    windows = [example for examples in made for example in examples]
    found = jax.jit(functools.partial(task.predict, model.encoder()))(model.params, alone(windows))
    even = [row[: len(example["ids"])] for row, example in zip(np.asarray(found["ids/even"]), windows, strict=True)]
    assert min(abs(np.concatenate(even) - 0.5)) > 1e-5  # or a rounding error would decide
    expected = iter("".join("01"[int(value > 0.5)] for value in row) for row in even)
    written = (workdir / "one" / "tagging-predictions" / "test-de.tsv").read_text()
    assert written == "".join(
        "\t".join([record.fields["id"], *(next(expected) for _ in examples)]) + "\n"
        for record, examples in zip(records, made, strict=True)
    )
    assert set(written) > {"0", "1"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"window": 2}, r"config\.objectives\.mine\.window is 2; it must be from 4 to 512"),
        ({"window": "8"}, r"config\.objectives\.mine\.window must be of type int, got '8'"),
        ({"windows": 8}, r"config\.objectives\.mine\.windows is unknown \(nearest: window\)"),
        ({"window": 80}, r"config\.objectives\.mine\.window 80 is above config\.data\.sequence_length 64"),
    ],
)
def test_its_keys_are_checked_with_the_config(importable, tokenizer_path, keys, message):
    with pytest.raises(configs.ConfigError, match=message):
        configs.resolve(own_tree(tokenizer_path, objectives={"mine": KEYS | keys}))


def test_what_it_requires_is_said_with_the_config(importable, tokenizer_path):
    with pytest.raises(configs.ConfigError, match=r"config\.model\.head is 'none'; tagging needs"):
        configs.resolve(own_tree(tokenizer_path, model__head="none"))
    # Of a task that only an evaluation names too, but of none that nothing names.
    idle = {"objectives": {"mine": KEYS} | small_tree()["objectives"], "stages__one__weights": {"mmlm": 1.0}}
    trained = {"model__head": "none", "model__mlm_head": "dense"}
    with pytest.raises(configs.ConfigError, match=r"config\.model\.head is 'none'; tagging needs"):
        configs.resolve(own_tree(tokenizer_path, **idle, **trained))
    configs.resolve(own_tree(tokenizer_path, **idle, **trained, evals={}))


# Names


def test_an_unknown_task_is_named_with_those_there_are():
    own = "btmlm, camlm, conll, mlqa, mmlm, pawsx, tatoeba, tlm, xnli"
    assert ", ".join(tasks.names()) == own
    for tree, where in (
        ({"objectives__xlni": {}}, r"config\.objectives\.xlni"),
        ({"objectives__mine": {"task": "xlni"}}, r"config\.objectives\.mine\.task"),
    ):
        with pytest.raises(configs.ConfigError, match=rf"^{where}: no task 'xlni'; there are {own}.*nearest: xnli"):
            configs.resolve(small_tree(**tree))


@pytest.mark.parametrize("name", ["my_package.nothing", "nowhere.at_all", ".relative", "my_package.", "json.decoder"])
def test_a_module_that_is_not_there_or_holds_no_task(importable, name):
    with pytest.raises(configs.ConfigError) as caught:
        configs.resolve(small_tree(objectives__mine={"task": name}))
    said = f"config.objectives.mine.task: {name!r} is no module that can be imported from here and ends in TASK ="
    assert str(caught.value).startswith(said)
    assert "nearest" not in str(caught.value)


@pytest.mark.parametrize("name", [" mmlm", "../mmlm", "mmlm\0"])
def test_no_other_text_names_a_module(name):
    with pytest.raises(configs.ConfigError, match=r"config\.objectives\.mine\.task: "):
        configs.resolve(small_tree(objectives__mine={"task": name}))


def test_the_name_of_an_entry_is_no_path_of_a_module(importable):
    with pytest.raises(configs.ConfigError, match=r"my_package\.my_task: a name has no dot; the key task names a mod"):
        configs.resolve(small_tree(**{f"objectives__{MODULE}": {"window": 8, "records": 1}}))
    assert not is_executed()
    with pytest.raises(configs.ConfigError, match=r"config\.objectives\.mine\.task must be of type str, got 5 \(int\)"):
        configs.resolve(small_tree(objectives__mine={"task": 5}))


@pytest.mark.parametrize("name", ["no_such_library", "my_package.no_such_part"])
def test_what_a_modules_own_import_lacks_is_said_and_not_hidden(importable, name):
    (importable / "my_package" / "broken.py").write_text(f"import {name}\n")
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
        configs.resolve(small_tree(objectives__mine={"task": "my_package.broken"}))


# A work directory does not choose what is executed


@pytest.fixture
def foreign(trained, folder, tmp_path):
    """A work directory, and the environment in which its task could be imported."""
    shutil.copytree(trained[0], tmp_path / "run")
    (folder / "my_package" / "executed").unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return tmp_path / "run", folder / "my_package" / "executed", environment


def test_a_work_directory_alone_executes_no_module(foreign):
    workdir, executed, environment = foreign
    said = refused(f"--workdir={workdir}", "--config.objectives.mine.window=8", env=environment)
    assert said == (
        f"{workdir / 'config.json'} names the task {MODULE}, which is code outside the package, and a work directory "
        f"may come from anyone: to execute it, say {FLAG}"
    )
    assert not executed.exists()
    before = (workdir / "one" / "tagging-predictions" / "test-de.tsv").read_bytes()
    call(f"--workdir={workdir}", "--mode=evaluate", "--config.evals.tagging.batch_size=5", FLAG, env=environment)
    assert executed.exists()
    assert (workdir / "evaluation" / "tagging-predictions" / "test-de.tsv").read_bytes() == before


def read(workdir, *settings):
    """As `main.read_config` does."""
    tree = config_files.from_workdir(workdir, True, settings)
    problems = config_files.override(tree, settings)
    return configs.resolve(tree, problems=problems)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--config.seed=1",),
        ("--config.objectives.mine.window=8",),
        ("--config.objectives.other.task=my_package.my_task",),
        ("--config.objectives.mine.task",),
        ("--config.objectives={'mine': {'task': 'my_package.my_task', 'window': 8, 'records': 1}}",),
    ],
)
def test_only_the_flag_itself_lets_it(foreign, importable, settings):
    for place in (foreign[0], foreign[0] / "one"):
        with pytest.raises(configs.ConfigError):
            config_files.from_workdir(place, False, settings)
    with pytest.raises(configs.ConfigError, match=f"to execute it, say {FLAG}"):
        read(foreign[0], *settings)
    assert not is_executed()


def test_the_flag_lets_it_and_may_name_another(foreign, importable):
    assert read(foreign[0], "--config.objectives.mine.window=8", FLAG).objectives["mine"].window == 8
    forget("my_package")
    with pytest.raises(configs.ConfigError, match=r"mine\.mask_ratio is missing"):
        read(foreign[0], "--config.objectives.mine.task=mmlm")
    assert not is_executed()
    with pytest.raises(configs.ConfigError, match=r"'my_package\.nothing' is no module"):
        read(foreign[0], FLAG, "--config.objectives.mine.task=my_package.nothing")
    forget("my_package")
    (foreign[0] / "config.json").write_text(
        json.dumps({"config": small_tree(objectives={"a": {"task": "x.y"}, MODULE: {}, "b": {"task": "x.z"}, "c": 3})})
    )
    with pytest.raises(configs.ConfigError, match=r"(?s)2 things .*objectives\.a\.task=x\.y.*objectives\.b\.task=x\.z"):
        read(foreign[0])
    with pytest.raises(configs.ConfigError, match=r"my_package\.my_task: a name has no dot"):
        read(foreign[0], "--config.objectives.a.task=mmlm", "--config.objectives.b.task=mmlm")
    assert not is_executed()


def test_a_model_is_loaded_without_its_task(foreign):
    assert ernie_m_jax.load(foreign[0]).config.head == "token_classification"
    assert not is_executed()
    assert not foreign[1].exists()


# One task twice


def twice(tokenizer_path, **keys):
    objectives = small_tree()["objectives"]
    return configs.resolve(
        small_tree(
            **TINY
            | {
                "tokenizer__path": str(tokenizer_path),
                "objectives": objectives | {"mmlm-2": objectives["mmlm"] | {"task": "mmlm", "mask_ratio": 0.5}},
                "stages__one__weights": {"mmlm": 1.0, "mmlm-2": 1.0},
            }
            | keys
        )
    )


@pytest.mark.slow
def test_a_task_stands_twice_in_a_run_that_goes_on(tokenizer_path, tmp_path, monkeypatch):
    config = twice(tokenizer_path)
    numbers = run.train(config, tmp_path / "whole")
    found = numbers["objectives"]["one"]
    assert set(found) == {"mmlm", "mmlm-2"}
    assert sum(values["steps"] for values in found.values()) == 6
    assert found["mmlm-2"]["scored"] > 2 * found["mmlm"]["scored"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "due", lambda self, step: step == 3)
        with pytest.raises(preemption.Interrupted):
            run.train(config, tmp_path / "resumed")
    run.train(config, tmp_path / "resumed")
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")


def test_its_entries_have_orders_and_keys_of_their_own(tokenizer_path, tokenizer):
    config, drawn, masked = twice(tokenizer_path), {}, {}
    for name in ("mmlm", "mmlm-2"):
        task = tasks.bind(config, name)
        with contextlib.closing(loader.Loader(task, tokenizer, task.records(mixture.Sources(config)))) as source:
            drawn[name] = [(origin.entry, origin.index) for row in source.trace(source.state()) for origin in row]
            batch = next(source)
        masked[name] = np.mean(batch["predict_labels"] >= 0) * batch["predict_labels"].size / (batch["ids"] > 0).sum()
    assert drawn["mmlm"] != drawn["mmlm-2"]
    assert masked["mmlm"] == pytest.approx(0.15, abs=0.1)
    assert masked["mmlm-2"] > 2 * masked["mmlm"]


def test_streams_of_an_entry_are_not_those_of_one_whose_name_it_begins():
    with pytest.raises(configs.ConfigError, match="holds no data streams of mmlm:"):
        loop.restore_streams({"mmlm": None}, {"mmlm-2-0": {}})
