"""The watchdog by a clock that the test moves: which phases have a limit, and what is said of a hang."""

import re
import threading
import time

import pytest

from ernie_m_jax import lifeline
from ernie_m_jax.training import watchdog
from ernie_m_jax.training.phases import Phases
from ernie_m_jax.training.watchdog import Watchdog
from tests.test_phases import Clock


class Watched:
    """A watchdog whose clock a test moves, second by second."""

    def __init__(self, workdir, seconds=20.0, other=0.0):
        self.clock, self.ended = Clock(), []
        self.phases = Phases(self.clock)
        self.watchdog = Watchdog(
            self.phases,
            workdir,
            seconds,
            self.clock,
            lambda problem, silent: self.ended.append((problem, silent)),
            other,
        )

    def wait(self, seconds):
        for _ in range(seconds):
            self.clock.now += 1
            self.watchdog.tick()
            if self.ended:
                return

    def steps(self, count, seconds):
        self.phases.enter("step")
        for index in range(count):
            self.clock.now += seconds
            self.phases.done("one", index)
            self.watchdog.tick()


@pytest.mark.parametrize(
    ("phase", "limit"),
    [("step", 20), ("data", 20), ("start", None), ("compile", None), ("checkpoint", None), ("evaluation", None)],
)
def test_only_the_step_and_its_data_have_a_limit(phase, limit, tmp_path, capfd):
    watched = Watched(tmp_path)
    watched.steps(5, 0.5)
    watched.phases.enter(phase)
    watched.wait(19)
    assert not watched.ended
    watched.wait(1000)
    assert bool(watched.ended) == (limit is not None)
    if limit:
        said = capfd.readouterr().err
        assert said.startswith("error: no step for 20 s (limit 20 s by config.train.watchdog_seconds): in ")
        assert re.search(rf": in {phase} for 2\d s after step 4 of one; ", said)
        assert f"; {tmp_path}/hang.txt has what each thread was doing\n" in said
        assert "test_watchdog.py" in said  # the stacks
        assert "test_watchdog.py" in (tmp_path / "hang.txt").read_text()
        assert watched.ended[0][1] == []


@pytest.mark.parametrize("phase", ["start", "compile", "checkpoint", "evaluation"])
@pytest.mark.parametrize("seconds", [20.0, 0.0])
def test_the_other_phases_may_have_a_limit_of_their_own(phase, seconds, tmp_path):
    watched = Watched(tmp_path, seconds, other=50.0)
    watched.steps(5, 0.5)
    for _ in range(3):  # each time anew
        watched.phases.enter(phase)
        watched.wait(45)
        watched.phases.enter("step")
        watched.phases.enter(phase)
    watched.wait(48)
    assert not watched.ended
    watched.wait(10)
    assert re.match(
        rf"no step for 50 s \(limit 50 s by config.train.watchdog_other_seconds\): in {phase} for 5\d s after step 4",
        watched.ended[0][0],
    )


def test_one_evaluation_after_another_is_not_one_long_one_though_no_look_came_between(tmp_path):
    watched = Watched(tmp_path, other=60.0)
    watched.steps(5, 0.5)
    watched.phases.enter("evaluation")
    watched.wait(40)
    watched.phases.enter("step")
    watched.phases.enter("evaluation")
    watched.clock.now += 6  # this thread had no turn
    watched.wait(50)
    assert not watched.ended
    watched.wait(10)
    assert watched.ended


@pytest.mark.parametrize(("step", "limit"), [(0.5, 20), (3.0, 30)])
def test_slow_steps_raise_the_limit(step, limit, tmp_path):
    watched = Watched(tmp_path)
    watched.steps(9, step)
    assert watched.watchdog.limit() == limit


def test_the_first_step_has_a_longer_limit_and_no_limit_is_none(tmp_path):
    for seconds, ended in ((20.0, True), (0.0, False)):
        watched = Watched(tmp_path, seconds)
        watched.phases.enter("step")
        watched.wait(59)
        assert not watched.ended
        watched.wait(1000)
        assert bool(watched.ended) == ended


def test_a_process_that_was_stopped_itself_has_missed_nothing(tmp_path):
    watched = Watched(tmp_path)
    watched.steps(5, 0.5)
    watched.clock.now += 3600
    watched.wait(15)
    assert not watched.ended
    watched.wait(5)
    assert watched.ended


def test_a_silent_process_is_named_unless_it_may_be_held_up(tmp_path, monkeypatch):
    doing = {"phase": "step", "phase_seconds": 1.0, "stage": "one", "step": 7}
    said = {1: (1, dict(doing)), 2: (1, doing | {"phase": "start"})}
    monkeypatch.setattr(lifeline, "heard", lambda: dict(said))
    watched = Watched(tmp_path)
    for count in range(2, 10):
        watched.wait(20)
        said[1] = (count, said[1][1])
    assert not watched.ended
    watched.wait(31)
    assert watched.ended == [("process 1 was silent for 25 s, last in step for 1 s after step 7 of one", [1])]


def test_without_a_limit_silence_is_none_either(tmp_path, monkeypatch):
    doing = {"phase": "step", "phase_seconds": 1.0, "stage": "one", "step": 7}
    monkeypatch.setattr(lifeline, "heard", lambda: {1: (1, doing)})
    watched = Watched(tmp_path, seconds=0.0)
    watched.wait(1000)
    assert not watched.ended


@pytest.mark.parametrize("phase", ["start", "compile", "checkpoint", "evaluation"])
def test_a_process_that_takes_its_time_holds_up_the_others_without_a_limit(phase, tmp_path, monkeypatch):
    doing = {"phase": phase, "phase_seconds": 20.0, "stage": "one", "step": 4}
    monkeypatch.setattr(lifeline, "heard", lambda: {1: (watched.clock.now, doing)})
    watched = Watched(tmp_path)
    watched.steps(5, 0.5)
    watched.wait(1000)
    assert not watched.ended
    doing["phase"] = "step"
    watched.wait(18)
    assert not watched.ended
    watched.wait(4)
    assert watched.ended


def test_a_disk_that_hangs_makes_no_process_silent(tmp_path, monkeypatch):
    released, beats = threading.Event(), []
    monkeypatch.setattr(watchdog, "TICK", 0.02)
    monkeypatch.setattr(watchdog.files, "write_json", lambda *_: released.wait(60))
    monkeypatch.setattr(lifeline, "beat", lambda doing: beats.append(doing["phase"]))
    with Watchdog(Phases(), tmp_path, 20.0):
        deadline = time.monotonic() + 20
        while len(beats) < 10:
            assert time.monotonic() < deadline, beats
            time.sleep(0.01)
        released.set()


def test_the_process_that_the_others_wait_for_is_named_first(tmp_path, monkeypatch):
    def heard():
        doing = {"phase_seconds": 20.0, "stage": "one", "step": 4}
        return {1: (watched.clock.now, doing | {"phase": "step"}), 2: (watched.clock.now, doing | {"phase": "data"})}

    monkeypatch.setattr(lifeline, "heard", heard)
    monkeypatch.setattr(watchdog.jax, "process_count", lambda: 3)
    watched = Watched(tmp_path)
    watched.steps(5, 0.5)
    watched.wait(20)
    assert watched.ended[0][0] == (
        "no step for 20 s (limit 20 s by config.train.watchdog_seconds): "
        "process 2 is in data for 20 s after step 4 of one, "
        "process 0 is in step for 22 s after step 4 of one, process 1 is in step for 20 s after step 4 of one"
    )
