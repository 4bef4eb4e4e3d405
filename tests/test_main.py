"""The command: real argv in real processes."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import main
from tests.command import ONE_EACH, QUICKSTART, ROOT, SMALL, call, command, quick, refused


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
    assert set(summary["evals"]["retrieval"]) == {"untrained", "stage1", "stage2"}
    assert f"report: {workdir / 'report.html'}" in done.stdout
    assert sum(summary["goodput"]["seconds"].values()) == pytest.approx(summary["wall_seconds"])
    page = (workdir / "report.html").read_text()
    assert all(part in page for part in ("camlm: mixture, stage1", "retrieval at the end of stage2", "Goodput"))
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["config"]["model"]["hidden_size"] == 32
    assert stored["versions"]["jax"]
    for name in ("tokenizer/vocab.txt", "stage2/metrics.jsonl", "stage2/retrieval.png", "stage2/retrieval.csv"):
        assert (workdir / name).stat().st_size > 0


@pytest.mark.slow
def test_evaluate_and_encode(trained, tmp_path):
    workdir, _ = trained
    shown = call(*quick(workdir), "--mode=evaluate").stdout
    assert "mean" in shown
    source, target = tmp_path / "lines.txt", tmp_path / "vectors.npy"
    source.write_text("a class may not be empty.\n\nклассу нужно имя.\n", encoding="utf-8")
    encode = (f"--workdir={workdir}", "--mode=encode", f"--input={source}", f"--output={target}")
    call(*encode, "--config.encode.layer=1")
    vectors = np.load(target)
    assert vectors.shape == (3, 32)
    assert vectors.dtype == np.float32
    source.write_bytes(b"fine\n\xff\xfe\n")
    before = target.read_bytes()
    assert f"{source}:2" in refused(*encode)
    assert target.read_bytes() == before


@pytest.mark.slow
def test_a_work_directory_speaks_for_itself(trained, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(trained[0], workdir)
    for name in ("config.py", "configs.py", "json.py"):
        (workdir / name).write_text("raise SystemExit('executed')\n")
    stored = (workdir / "config.json").read_bytes()
    printed = json.loads(call("--mode=print", f"--workdir={workdir}").stdout)
    assert printed == json.loads(stored)["config"]
    tables = {}
    for layer in (-1, 1):
        call("--mode=evaluate", f"--workdir={workdir}", f"--config.evals.retrieval.layer={layer}")
        tables[layer] = (workdir / "evaluation" / "retrieval.csv").read_text()
    assert tables[-1] == (workdir / "stage2" / "retrieval.csv").read_text()
    assert tables[1] != tables[-1]
    shown = call("--mode=evaluate", f"--workdir={workdir / 'stage1'}").stdout
    assert f"parameters of step 4 in {workdir / 'stage1'}" in shown
    assert (workdir / "stage1" / "evaluation" / "retrieval.csv").read_text() == (
        workdir / "stage1" / "retrieval.csv"
    ).read_text()
    assert "is complete" in call(f"--workdir={workdir}").stdout
    assert (workdir / "config.json").read_bytes() == stored
    said = refused("--mode=evaluate", f"--workdir={workdir}", "--config.model.num_heads=2")
    assert "config.model.num_heads: 4 there, 2 here" in said
    said = refused(f"--workdir={workdir}", "--config.stages.stage1.steps=8")  # stage2 has trained on from step 4
    assert f"--config.init.resume={workdir / 'stage1'}" in said
    assert f"--workdir={workdir} goes on with its run" in refused(f"--workdir={workdir / 'stage1'}")


def test_using_a_model_needs_nothing_that_only_training_needs(trained, tmp_path):
    workdir, _ = trained
    lines = tmp_path / "lines.txt"
    lines.write_text("one\ntwo\nthree\n")
    arguments = ("--mode=encode", f"--input={lines}", f"--output={tmp_path / 'v.npy'}")
    # Three devices, which train.batch_size 8 does not fit; a mesh of eight; no retrieval set.
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    lost = "--config.evals.retrieval.source.path=nowhere.tsv"
    call(f"--workdir={workdir}", *arguments, lost, "--config.mesh.data=8", env=environment)
    assert np.load(tmp_path / "v.npy").shape == (3, 32)


@pytest.mark.slow
def test_a_converted_model_is_a_work_directory(trained, tmp_path):
    workdir, model = trained[0], tmp_path / "model"
    subprocess.run(
        [sys.executable, "-m", "ernie_m_jax.convert", f"--source={workdir}", f"--output={model}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert json.loads(call("--mode=print", f"--workdir={model}").stdout)["model"]["hidden_size"] == 32
    flags = ("--config.languages=en,de,fr,ru", "--config.evals.retrieval.source.path=corpus:diagnostics/dev")
    call("--mode=evaluate", f"--workdir={model}", *flags)
    assert (model / "evaluation" / "retrieval.csv").read_text() == (workdir / "stage2" / "retrieval.csv").read_text()
    found = json.loads((model / "evaluation" / "summary.json").read_text())
    trained = json.loads((workdir / "stage2" / "summary.json").read_text())
    assert found["evals"] == {"retrieval": trained["evals"]["retrieval"]}
    stored = json.loads((model / "evaluation" / "config.json").read_text())["config"]
    assert stored["evals"]["retrieval"]["source"]["path"] == "corpus:diagnostics/dev"
    assert "config.evals is empty" in refused("--mode=evaluate", f"--workdir={model}")
    assert f"--config.init.params={model}" in refused(f"--workdir={model}")


@pytest.mark.slow
def test_another_librarys_directory_must_be_converted_first(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "ernie_m"}')
    assert "python -m ernie_m_jax.convert" in refused("--mode=encode", f"--workdir={tmp_path}")
    for text in ("[1", '{"model": {}, "tokenizer": {}, "data": 3}'):
        (tmp_path / "config.json").write_text(text)
        assert "config.json is damaged" in refused("--mode=encode", f"--workdir={tmp_path}")


def test_out_of_memory_says_what_to_set(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "lines.txt").write_text("one\n")
    files = (f"--input={tmp_path / 'lines.txt'}", f"--output={tmp_path / 'vectors.npy'}")
    said = refused("--mode=encode", f"--workdir={trained[0]}", *files, "--config.encode.batch_size=100000000000")
    for named in (
        "out of memory",
        "config.encode.batch_size",
        "config.train.grad_accumulation_steps",
        "config.compute.remat",
    ):
        assert named in said
    # On the device; JAX's CPU client dies of most ways to ask for too much, so the request is made here.
    monkeypatch.setattr(main, "opened_workdir", contextlib.nullcontext)
    monkeypatch.setattr(main, "do", lambda arguments, workdir: jnp.zeros((1 << 45,), jnp.float32))
    with pytest.raises(SystemExit) as caught:
        main.main(["main"])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: out of memory (RESOURCE_EXHAUSTED")
    assert "--mode=compile" in said
    assert said.count("\n") == 1


@pytest.mark.slow
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
    assert process.returncode == 42
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr  # the loaders' threads are closed
    steps = [int(path.name) for path in (tmp_path / "run" / "stage1" / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 3 <= steps[0] < 400


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
    said = refused(
        QUICKSTART,
        f"--workdir={tmp_path / 'run'}",
        "--config.languages=('en','de')",
        f"--config.data.{kind}.diagnostics.path={tmp_path}/{{language}}.txt",
        f"--config.data.{kind}.diagnostics.format={'text' if kind == 'monolingual' else 'moses'}",
    )
    assert message in said


def test_the_help_names_every_mode():
    installed = pathlib.Path(sys.executable).with_name("ernie-m-jax")
    for program in (command("--help"), [str(installed), "--help"]):
        shown = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False).stdout
        for name in ("train", "evaluate", "encode", "compile", "print", "--workdir", "--config"):
            assert name in shown


@pytest.mark.slow
def test_compile_needs_neither_data_nor_tokenizer():
    shown = call(*SMALL, *ONE_EACH, "--mode=compile", "--config.data.monolingual.diagnostics.path=nowhere.txt").stdout
    for name in ("stage1/camlm", "stage2/btmlm"):
        assert name in shown


@pytest.mark.slow
def test_the_compilers_warnings_are_not_shown():
    flags = [f"--config.stages.stage{number}.weights={{'mmlm': 1.0}}" for number in (1, 2)]
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}  # JAX here set it
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert call(*SMALL, "--mode=compile", *flags, *mesh, env=environment).stderr == ""


def test_importing_the_package_is_cheap():
    code = "import sys, ernie_m_jax; print('jax' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    ).stdout
    assert shown.strip() == "False"


def test_a_file_is_no_work_directory(tmp_path):
    (tmp_path / "run").touch()
    said = refused(*quick(tmp_path / "run"))
    assert said == f"--workdir={tmp_path / 'run'} is a file; it must be a directory or a new name"
