"""`python -m ernie_m_jax.checkpoint`: what there is, and what of it is not as it was written."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import uuid

import fsspec
import pytest

from ernie_m_jax.checkpoint import __main__ as command
from ernie_m_jax.checkpoint import inspection, saved_steps
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from tests.command import ROOT
from tests.test_checkpoint import STREAMS, make_state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory with two stages; tests copy it before they damage it."""
    workdir = tmp_path_factory.mktemp("run")
    for stage, steps in (("stage2", (3, 5)), ("stage10", (2, 4))):
        saved = Checkpoints(workdir / stage / "checkpoints", 0, "aaa")
        for step in steps:
            meta = {"stage": stage, "mesh": {"data": 4, "fsdp": 2}, "selection": {"value": 0.5 + step / 8}}
            saved.save(step, make_state(step), STREAMS, meta, selected=stage == "stage10" and step == 2)
        saved.wait()
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    return pathlib.Path(shutil.copytree(run, tmp_path / "copy"))


def flip(path, place):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def listed(shown):
    """The cells of the printed table's rows."""
    rows = [line.strip()[1:-1].split("│") for line in shown.splitlines() if line.startswith("│")]
    return [tuple(cell.strip() for cell in row) for row in rows]


def test_the_list_names_each_step_with_its_marks(copy, capsys):
    (copy / "stage2" / "checkpoints" / "7").mkdir()
    shutil.copytree(copy / "stage2" / "checkpoints" / "3", copy / "stage2" / "checkpoints" / "4.damaged")
    old = copy / "stage2" / "checkpoints" / "3" / "manifest.json"
    os.utime(old, (old.stat().st_atime, old.stat().st_mtime - 3 * 86400))
    size = sum(path.stat().st_size for path in old.parent.rglob("*") if path.is_file() and path != old)
    assert command.main(["list", str(copy)]) == 0
    rows = listed(capsys.readouterr().out)
    assert [(row[0], row[1], *row[4:]) for row in rows] == [
        ("stage2", "3", "data=4 fsdp=2", ""),
        ("stage2", "5", "data=4 fsdp=2", "newest"),
        ("stage2", "7", "-", "unfinished"),
        ("stage2", "4.damaged", "-", "set aside"),
        ("stage10", "2", "data=4 fsdp=2", "selected (0.7500)"),
        ("stage10", "4", "data=4 fsdp=2", "newest"),
    ]
    assert rows[0][2:4] == (inspection.size_text(size), "3 days")
    assert rows[2][2:4] == ("-", "-")


def test_a_sound_work_directory_has_a_good_line_for_each_step(run, capsys):
    assert command.main(["verify", str(run)]) == 0
    said = capsys.readouterr()
    assert [line.partition(",")[0] for line in said.out.splitlines()] == [
        "stage2/3: good",
        "stage2/5: good",
        "stage10/2: good",
        "stage10/4: good",
    ]
    assert said.err == ""
    assert command.main(["verify", str(run / "stage2")]) == 0
    assert capsys.readouterr().out.startswith("3: good")


