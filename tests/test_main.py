"""The command: real argv in real processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    "--config=configs/quickstart.py",
    "--config.model.hidden_size=32",
    "--config.model.ffn_size=48",
    "--config.model.vocab_size=800",
    "--config.train.log_every=2",
)


def command(*arguments):
    return [sys.executable, "-m", "ernie_m_jax.main", *map(str, arguments)]


def call(*arguments, status=0):
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr[-3000:]
    return done


def quick(workdir, steps=4):
    return (
        *SMALL,
        f"--workdir={workdir}",
        f"--config.stages.stage1.steps={steps}",
        f"--config.stages.stage2.steps={steps}",
        "--config.stages.stage1.warmup_steps=1",
        "--config.stages.stage2.warmup_steps=1",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "quickstart"
    return workdir, call(*quick(workdir))


def test_train_shows_and_stores_what_it_does(trained):
    workdir, done = trained
    for shown in ("en-de", "probability", "stage1", "stage2", "tokens/s", "retrieval", "summary"):
        assert shown.lower() in done.stdout.lower(), shown
    assert "Traceback" not in done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(summary["retrieval"]) == {"untrained", "stage1", "stage2"}
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["config"]["model"]["hidden_size"] == 32
    assert stored["versions"]["jax"]
    for name in ("tokenizer/vocab.txt", "stage2/metrics.jsonl", "stage2/retrieval.png", "stage2/retrieval.csv"):
        assert (workdir / name).stat().st_size > 0


def test_evaluate_and_encode(trained, tmp_path):
    workdir, _ = trained
    shown = call(*quick(workdir), "--mode=evaluate").stdout
    assert "mean" in shown
    source, target = tmp_path / "lines.txt", tmp_path / "vectors.npy"
    source.write_text("a class may not be empty.\n\nклассу нужно имя.\n", encoding="utf-8")
    call(*quick(workdir), "--mode=encode", f"--input={source}", f"--output={target}", "--config.retrieval.layer=1")
    vectors = np.load(target)
    assert vectors.shape == (3, 32)
    assert vectors.dtype == np.float32
    source.write_bytes(b"fine\n\xff\xfe\n")
    before = target.read_bytes()
    failed = call(*quick(workdir), "--mode=encode", f"--input={source}", f"--output={target}", status=2)
    assert f"{source}:2" in failed.stderr
    assert target.read_bytes() == before


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    arguments = quick(tmp_path / "run", steps=400)
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "run" / "stage1" / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert time.monotonic() < deadline, "no step within the time"
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 143
    assert "the same command goes on" in stderr
    steps = [int(path.name) for path in (tmp_path / "run" / "stage1" / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 3 <= steps[0] < 400


def test_print_shows_the_resolved_config():
    shown = json.loads(call("--config=configs/quickstart.py", "--mode=print", "--config.train.batch_rows=32").stdout)
    assert shown["train"]["batch_rows"] == 32
    assert shown["model"]["num_languages"] == len(shown["languages"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=configs/quickstart.py", "--config.train.batch_row=3"), 'Did you mean "batch_rows"'),
        (("--config=configs/quickstart.py", "--config.train.batch_rows=many"), "config.train.batch_rows=many"),
        (("--config=configs/nowhere.py",), "configs/nowhere.py"),
        (("--config=configs/quickstart.py:objectives=foo",), "expected objectives=NAME+NAME"),
        (("--mode=print",), "--config=FILE is missing"),
        (("--config=configs/quickstart.py", "--mode=trian"), "trian"),
        (("--config=configs/quickstart.py", "--config.data.sequence_length=513"), "positions for 512 tokens"),
    ],
)
def test_a_wrong_command_is_one_clear_error(arguments, message):
    failed = call(*arguments, status=2)
    assert failed.stderr.startswith("error: ")
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def write_corpus(folder, lines=("a short line of text", "another line of some text")):
    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def spoil_missing(folder):
    (folder / "de.txt").unlink()
    return "de.txt"


def spoil_empty(folder):
    (folder / "de.txt").write_bytes(b"")
    return "de.txt"


def spoil_encoding(folder):
    (folder / "de.txt").write_bytes(b"fine\n\xff\n")
    return "de.txt:2"


def spoil_sides(folder):
    (folder / "de.txt").write_text("only one line\n", encoding="utf-8")
    return "de.txt"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (spoil_missing, "monolingual"),
        (spoil_empty, "monolingual"),
        (spoil_encoding, "monolingual"),
        (spoil_sides, "parallel"),
    ],
)
def test_a_spoilt_corpus_is_named(spoil, kind, tmp_path):
    write_corpus(tmp_path)
    message = spoil(tmp_path)
    failed = call(
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.languages=('en','de')",
        f"--config.data.{kind}.diagnostics.path={tmp_path}/{{language}}.txt",
        f"--config.data.{kind}.diagnostics.format={'text' if kind == 'monolingual' else 'moses'}",
        status=2,
    )
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_help_names_every_mode():
    installed = pathlib.Path(sys.executable).with_name("ernie-m-jax")
    for program in (command("--help"), [str(installed), "--help"]):
        shown = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False).stdout
        for name in ("train", "evaluate", "encode", "compile", "print", "--workdir", "--config"):
            assert name in shown


def test_compile_needs_neither_data_nor_tokenizer():
    shown = call(*SMALL, "--mode=compile", "--config.data.monolingual.diagnostics.path=nowhere.txt").stdout
    for name in ("stage1/mmlm", "stage2/btmlm"):
        assert name in shown


def test_importing_the_package_is_cheap():
    code = "import sys, ernie_m_jax; print('jax' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    ).stdout
    assert shown.strip() == "False"
