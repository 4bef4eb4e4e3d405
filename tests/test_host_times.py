"""Which of several processes is slow: named by what it is slow at, and a table of real ones."""

import re

import pytest

from ernie_m_jax.training import host_times
from ernie_m_jax.training.host_times import Times
from ernie_m_jax.training.phases import Phases
from tests import several

NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("times", "lines"),
    [
        ([Times(1.0, 0.001, 0.01)] * 4, []),
        ([Times(1.0, 0.001, 0.01)] * 3 + [Times(1.0, 0.010, 0.014)], []),  # ten times the wait, and 1 % of the step
        (
            [Times(1.0, 0.1, 0.01)] * 3 + [Times(1.0, 0.4, 0.01)],
            ["slow host: process 3 (d) waits 400.0 ms of a step for data, the median 100.0 ms"],
        ),
        (
            [Times(1.0, 0.0, 0.01), Times(1.0, 0.0, 0.02)],  # of two, the other is the median
            ["slow host: process 1 (b): its devices take 20.0 ms for what takes the median 10.0 ms"],
        ),
    ],
)
def test_a_host_is_named_by_what_it_is_slow_at(times, lines):
    assert host_times.slow_hosts(NAMES[: len(times)], times) == lines


def test_one_process_compares_nothing():
    shown = []
    hosts = host_times.HostTimes(1, Phases(), lambda *items: shown.extend(items))
    for index in range(3):
        hosts.before(index, {})
    assert shown == []


def test_the_computation_takes_time_on_this_machine():
    assert 1e-5 < host_times.probe() < 10


@pytest.mark.slow
def test_two_real_processes_have_a_table(tokenizer_path, tmp_path):
    arguments = (
        "--config=tests/several.py",
        f"--workdir={tmp_path}",
        f"--config.tokenizer.path={tokenizer_path}",
        "--config.stages.one.steps=12",
        "--config.stages.one.weights={'mmlm': 1.0}",
        "--config.evals={}",
        "--config.train.host_times_every=5",
    )
    first, second = several.train(arguments, 2)
    assert len(re.findall(r"Hosts over the last \d steps, ms", first)) == 2
    assert len(re.findall(r"^│ [01] +│ \S+ +│ +[\d.]+ │ +[\d.]+ │ +[\d.]+ │$", first, re.MULTILINE)) == 4
    assert "Hosts" not in second
