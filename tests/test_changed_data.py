"""Data that changes while a run goes on, or between two starts of it; disks that take nothing any more."""

import json
import pickle
import re
import subprocess
import sys
import textwrap

import pytest

from ernie_m_jax.config import ConfigError
from ernie_m_jax.data import readers
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import restore
from tests.command import ROOT

LINES = "".join(f"line {number}\n" for number in range(2000))


@pytest.fixture
def opened(tmp_path):
    """A file of lines, and its texts."""
    path = tmp_path / "a.txt"
    path.write_text(LINES)
    return path, readers.lines(str(path))


@pytest.mark.parametrize("size", [0, 100, 9000])
def test_a_file_that_is_cut_is_an_error_and_not_the_end_of_the_process(size, opened):
    path, texts = opened
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=r"a\.txt: it is shorter than when it was opened") as error:
        print([texts[index] for index in range(len(texts))])
    assert "\n" not in str(error.value)


def test_a_file_that_was_cut_is_an_error_in_another_process(opened):
    path, texts = opened
    stored = pickle.dumps(texts)
    path.write_text(LINES[:100])
    with pytest.raises(DataError, match="it is shorter"):
        pickle.loads(stored)


def test_a_file_that_is_removed_or_longer_is_read_on(opened):
    path, texts = opened
    with path.open("a") as file:
        file.write("more\n")
    path.unlink()
    assert [texts[index] for index in range(len(texts))] == LINES.splitlines()


def row(name, records):
    return {"name": name, "records": records, "tokens": 5, "probability": 0.5, "epochs": 0.1}


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    path, found = tmp_path / "mixture.json", {"mmlm": [row("en", 7), row("de", 8)]}
    restore.check_data(path, found)
    path.write_text(json.dumps(found))
    restore.check_data(path, found)
    said = r"the data has changed since .*; records of mmlm de had 8, has 9: put back"
    with pytest.raises(ConfigError, match=said):
        restore.check_data(path, {"mmlm": [row("en", 7), row("de", 9)]})


def test_entries_that_came_or_went_or_changed_places_are_other_data(tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"mmlm": [row("en", 7), row("de", 8)]}))
    for rows, said in (
        ([row("en", 7), row("de", 8), row("fr", 9)], "mmlm fr had 0, has 9"),
        ([row("en", 7)], "mmlm de had 8, has 0"),
        ([row("de", 8), row("en", 7)], "mmlm are in another order"),
    ):
        with pytest.raises(ConfigError, match=said):
            restore.check_data(path, {"mmlm": rows})
    restore.check_data(path, {"tlm": [row("en", 1)]})


@pytest.mark.parametrize("content", ["", "5", "[1]", '{"mmlm": 5}', '{"mmlm": [{"name": [], "records": 1e999}]}'])
def test_a_damaged_mixture_tells_nothing(content, tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(content)
    restore.check_data(path, {"mmlm": [row("en", 7)]})


FULL = """
    import pathlib, resource, sys
    from ernie_m_jax.reporting import metrics
    writer = metrics.MetricsWriter(pathlib.Path(sys.argv[1]), 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # a file that is too large is an error, as on a full disk
    for step in range(5):
        writer.draw(step, {"eval/test": {f"metric-{number}": 1.0 for number in range(200)}})
"""


def test_many_numbers_for_tensorboard_do_not_hang_on_a_full_disk(tmp_path):
    words = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(r"OSError: \[Errno \d+\] .*/tensorboard'", done.stderr)


def test_a_full_disk_is_named_by_the_file_that_it_has_no_room_for(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, 0)
    writer._file.close()
    writer._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(OSError, match=r"No space left on device: '.*/metrics\.jsonl'"):
        writer.write(0, {"loss": 1.0})
    with pytest.raises(OSError, match=r"No space left on device: '.*/metrics\.jsonl'"):
        writer.close()  # what it still holds
