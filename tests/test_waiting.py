"""What counts as waiting for data, and when a run says so."""

import contextlib
import threading
import time
import types

import pytest

from ernie_m_jax.training import waiting
from ernie_m_jax.training.waiting import SlowData, Waiting


class Step(threading.Event):
    """A step's sums, which are ready once it is set."""


@pytest.fixture
def waits(monkeypatch):
    monkeypatch.setattr(waiting.jax, "block_until_ready", lambda step: step.wait())
    with contextlib.closing(Waiting()) as made:
        yield made


def after(seconds, *actions):
    """A loader whose next batch takes so long; then does the actions."""

    class Loader:
        def __next__(self):
            time.sleep(seconds)
            for action in actions:
                action()
            return "rows"

    return Loader()


def until_noted(waits, number):
    end = time.monotonic() + 10
    while waits._done < number and time.monotonic() < end:
        time.sleep(0.005)


def test_waiting_counts_while_the_device_has_nothing_to_do(waits):
    step = Step()
    step.set()
    waits.dispatched(step)
    until_noted(waits, 1)
    assert waits.draw(after(0.2)) == "rows"
    assert 0.19 < waits.seconds() < 2
    assert waits.seconds() == 0


def test_waiting_does_not_count_while_the_step_before_is_computed(waits):
    step = Step()
    waits.dispatched(step)
    waits.draw(after(0.2))
    assert waits.seconds() == 0
    step.set()


def test_only_the_part_after_the_step_before_counts(waits):
    step = Step()
    waits.dispatched(step)
    threading.Timer(0.4, step.set).start()
    begun = time.perf_counter()
    waits.draw(after(0.6))
    whole = time.perf_counter() - begun
    assert 0.1 < waits.seconds() <= whole - 0.38


def test_before_the_first_step_nothing_counts(waits):
    waits.draw(after(0.1))
    assert waits.seconds() == 0


def test_slow_data_is_said_once_with_the_cure():
    slow = SlowData(types.SimpleNamespace(workers=3))
    assert slow.text({"data_wait": 0.9}) == ""  # the first interval
    assert slow.text({"data_wait": 0.019}) == ""
    said = slow.text({"data_wait": 0.3})
    assert "waited for data 30% of the last log interval" in said
    assert "ernie_m_jax.data.prepare corpus" in said
    assert "config.data.workers, now 3" in said
    assert slow.text({"data_wait": 0.5}) == ""
