"""Numbers, lines, tables and files that people and other programs read."""

import csv
import io
import json
import math
import pathlib
import re
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from ernie_m_jax.reporting import files, metrics, screen

LANGUAGES = ("ar", "de", "en")
MATRIX = np.array([[np.nan, 0.5, 0.25], [1.0, np.nan, np.nan], [0.125, 0.0, np.nan]])


def text_of(item, width=200, terminal=False):
    console = rich.console.Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    screen.show(item, console=console)
    return console.file.getvalue()


# Sums.


def test_a_name_of_weight_zero_is_left_out():
    sums = {"a": (jnp.float32(2), jnp.float32(4)), "none": (jnp.float32(0), jnp.float32(0))}
    assert metrics.finalize(sums) == {"a": 0.5}
    assert math.isnan(metrics.finalize({"a": (jnp.float32(jnp.nan), jnp.float32(1))})["a"])


# metrics.jsonl and TensorBoard.


def write_steps(workdir, start, stop):
    with metrics.MetricsWriter(workdir, start) as writer:
        for step in range(start, stop):
            writer.write(step, {"loss": 1 / (step + 1), "accuracy": 0.1 * step}, "mmlm", {"seconds": 0.5})
            if step % 2:
                writer.write(step, {"retrieval": 0.5})


def test_metrics_lines_are_valid_json_in_a_stable_order(tmp_path):
    with metrics.MetricsWriter(tmp_path, 0) as writer:
        writer.write(3, {"loss": 0.5, "accuracy": np.float32(0.25)}, "tlm", {"tokens_per_second": 7})
        line = '{"step": 3, "objective": "tlm", "accuracy": 0.25, "loss": 0.5, "timing": {"tokens_per_second": 7.0}}\n'
        assert (tmp_path / "metrics.jsonl").read_text() == line  # before close: flushed a line
        writer.write(4, {"loss": math.nan, "most": math.inf, "least": -math.inf})
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    strict = json.loads(last, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"step": 4, "least": "-inf", "loss": "nan", "most": "inf"}
    assert math.isnan(float(strict["loss"]))
    assert float(strict["least"]) == -math.inf


def test_reserved_names_are_refused(tmp_path):
    with metrics.MetricsWriter(tmp_path, 0) as writer, pytest.raises(ValueError, match="timing"):
        writer.write(0, {"timing": 1.0})


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    write_steps(tmp_path / "whole", 0, 9)
    write_steps(tmp_path / "resumed", 0, 7)
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "objec')  # killed while writing
    write_steps(tmp_path / "resumed", 5, 9)
    whole, resumed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed"))
    assert resumed == whole
    assert whole.count(b"\n") == 13
    write_steps(tmp_path / "resumed", 0, 9)  # begun again in the same place
    assert (tmp_path / "resumed" / "metrics.jsonl").read_bytes() == whole


BAD_LINES = [b"nonsense", b"\xff", b"", b"3", b"[]", b"{}", b'{"step": "x"}', b'{"step": 1, "loss": "x"}', b"[" * 9999]
BAD_LINES += [
    b'{"step": 1.5}',
    b'{"step": 1, "timing": 3}',
    b'{"step": 1, "objective": {}}',
    b'{"step": 1, "loss": null}',
]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_damaged_metrics_line_is_dropped_and_the_file_kept_aside(bad, tmp_path, capsys):
    content = b'{"step": 1}\n' + bad + b'\n{"step": 2}\n{"step'
    path = tmp_path / "metrics.jsonl"
    for kept in ("metrics.jsonl.damaged", "metrics.jsonl.damaged-2"):
        path.write_bytes(content)
        metrics.MetricsWriter(tmp_path, 2).close()
        assert path.read_bytes() == b'{"step": 1}\n'
        assert (tmp_path / kept).read_bytes() == content
        shown = capsys.readouterr().out
        assert shown == f"{path}, line 2: no metrics, dropped; the file as it was is kept as {tmp_path / kept}\n"


