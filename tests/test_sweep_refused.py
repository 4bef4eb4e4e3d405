"""What a sweep refuses: definitions that are wrong or others, damaged ledgers, and code that a work directory names."""

import json
import shlex

import pytest

from tests import sweeping
from tests.sweeping import KEY, NAMES, arguments, calls, ledger, statuses

fake, run = sweeping.fake, sweeping.run


def test_another_definition_is_refused_and_named(tmp_path, run):
    run(*arguments(tmp_path, seeds="0"))
    before = (tmp_path / "sweep" / "sweep.json").read_bytes()
    status, _, said = run(*arguments(tmp_path, "--config.train.batch_size=4", seeds="0"))
    assert status == 2
    assert "a different definition" in said
    assert "config.train.batch_size: 6 there, 4 here" in said
    status, _, said = run(*arguments(tmp_path, "--grid", "config.optimizer.layer_decay=0.8,0.9"))
    assert status == 2
    assert f"--grid: keys {KEY} there, config.optimizer.layer_decay, {KEY} here" in said
    status, _, said = run(*arguments(tmp_path, grid="config.optimizer.layer_decay=0.8,0.9"))
    assert said.splitlines()[1:] == [f"  --grid: keys {KEY} there, config.optimizer.layer_decay here"]
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == before
    status, _, _ = run(*arguments(tmp_path, "--config.train.log_every=7", seeds="0"))  # changes no number
    assert status == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--grid", "config.train.patience=1,x"), "config.train.patience must be of type int"),
        (("--grid", "config.train.patienc=1"), "config.train.patienc is unknown"),
        (("--grid", "config.train.patience"), "must be config.KEY=VALUE,VALUE"),
        (("--grid", "config.seed=1,2"), "--seeds=0,1,2 sets it"),
        (("--config.seed=3",), "--seeds=0,1,2 sets it"),
        (("--seeds=0,x",), "must be numbers from 0"),
        (("--seeds=2147483648",), "--seeds: one is 2147483648; it must be from 0 to 2147483647"),
        (("--config.train.select=xnli/test/accuracy",), "a grid must not be chosen from by the test split"),
        (("--seeds=1,1",), "a value is given twice"),
        (("--grid", f"{KEY}=1e-3"), "is given twice"),
        (("--grid", "config.train.patience=1,1"), "a value is given twice"),
        ((f"--{KEY}=1e-3",), "it can only be one of them"),
        (("--config.train.select=",), "config.train.select is empty"),
        (("--config.train.batch_size=0",), "config.train.batch_size"),
        (("--jobs=0",), "must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, run, more, message):
    status, _, said = run(*arguments(tmp_path, *more))
    assert status == 2
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "sweep").exists()


def test_a_directory_without_a_sweep_or_with_a_damaged_one_says_so(tmp_path, run):
    status, _, said = run(f"--workdir={tmp_path}", "--report")
    assert (status, said) == (
        2,
        f"error: {tmp_path} holds no sweep: there is no sweep.json in it; --config=FILE begins one\n",
    )
    (tmp_path / "sweep.json").write_text('{"definition": 3}')
    status, _, said = run(f"--workdir={tmp_path}")
    assert status == 2
    assert "sweep.json is damaged" in said


def test_nothing_that_a_work_directory_names_is_executed(tmp_path, run):
    run(*arguments(tmp_path, seeds="0,1"))
    workdir, evil = tmp_path / "sweep", tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    stored = ledger(tmp_path)
    stored["definition"]["config"] = str(evil)
    (workdir / "sweep.json").write_text(json.dumps(stored))
    for more in ((), ("--dry_run",), ("--seeds=0,1",), ("--config.objectives.xnli.max_length=64",)):
        status, shown, said = run(f"--workdir={workdir}", *more)
        assert (status, shown, said.count("\n")) == (2, "", 1)
        assert said.startswith(f"error: --config=FILE is missing: it is executed, and {workdir} may come from anyone")
    assert run(f"--workdir={workdir}", "--report")[0] == 0
    assert not (tmp_path / "executed").exists()
    assert len(calls(tmp_path)) == 4


def test_the_command_that_goes_on_is_said(tmp_path, run):
    run(*arguments(tmp_path, seeds="0,1"))
    _, _, said = run(f"--workdir={tmp_path / 'sweep'}")
    status, shown, _ = run(*shlex.split(said.rpartition("python -m launch.sweep ")[2]))
    assert status == 0
    assert "4 of 4 runs are done already" in shown