def test_one_bit_anywhere_is_named_with_its_file(copy, capsys):
    files = sorted(path for path in (copy / "stage2" / "checkpoints" / "5").rglob("*") if path.is_file())
    assert len(files) > 5
    for path in files:
        before = path.read_bytes()
        for place in {0, len(before) // 2, len(before) - 1} if before else ():
            flip(path, place)
            assert command.main(["verify", str(copy)]) == 2
            said = capsys.readouterr()
            assert str(path) in said.err
            assert f"stage2/5: damaged: {path}" in said.out
            assert "stage10/4: good" in said.out
            path.write_bytes(before)
    assert command.main(["verify", str(copy)]) == 0


@pytest.mark.parametrize("content", [b"3", b'{"meta": []}', b'{"meta": {"mesh": 3, "selection": []}}', b"["])
def test_damaged_facts_leave_a_list(content, copy, capsys):
    place = copy / "stage10" / "checkpoints"
    (place / "2" / "meta.json").write_bytes(content)
    (place / "2" / "manifest.json").write_text('{"files": {"a": {"size": "x"}}}')
    assert command.main(["list", str(copy)]) == 0
    assert listed(capsys.readouterr().out)[2][4:] == ("-", "selected")
    (place / saved_steps.SELECTED).write_text("{}")
    assert command.main(["list", str(copy)]) == 0
    rows = [row[:2] + row[5:] for row in listed(capsys.readouterr().out) if row[0] == "stage10"]
    assert rows == [("stage10", "selected.json", "damaged"), ("stage10", "2", ""), ("stage10", "4", "newest")]
    assert command.main(["verify", str(copy)]) == 2


def test_a_choice_by_a_number_that_is_none_and_names_like_markup_are_shown(copy, capsys):
    facts = {"meta": {"mesh": {"[/data]": 4}, "selection": {"value": "nan"}}}
    (copy / "stage10" / "checkpoints" / "2" / "meta.json").write_text(json.dumps(facts))
    assert command.main(["list", str(copy)]) == 0
    assert listed(capsys.readouterr().out)[2][4:] == ("[/data]=4", "selected (nan)")


def deleting(monkeypatch, act):
    """Has a run delete a step just before its files are compared."""
    check = saved_steps.check

    def deleted_meanwhile(folder):
        act(folder)
        check(folder)

    monkeypatch.setattr(inspection.saved_steps, "check", deleted_meanwhile)


def test_a_step_that_a_run_deletes_meanwhile_is_not_damaged(copy, capsys, monkeypatch):
    place = copy / "stage2" / "checkpoints"

    def goes_on(folder):
        if (folder.parent.parent.name, folder.name) == ("stage2", "3"):
            shutil.copytree(place / "5", place / "7")
            (place / saved_steps.SELECTED).write_text('{"step": 7}')
            shutil.rmtree(place / "3")

    deleting(monkeypatch, goes_on)
    assert command.main(["verify", str(copy)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "stage2/3: deleted meanwhile"
    assert said.err == ""


def test_an_object_that_a_run_deletes_meanwhile_is_not_damaged(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/run"
    store, base = fsspec.core.url_to_fs(url)
    store.put(str(run), base, recursive=True)
    gone = f"{base}/stage2/checkpoints/3"
    deleting(monkeypatch, lambda folder: store.exists(gone) and store.rm(gone, recursive=True))
    assert command.main(["verify", url]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "stage2/3: deleted meanwhile"


def test_a_choice_of_a_step_that_is_gone_is_named(copy, capsys):
    place = copy / "stage10" / "checkpoints"
    shutil.rmtree(place / "2")
    assert command.main(["verify", str(copy)]) == 2
    assert f"{place / saved_steps.SELECTED} names step 2, which is not there" in capsys.readouterr().err


def test_what_a_kill_left_is_said_and_is_no_damage(copy, capsys):
    (copy / "stage2" / "checkpoints" / "5" / "manifest.json").unlink()
    assert command.main(["verify", str(copy)]) == 0
    assert "stage2/5: unfinished: it has no manifest.json, and does not count" in capsys.readouterr().out


def test_a_url_is_checked_as_a_folder_is(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/run"
    store, base = fsspec.core.url_to_fs(url)
    store.put(str(run), base, recursive=True)
    assert command.main(["verify", url]) == 0
    assert command.main(["list", url]) == 0
    rows = listed(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["3", "5", "2", "4"]
    assert all(row[3].endswith(" s") for row in rows)
    store.pipe(f"{base}/stage2/checkpoints/5/meta.json", b"{}")
    assert command.main(["verify", url]) == 2
    assert f"{url}/stage2/checkpoints/5/meta.json is damaged: it has 2 bytes" in capsys.readouterr().err


def test_the_command_says_in_one_line_that_nothing_is_there(tmp_path):
    words = [sys.executable, "-m", "ernie_m_jax.checkpoint", "verify", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == (f"error: {tmp_path} holds no checkpoints: name a run's --workdir or one of its stages\n")


def test_retention_by_number_by_interval_and_by_metric_at_once(tmp_path):
    saved = Checkpoints(tmp_path, 2, "aaa", keep_every=4)
    for step in range(1, 12):
        saved.save(step, make_state(step), STREAMS, {}, selected=step in (3, 6))
    saved.wait()
    assert saved.steps() == [4, 6, 8, 10, 11]
    saved = Checkpoints(tmp_path, 1, "aaa")  # the key was taken back: what it kept goes
    saved.save(12, make_state(12), STREAMS, {})
    saved.wait()
    assert saved.steps() == [6, 12]
