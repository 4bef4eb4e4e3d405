"""Where a run's time went, over all its starts: the account, its file and a real run that is killed."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from ernie_m_jax.reporting import files, goodput, metrics
from ernie_m_jax.reporting.goodput import CAUSES, Goodput
from ernie_m_jax.training.phases import Phases
from tests.command import ROOT, call, command, quick
from tests.test_phases import Clock

PATH = "goodput.json"


class Part:
    """A process of a run in a work directory, with a clock that the test moves; `kill` is a SIGKILL."""

    def __init__(self, workdir, going_on=True, age=0.0):
        files.write_json(workdir / "config.json", {})
        self.clock = Clock()
        self.phases = Phases(self.clock)
        self.account = Goodput(workdir / PATH, going_on, self.phases.seconds, age)

    def spend(self, **seconds):
        for name, number in seconds.items():
            with self.phases.of(name):
                self.clock.now += number

    def kill(self):
        self.account.keep()  # the thread's last beat


def total(workdir):
    return {cause: value for cause, value in goodput.of_file(goodput.read(workdir / PATH)).items() if value}


def test_an_undisturbed_run(tmp_path):
    part = Part(tmp_path, going_on=False, age=3.0)
    part.spend(start=10)
    part.account.began("one", 0)
    part.spend(compile=5, data=2, step=40)
    assert part.account.window(waited=1.5, skipped=0.25) == {
        "step": 30.375,  # three quarters of what was no waiting
        "start": 13.0,
        "compile": 5.0,
        "input_wait": 1.5,
        "checkpoint": 0.0,
        "evaluation": 0.0,
        "skipped": 10.125,
        "restart": 0.0,
    }
    part.spend(checkpoint=4, evaluation=6, step=10)
    found = part.account.window(waited=0.0, skipped=0.5)
    assert {cause: value for cause, value in found.items() if value} == {
        "checkpoint": 4,
        "evaluation": 6,
        "step": 5,
        "skipped": 5,
    }
    assert part.account.summary()["productive"] == 35.375 / 80
    assert part.account.summary()["starts"] == 1
    assert sum(part.account.total().values()) == 80


def test_what_a_kill_has_done_again_is_restart(tmp_path):
    first = Part(tmp_path, going_on=False)
    first.spend(start=10)
    first.account.began("one", 0)
    first.spend(compile=5, step=100)
    first.account.saved("one", 50)
    first.spend(checkpoint=1, step=20, evaluation=3, data=1)
    first.kill()
    second = Part(tmp_path)
    second.spend(start=8)
    second.kill()  # before it has restored: it did nothing
    third = Part(tmp_path)
    third.spend(start=7)
    before = {"start": 25.0, "compile": 5.0, "step": 121.0, "checkpoint": 1.0, "evaluation": 3.0}
    third.account.keep()
    assert total(tmp_path) == before
    third.account.began("one", 50)
    third.spend(compile=2, step=30)
    third.account.keep()
    after = {"step": 130.0, "start": 25.0, "compile": 7.0, "checkpoint": 1.0, "restart": 24.0}
    assert total(tmp_path) == after
    assert goodput.read(tmp_path / PATH)["starts"] == 3
    fourth = Part(tmp_path)
    fourth.account.began("one", 50)  # nothing was saved since: the third's steps are lost too
    fourth.account.keep()
    assert total(tmp_path) == after | {"step": 100.0, "restart": 54.0}


@pytest.mark.parametrize(
    ("stage", "step", "lost"),
    [("one", 20, 0.0), ("one", 10, 4.0), ("one", 5, 104.0), ("two", 0, 0.0)],
    ids=["the last", "the one before", "an older than the part's", "the next stage"],
)
def test_from_where_a_part_goes_on(stage, step, lost, tmp_path):
    first = Part(tmp_path, going_on=False)
    first.account.began("one", 8)
    first.spend(step=100)
    first.account.saved("one", 10)
    first.spend(step=4)
    first.account.saved("one", 20)
    first.kill()
    second = Part(tmp_path)
    second.account.began(stage, step)
    assert second.account.total()["restart"] == lost
    assert sum(second.account.total().values()) == 104.0


def test_another_runs_account_is_not_gone_on_with(tmp_path):
    first = Part(tmp_path, going_on=False)
    first.spend(step=5)
    first.kill()
    assert sum(Part(tmp_path, going_on=False).account.total().values()) == 0
    assert sum(Part(tmp_path, going_on=True).account.total().values()) == 5


ZERO = dict.fromkeys(CAUSES, 0.0)


@pytest.mark.parametrize(
    "content",
    ["x", "[]", "3", '{"starts": 1}', "[" * 9999]
    + [json.dumps({"starts": 1, "earlier": ZERO, "before": None, "part": part}) for part in ({}, None, {"seconds": 1})]
    + [
        json.dumps(
            {"starts": 1, "earlier": ZERO | {"step": 1e400}, "before": None, "part": {"seconds": ZERO, "marks": []}}
        )
    ]
    + [
        json.dumps({"starts": 1, "earlier": ZERO, "before": None, "part": {"seconds": ZERO, "marks": [["one", 1, {}]]}})
    ],
)
def test_a_damaged_account_stops_nothing(content, tmp_path, capsys):
    (tmp_path / PATH).write_text(content)
    part = Part(tmp_path)
    assert f"{tmp_path / PATH} is damaged; the time before this start is not counted" in capsys.readouterr().out
    part.spend(step=2)
    part.account.keep()
    assert total(tmp_path) == {"step": 2.0}


def test_a_full_disk_does_not_stop_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    part = Part(tmp_path)
    monkeypatch.setattr(files, "write_json", full)
    part.account.saved("one", 3)
    assert not (tmp_path / PATH).exists()


def test_a_slow_disk_holds_up_no_step(tmp_path, monkeypatch):
    part, writing, released = Part(tmp_path), threading.Event(), threading.Event()

    def slow(*_):
        writing.set()
        released.wait(60)

    monkeypatch.setattr(files, "write_json", slow)
    writer = threading.Thread(target=part.account.keep)
    writer.start()
    assert writing.wait(20)
    training = threading.Thread(target=part.account.window, args=(0.0, 0.0), daemon=True)
    training.start()
    training.join(timeout=2)
    assert not training.is_alive()
    released.set()
    writer.join()


@pytest.mark.parametrize("content", ["86400.5", "x", "[1]", "-3", "NaN"])
def test_the_time_of_a_run_of_an_earlier_version_is_counted(content, tmp_path, capsys):
    (tmp_path / "elapsed.json").write_text(content)
    part = Part(tmp_path)
    assert (tmp_path / "elapsed.json").exists()
    part.spend(step=2)
    part.account.began("one", 50)
    assert total(tmp_path) == {"step": 2.0} | ({"start": 86400.5} if content == "86400.5" else {})
    assert ("the 86,400 s before" in " ".join(capsys.readouterr().out.split())) == (content == "86400.5")
    assert not (tmp_path / "elapsed.json").exists()
    assert total(tmp_path) == {cause: value for cause, value in Part(tmp_path).account.total().items() if value}


def test_nothing_is_written_where_no_run_is(tmp_path):
    with Goodput(tmp_path / "typo" / PATH) as account:
        account.keep()
    assert list(tmp_path.iterdir()) == []


def test_the_account_is_written_while_the_run_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(goodput, "_SECONDS", 0.02)
    part = Part(tmp_path, going_on=False)
    with part.account:
        part.spend(compile=50)
        deadline = time.monotonic() + 20
        while total(tmp_path) != {"compile": 50.0} if (tmp_path / PATH).exists() else True:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_complete_run_is_left_as_it_was(tmp_path):
    first = Part(tmp_path, going_on=False)
    first.spend(step=5)
    first.kill()
    before = (tmp_path / PATH).read_bytes()
    with (second := Part(tmp_path)).account:
        second.spend(start=3)
        second.account.keep()
        second.account.forget()
    assert (tmp_path / PATH).read_bytes() == before


def test_a_window_is_a_line_of_the_metrics(tmp_path):
    with metrics.MetricsWriter(tmp_path, 0) as writer:
        meter = metrics.Meter(writer)
        meter.window(9, 0.0, ZERO | {"step": 6.0, "compile": 2.0})
    (line,) = [json.loads(line) for line in (tmp_path / metrics.FILE).read_text().splitlines()]
    expected = {"productive": 0.75, "seconds/step": 6.0, "seconds/compile": 2.0}
    assert {key: value for key, value in line["timing"].items() if key in expected or "/" in key} == expected


def test_the_age_of_a_process_is_told():
    script = "import time; time.sleep(0.5); from ernie_m_jax.reporting import goodput; print(goodput.age())"
    began = time.monotonic()
    shown = subprocess.run([*command()[:1], "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 0.4 < float(shown) < time.monotonic() - began + 0.1


@pytest.mark.slow
def test_a_real_run_that_is_killed(tmp_path):
    """The causes add up to the wall time of both processes, and the killed one's lost steps are restart."""
    workdir = tmp_path / "run"
    run = [*quick(workdir, steps=500), "--config.train.save_every=100", "--config.train.log_every=20"]
    run += ["--config.model.hidden_size=64", "--config.evals.retrieval.source.path=", "--config.evals.heldout.every=0"]
    began = time.monotonic()
    first = subprocess.Popen(command(*run), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path, lost = workdir / "stage1" / metrics.FILE, 0.0
    while lost < 180:  # between two saves, and as near to the next as can be
        time.sleep(0.05)
        assert first.poll() is None
        assert time.monotonic() < began + 280
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        lost = max((json.loads(line)["step"] for line in lines), default=0)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    seconds = time.monotonic() - began
    kept = max(
        int(step.name) for step in (workdir / "stage1" / "checkpoints").iterdir() if (step / "manifest.json").exists()
    )
    done = 1 + max(json.loads(line)["step"] for line in path.read_text().splitlines()[:-1])
    killed = json.loads((workdir / PATH).read_text())["part"]
    began = time.monotonic()
    call(*run)
    seconds += time.monotonic() - began
    found = json.loads((workdir / "summary.json").read_text())["goodput"]
    assert found["starts"] == 2
    whole = sum(goodput.of_file(goodput.read(workdir / PATH)).values())
    assert whole == pytest.approx(seconds, rel=0.02, abs=4)  # the last beat before the kill, and the end of Python
    (mark,) = [own for stage, step, own in killed["marks"] if (stage, step) == ("stage1", kept)]
    lost = sum(killed["seconds"][cause] - own for cause, own in mark.items())
    assert found["seconds"]["restart"] == pytest.approx(lost)
    assert lost == pytest.approx((done - kept) * killed["seconds"]["step"] / done, rel=0.3, abs=2.5)  # a beat is 2 s
    assert found["productive"] == found["seconds"]["step"] / sum(found["seconds"].values())