def test_values_that_the_work_directory_alone_names_are_checked(tmp_path, run):
    by_test = "--config.train.select=xnli/test/accuracy"
    assert run(*arguments(tmp_path, by_test, seeds="0", grid=f"{KEY}=1e-3"))[0] == 0  # nothing to choose between
    status, _, said = run(*arguments(tmp_path, by_test, seeds="0", grid=f"{KEY}=5e-4"))
    assert status == 2
    assert "must not be chosen from by the test split" in said
    key = "objectives.xnli.task"
    given = arguments(tmp_path / "code", "--dry_run", seeds="0", grid=f"config.{key}=xnli")
    stored = ledger(tmp_path)
    stored["definition"]["grid"] = {key: ["xnli", "evil.module"]}
    (tmp_path / "code" / "sweep").mkdir(parents=True)
    (tmp_path / "code" / "sweep" / "sweep.json").write_text(json.dumps(stored))
    status, _, said = run(*given, by_test)
    assert status == 2
    assert "names the task evil.module, which is code outside the package" in said


MINE = """from configs.finetune import xnli
def get_config():
    config = xnli.get_config("size=tiny")
    config.train.batch_size = SIZE
    return config
"""


def test_a_config_file_that_was_edited_since_is_refused(tmp_path, run):
    config = tmp_path / "mine.py"
    config.write_text(MINE.replace("SIZE", "6"))
    given = [f"--config={config}", *arguments(tmp_path, seeds="0")[1:]]
    run(*given)
    config.write_text(MINE.replace("SIZE", "4"))
    status, _, said = run(*given)
    assert status == 2
    assert "config.train.batch_size: 6 there, 4 here" in said


def test_a_config_file_that_is_edited_meanwhile_is_not_run(tmp_path, run):
    config, edited = tmp_path / "mine.py", MINE.replace("SIZE", "4")
    config.write_text(MINE.replace("SIZE", "6"))
    stand_in = tmp_path / "fake.py"
    stand_in.write_text(f"{stand_in.read_text()}\npathlib.Path(given['config']).write_text({edited!r})\n")
    status, _, said = run(f"--config={config}", *arguments(tmp_path)[1:])
    assert status == 2
    assert "config.train.batch_size: 6 there, 4 here" in said
    assert calls(tmp_path) == NAMES[:1]
    assert list(statuses(tmp_path).values()) == ["done"] + ["waiting"] * 5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda stored: stored["definition"].update(seeds=[]), "not empty"),
        (lambda stored: stored["definition"].update(seeds=["0"]), "whole numbers"),
        (lambda stored: stored["definition"].update(settings="text"), "must be lists"),
        (lambda stored: stored["definition"].update(config=3), "must be texts"),
        (lambda stored: stored["definition"].update(tree=[]), "TypeError"),
        (lambda stored: stored["definition"]["tree"].update(evals=3), ""),
        (lambda stored: stored.update(runs=[]), "AttributeError"),
        (lambda stored: stored["runs"][NAMES[0]].update(status="dome"), "is 'dome'; there are waiting, running, done"),
        (lambda stored: stored["runs"][NAMES[0]].update(status=[]), "there are waiting"),
        (lambda stored: stored["runs"][NAMES[0]].update(seconds="1"), "seconds of"),
        (lambda stored: stored["runs"][NAMES[0]].update(evals={"a": {"b": None}}), "NoneType"),
        (lambda stored: stored["runs"][NAMES[0]].update(selected={"value": 3}), "step"),
    ],
)
def test_a_damaged_ledger_is_one_line(tmp_path, run, change, what):
    run(*arguments(tmp_path, seeds="0", grid=f"{KEY}=1e-3"))
    stored = ledger(tmp_path)
    change(stored)
    path = tmp_path / "sweep" / "sweep.json"
    path.write_text(json.dumps(stored))
    for given in ((f"--workdir={path.parent}", "--report"), arguments(tmp_path, seeds="0", grid=f"{KEY}=1e-3")):
        status, _, said = run(*given)
        if what:
            assert status == 2
            assert said.startswith(f"error: {path} is damaged (")
            assert what in said
            assert said.count("\n") == 1


def test_a_work_directory_that_is_a_file_is_said(tmp_path, run):
    (tmp_path / "sweep").touch()
    for more in ((), ("--report",)):
        status, _, said = run(*arguments(tmp_path, *more))
        assert (status, said.count("\n")) == (2, 1)
        assert f"--workdir={tmp_path / 'sweep'} is a file" in said


def test_a_name_that_no_file_system_takes_is_said(tmp_path, run):
    paths = [f"config.objectives.xnli.{split}={'数' * 60},x" for split in ("train", "dev", "test")]
    status, _, said = run(*arguments(tmp_path, "--grid", paths[0], "--grid", paths[1], "--grid", paths[2]))
    assert status == 2
    assert "file systems allow 255" in said
    assert said.count("\n") == 1