def test_a_last_line_cut_short_is_dropped_without_a_word(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step')
    assert metrics.repair(tmp_path / "metrics.jsonl") == ['{"step": 1}\n']
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert capsys.readouterr().out == ""


def test_many_damaged_metrics_lines_are_one_short_line(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("\n" * 1000)
    assert metrics.repair(tmp_path / "metrics.jsonl") == []
    assert "line 1, 2, 3, 4, 5 and 995 more: no metrics" in capsys.readouterr().out


def scalars(directory):
    """(name, step) -> value of every event in a TensorBoard directory."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in directory.iterdir():
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            position += length + 16
    return found


def test_tensorboard_events_hold_the_scalars(tmp_path):
    with metrics.MetricsWriter(tmp_path, 0) as writer:
        writer.draw(0, {"mmlm": {"loss": 1.0, "accuracy": 0.0}, "timing": {"seconds": 0.5}})
        writer.draw(1, {"mmlm": {"loss": 0.5}})
    drawn = scalars(tmp_path / "tensorboard")
    expected = {("mmlm/loss", 0), ("mmlm/accuracy", 0), ("timing/seconds", 0), ("mmlm/loss", 1)}
    assert expected <= set(drawn)
    assert drawn["mmlm/loss", 1] == 0.5


# The screen.


def test_progress_without_a_terminal_prints_plain_lines():
    console, now = rich.console.Console(file=io.StringIO(), width=40), iter(range(0, 1000, 2))
    with screen.Progress("stage1", 25, 0, log_every=10, console=console, clock=lambda: next(now)) as progress:
        for step in range(1, 26):
            progress.update(step, {"mmlm" if step % 2 else "tlm": 2.0}, 12_345.6)
        progress.update(25, {})  # said once
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "stage1 10/25  mmlm 2.0000  tlm 2.0000  12.3k tokens/s  0:00:30 left",
        "stage1 20/25  mmlm 2.0000  tlm 2.0000  12.3k tokens/s  0:00:10 left",
        "stage1 25/25  mmlm 2.0000  tlm 2.0000  12.3k tokens/s  0:00:00 left",
    ]


def test_objectives_table_shows_what_there_is():
    values = {"steps": 1200, "first_loss": 7.5, "loss": 3.25, "accuracy": 0.25, "scored": 612.0}
    shown = text_of(screen.objectives_table({"stage1": {"mmlm": values}}))
    for cell in ("stage1 mmlm", "1,200", "7.500", "3.250", "0.250", "612.0"):
        assert cell in shown


def test_a_nan_shows_and_passes():
    assert "nan" in text_of(screen.objectives_table({"stage1": {"mmlm": {"steps": 3, "loss": "nan"}}}))
    console = rich.console.Console(file=io.StringIO(), width=80)
    with screen.Progress("s", 5, console=console) as progress:
        for step, loss in enumerate((1.0, 2.0, math.nan, 3.0), 1):
            progress.update(step, {"mmlm": loss})
    shown = [line.split("mmlm ")[1].split()[0] for line in console.file.getvalue().splitlines()]
    assert shown == ["1.0000", "2.0000", "nan", "3.0000"]


def test_progress_on_a_terminal_draws_a_bar_and_keeps_messages():
    console = rich.console.Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with screen.Progress("stage1", 4, 2, console=console, live=True) as progress:
        progress.update(3, {"mmlm": 1.5}, 2e6)
        progress.log("checkpoint [3] written")
        progress.update(4, {})
    shown = console.file.getvalue()
    assert all(part in shown for part in ("stage1", "4/4", "mmlm 1.5000", "2M tokens/s", "checkpoint [3] written", "━"))


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_narrow_terminal_keeps_the_count(width):
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    losses = {"btmlm": 4.9, "camlm": 3.5, "mmlm": 4.8, "tlm": 4.3}
    now = iter(range(0, 10_000, 100))
    with screen.Progress("stage1", 200_000, 0, 10, console, live=True, clock=lambda: next(now)) as progress:
        for step in (100_000, 100_010):
            progress.update(step, losses, 12_345.6)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    bar, note = [line for line in plain.replace("\r", "\n").splitlines() if line.strip()][-2:]
    assert "100010/200000" in bar
    assert "left" in bar or width < 60
    assert note.startswith("btmlm 4.9000  camlm 3.5000")
    assert len(bar) <= width


def test_mixture_table():
    rows = [screen.MixtureRow("en", 1000, 25_000, 0.75, 1.5), screen.MixtureRow("en-de", 20, None, 0.25, None)]
    shown = text_of(screen.mixture_table(rows))
    cells = [line.replace("│", " ").replace("┃", " ").split() for line in shown.splitlines()]
    assert ["records", "tokens", "probability", "epochs"] in cells
    assert ["en", "1,000", "25,000", "0.7500", "1.50"] in cells
    assert ["en-de", "20", "-", "0.2500", "-"] in cells
    assert ["total", "1,020", "-", "1.0000"] in cells


def test_retrieval_table_has_percentages_and_averages():
    shown = text_of(screen.retrieval_table(LANGUAGES, np.where(np.eye(3), 1.0, MATRIX)))
    cells = [line.replace("│", " ").replace("┃", " ").split() for line in shown.splitlines()]
    assert ["ar", "de", "en", "mean"] in cells
    assert ["ar", "-", "50.0", "25.0", "37.5"] in cells
    assert ["de", "100", "-", "-", "100"] in cells
    assert ["en", "12.5", "0.0", "-", "6.2"] in cells
    assert ["mean", "56.2", "25.0", "25.0", "37.5"] in cells
    assert "\x1b[" not in shown
    assert "\x1b[" in text_of(screen.retrieval_table(LANGUAGES, MATRIX), terminal=True)


def test_a_wide_table_is_not_cut_where_there_is_no_terminal():
    languages = [f"{number:02d}" for number in range(40)]
    shown = text_of(screen.retrieval_table(languages, np.full((40, 40), 0.5)), width=80)
    rows = [line for line in shown.splitlines() if line.count("50.0") >= 40]
    assert len(rows) == 41
    assert "…" not in shown


def test_strings_are_shown_as_they_are():
    assert text_of("saved [7] in " + "x" * 100, width=40) == "saved [7] in " + "x" * 100 + "\n"


def test_summary_table_flattens():
    shown = text_of(screen.summary_table({"steps": 1200, "loss": {"mmlm": 0.123456}, "path": "a [b]"}))
    cells = [line.replace("│", " ").split() for line in shown.splitlines()]
    assert ["steps", "1,200"] in cells
    assert ["loss.mmlm", "0.1235"] in cells
    assert ["path", "a", "[b]"] in cells


# Files.


def test_json_is_replaced_whole_and_valid(tmp_path):
    path = tmp_path / "new" / "a.json"
    value = {"b": np.float32(0.5), "a": [np.int64(1), math.nan], "c": jnp.ones(2), "p": pathlib.Path("x"), "n": None}
    files.write_json(path, value)
    assert json.loads(path.read_text()) == {"b": 0.5, "a": [1, "nan"], "c": [1.0, 1.0], "p": "x", "n": None}
    with pytest.raises(TypeError, match="object has no JSON form"):
        files.write_json(path, {"b": object()})
    assert json.loads(path.read_text())["b"] == 0.5
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", [1])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "a.json", [2])
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.json", "[\n  1\n]\n")]


def test_csv_round_trips(tmp_path):
    files.write_csv(tmp_path / "m.csv", LANGUAGES, np.where(np.eye(3), 1.0, MATRIX / 3))
    rows = list(csv.reader((tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["query", *LANGUAGES]
    assert [row[0] for row in rows[1:]] == list(LANGUAGES)
    read = np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in rows[1:]])
    np.testing.assert_array_equal(read, MATRIX / 3)


def test_heat_map_is_a_picture_that_grows_with_the_languages(tmp_path):
    sizes = []
    for count in (3, 14):
        matrix = np.linspace(0, 1, count * count).reshape(count, count)
        files.heat_map(tmp_path / "m.png", [f"l{number}" for number in range(count)], matrix, "title")
        data = (tmp_path / "m.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(struct.unpack(">II", data[16:24]))
    assert sizes[1][0] > sizes[0][0] > 200
    assert sizes[1][1] > sizes[0][1] > 200


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.full((3, 3), 50.0), np.full((3, 3), -0.5)])
def test_a_matrix_that_does_not_fit_is_refused(tmp_path, matrix):
    for write in (files.write_csv, lambda *arguments: files.heat_map(*arguments, "title")):
        with pytest.raises(ValueError, match=r"for 3 languages|must lie in 0\.\.1"):
            write(tmp_path / "x", LANGUAGES, matrix)
    assert not (tmp_path / "x").exists()


def test_versions_are_those_of_this_run():
    versions = files.versions()
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]
    assert (versions["device"], versions["device_count"]) == (jax.devices()[0].device_kind, jax.device_count())
    assert {"jaxlib", "flax", "optax", "orbax", "ernie_m_jax", "commit"} < set(versions)
    json.dumps(versions)


def test_commit_is_that_of_the_checkout_that_tracks_the_package(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    module = tmp_path / "files.py"
    monkeypatch.setattr(files, "__file__", str(module))
    module.write_text("one")
    assert files.versions()["commit"] is None
    git("init")
    git("commit", "--allow-empty", "-m", "message")
    assert files.versions()["commit"] is None  # inside a checkout that does not track it
    git("add", ".")
    git("commit", "-m", "message")
    head = git("rev-parse", "HEAD")
    assert files.versions()["commit"] == head
    module.write_text("two!")
    assert files.versions()["commit"] == f"{head}-dirty"


def test_importing_the_screen_loads_neither_jax_nor_matplotlib():
    script = "import sys, ernie_m_jax.reporting.screen; print({'jax', 'matplotlib', 'orbax'} & set(sys.modules))"
    root = pathlib.Path(__file__).parents[1]
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
