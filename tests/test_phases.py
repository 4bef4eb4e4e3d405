"""Phases of a run: which one it is in, and how long each took."""

import threading

import pytest

from ernie_m_jax.training.phases import Phases


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_an_inner_phase_counts_for_itself_only():
    clock = Clock()
    phases = Phases(clock)
    clock.now += 5
    with phases.of("step"):
        clock.now += 1
        with phases.of("data"):
            clock.now += 10
            assert phases.current == ("data", 10)
        assert phases.current == ("step", 0)
        clock.now += 2
    clock.now += 1
    assert phases.current == ("start", 1)
    spent = {"start": 6, "compile": 0, "data": 10, "step": 3, "checkpoint": 0, "evaluation": 0}
    assert phases.seconds() == spent
    assert tuple(spent) == Phases.NAMES


def test_an_error_ends_its_phase():
    phases = Phases(Clock())
    with pytest.raises(KeyError), phases.of("checkpoint"), phases.of("evaluation"):
        raise KeyError
    assert phases.current[0] == "start"


def test_a_phase_of_no_name_is_refused_and_changes_nothing():
    phases = Phases(Clock())
    with pytest.raises(ValueError, match=r"'steps' is none of start, compile, data"):
        phases.enter("steps")
    assert phases.current[0] == "start"


def test_another_thread_reads_it():
    clock, seen = Clock(), []
    phases = Phases(clock)
    phases.enter("compile")
    clock.now += 3
    reader = threading.Thread(target=lambda: seen.extend([phases.current, phases.seconds()["compile"]]))
    reader.start()
    reader.join()
    assert seen == [("compile", 3), 3]
