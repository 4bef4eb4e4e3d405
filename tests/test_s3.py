"""The command with everything on S3: killed in the upload of a save, resumed, used; and what it says if S3 refuses."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from ernie_m_jax import mirrors
from ernie_m_jax.convert import native
from ernie_m_jax.data import records
from ernie_m_jax.tokenizer import Tokenizer
from tests import s3
from tests.command import QUICKSTART, ROOT, SMALL, call, refused

pytestmark = pytest.mark.slow
STEPS = 6
# The command, killed when it is about to put the object whose name ends as its first argument says.
KILLED = """
import os, signal, sys
import s3fs
end = sys.argv.pop(1)
put = s3fs.S3FileSystem._put_file
async def dying(self, local, path, *arguments, **keys):
    if path.endswith(end):
        os.kill(os.getpid(), signal.SIGKILL)
    return await put(self, local, path, *arguments, **keys)
s3fs.S3FileSystem._put_file = dying
from ernie_m_jax import main
main.cli()
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with s3.server(tmp_path_factory.mktemp("s3")) as environment:
        yield {**os.environ, **environment}


def settings(workdir, tokenizer, mono, pairs, heldout):
    """The quickstart's config at a small size: both stages, evaluations at their ends, a save every two steps."""
    stage = [f"--config.stages.stage{n}.{key}" for n in (1, 2) for key in (f"steps={STEPS}", "warmup_steps=1")]
    return [
        *SMALL,
        *stage,
        "--config.stages.stage1.weights={'camlm': 1.0}",
        "--config.stages.stage2.weights={'btmlm': 1.0}",
        "--config.train.save_every=2",
        f"--workdir={workdir}",
        f"--config.tokenizer.path={tokenizer}",
        f"--config.data.monolingual.diagnostics.path={mono}",
        f"--config.data.parallel.diagnostics.path={pairs}",
        f"--config.evals.retrieval.source.path={heldout}",
        f"--config.evals.heldout.parallel.path={heldout}",
    ]


def left(workdir):
    """The metrics of both stages without their timing, and every array of their last checkpoints."""
    found = {}
    for stage in ("stage1", "stage2"):
        lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
        found[f"{stage} metrics"] = [{key: line[key] for key in line if key != "timing"} for line in lines]
        found |= {f"{stage} {name}": array for name, array in native.read(workdir / stage, STEPS).items()}
    return found


def test_everything_on_s3_killed_in_a_save_and_resumed(store, tmp_path, monkeypatch):
    mono, pairs, heldout = (records._resolve(f"corpus:diagnostics/{name}") for name in ("mono", "pairs", "dev"))
    files, url = s3.files(store), f"s3://{s3.BUCKET}/everything"
    # Locally and undisturbed; the run trains its tokenizer.
    local = settings(tmp_path / "local", "", mono, pairs, heldout)
    call(*local)
    tokenizer = Tokenizer.load(tmp_path / "local" / "tokenizer")
    tokenizer.save(tmp_path / "tokenizer")
    files.put(str(tmp_path / "tokenizer"), f"{url}/tokenizer", recursive=True)
    for path in (mono, pairs, heldout):
        files.put_file(path, f"{url}/data/{os.path.basename(path)}")
    named = (f"{url}/data/{os.path.basename(path)}" for path in (mono, pairs, heldout))
    given = settings(f"{url}/run", f"{url}/tokenizer", *named)
    # Killed when all of step 4 but its manifest is there; then in the middle of the second stage's step 2.
    for end, before in (("stage1/checkpoints/4/manifest.json", 2), ("stage2/checkpoints/2/meta.json", None)):
        program = [sys.executable, "-c", KILLED, end, *given]
        killed = subprocess.run(program, cwd=ROOT, env=store, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
        steps = {name.split("/checkpoints/")[1] for name in files.find(f"{url}/run") if name.endswith("manifest.json")}
        assert before is None or steps == {f"{before}/manifest.json"}
    done = call(*given, env=store).stdout
    assert "stage2: starting from the parameters of s3://runs/everything/run/stage1" in done
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    with mirrors.mirrored(f"{url}/run") as place:
        found, expected = left(place), left(tmp_path / "local")
    assert found.keys() == expected.keys()
    for name in found:
        if name.endswith("metrics"):
            assert found[name] == expected[name]
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert not list(pathlib.Path(store["XDG_CACHE_HOME"]).glob("ernie_m_jax/mirrors/*"))
    # What was trained there is used from there.
    (tmp_path / "lines.txt").write_text("unexpected end of file\n")
    files.put_file(str(tmp_path / "lines.txt"), f"{url}/lines.txt")
    used = [f"--workdir={url}/run", "--mode=encode", f"--input={url}/lines.txt", f"--output={url}/vectors.npy"]
    call(*used, env=store)
    here = [f"--workdir={tmp_path / 'local'}", "--mode=encode", f"--input={tmp_path / 'lines.txt'}"]
    call(*here, f"--output={tmp_path / 'vectors.npy'}")
    assert files.cat_file(f"{url}/vectors.npy") == (tmp_path / "vectors.npy").read_bytes()


def test_a_bucket_that_does_not_exist_is_said_before_any_work(store):
    said = refused(QUICKSTART, "--workdir=s3://nowhere/run", env=store)
    assert said.startswith("s3://nowhere/run: no such file or bucket: ")
    assert "\n" not in said


def test_a_store_without_credentials(store):
    bare = {name: value for name, value in store.items() if not name.startswith(("AWS_ACCESS", "AWS_SECRET"))}
    said = refused(QUICKSTART, f"--workdir=s3://{s3.BUCKET}/run", env=bare)
    assert said.startswith(f"s3://{s3.BUCKET}/run: NoCredentialsError: ")
    assert "AWS_ACCESS_KEY_ID" in said
    assert "\n" not in said


def test_a_server_that_does_not_answer(store):
    said = refused(
        QUICKSTART, f"--workdir=s3://{s3.BUCKET}/run", env={**store, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    )
    assert said.startswith(f"s3://{s3.BUCKET}/run: ")
    assert "\n" not in said


def test_a_scheme_that_nothing_knows():
    said = refused(QUICKSTART, "--workdir=nosuch://bucket/run")
    assert said.startswith("nosuch://bucket/run: Protocol not known: nosuch")
    assert "\n" not in said
