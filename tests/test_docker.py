"""launch/docker: the build's command; and, slow, the steps of the CPU image carried out in a folder, without Docker."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import launching
from tests.launching import LAUNCH, ROOT

launcher = launching.launcher
DOCKERFILE = LAUNCH / "docker" / "Dockerfile"


def steps():
    """Instruction and its text, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined]


def copied():
    """Every source of a COPY, with its place."""
    for instruction, text in steps():
        if instruction == "COPY":
            *sources, target = text.split()
            yield from ((source, target) for source in sources)


def test_it_has_only_instructions_that_the_test_carries_out():
    kinds = [instruction for instruction, _ in steps()]
    assert set(kinds) == {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}
    assert kinds.count("FROM") == 1
    assert dict(steps())["FROM"] == "python:${PYTHON}-slim"


def test_what_is_copied_is_there_and_reaches_the_build():
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for source, _ in copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    needed = {"pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "configs", "launch", "ernie_m_jax"}
    assert {source for source, _ in copied()} == needed


@pytest.mark.parametrize(
    ("variant", "status", "asked"), [("cpu", 0, "."), ("gpu", 0, ".[gpu]"), ("tpu", 0, ".[tpu]"), ("xpu", 2, "")]
)
def test_each_variant_installs_its_jax(tmp_path, variant, status, asked):
    (install,) = [text for instruction, text in steps() if instruction == "RUN" and "pip" in text]
    (tmp_path / "pip").write_text('#!/bin/sh\nfor last; do :; done\necho "$last"\n')
    (tmp_path / "pip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant}
    done = subprocess.run(["sh", "-c", install], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.strip() == asked
    if asked:
        extras = (ROOT / "pyproject.toml").read_text()
        assert variant == "cpu" or re.search(rf'^{variant} = \["jax\[', extras, re.MULTILINE)


def test_the_build_and_push(launcher):
    build, push = launcher.dry("docker/build.sh", "--variant=gpu", "--tag=r/ours:1", "--push")
    assert build == [
        *("docker", "build", f"--file={DOCKERFILE}", "--build-arg=VARIANT=gpu", "--tag=r/ours:1", str(ROOT)),
    ]
    assert push == ["docker", "push", "r/ours:1"]
    launcher.fake("docker", "exit 0")
    assert launcher.run("docker/build.sh").returncode == 0
    assert "--build-arg=VARIANT=cpu" in launcher.calls()[0]
    assert len(launcher.calls()) == 1


def test_a_wrong_build_is_one_line(launcher):
    assert launcher.refused("docker/build.sh", "--variant=xpu") == "--variant is 'xpu'; it must be cpu, gpu or tpu"


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_give_a_command_that_works(tmp_path):
    """Its file system is a folder, its Python a fresh environment; the base image is all that is not tried."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    environment = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_") or "proxy" in key.lower()}
    here, entry = tmp_path, []

    def place(path):
        return tmp_path / path.lstrip("/") if path.startswith("/") else here / path

    for instruction, text in steps():
        if instruction in ("ARG", "ENV"):
            name, value = text.split("=", 1)
            environment[name] = value
        elif instruction == "WORKDIR":
            here = place(text)
            here.mkdir(parents=True, exist_ok=True)
        elif instruction == "RUN":
            assert not re.search(r"(?<![\w.])/(?!dev/null)", text), "an absolute path, which is not in the folder"
            done = subprocess.run(["sh", "-c", text], cwd=here, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        elif instruction == "ENTRYPOINT":
            entry = json.loads(text)
        elif instruction == "COPY":
            *sources, target = text.split()
            for source in sources:
                path = place(target) / source if target.endswith("/") else place(target)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, path, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, path)
    shown = subprocess.run(
        [*entry, "--config=configs/quickstart.py", "--mode=print"],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["languages"] == ["en", "de", "fr", "ru"]
    program = "import ernie_m_jax, launch; print(ernie_m_jax.__path__[0], launch.__path__[0])"
    python = shlex.join(["python", "-c", program])
    found = subprocess.run(["sh", "-c", python], cwd=here, env=environment, capture_output=True, text=True).stdout
    assert all(path.startswith(str(tmp_path / "venv")) for path in found.split()), found
