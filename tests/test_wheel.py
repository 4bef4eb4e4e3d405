"""The built wheel, unpacked away from the checkout: configs and launchers travel with it and work anywhere."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(arguments, directory, **options):
    return subprocess.run(arguments, cwd=directory, capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Packages of the wheel, in a folder of their own."""
    made = tmp_path_factory.mktemp("wheel")
    built = _run([sys.executable, "-m", "build", "--wheel", "--outdir", str(made / "dist"), str(ROOT)], made)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (made / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


def _command(installed, directory, *arguments):
    """The installed command in a directory that holds a `configs` of its own."""
    (directory / "configs").mkdir(exist_ok=True)
    (directory / "configs" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    program = "import sys; from ernie_m_jax.main import cli; sys.argv[0] = 'ernie-m-jax'; cli()"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return _run([sys.executable, "-c", program, *arguments], directory, env=environment)


@pytest.mark.slow
def test_the_installed_command_trains_the_quickstart_from_any_directory(installed, tmp_path):
    shown = _command(installed, tmp_path, "--config=configs/quickstart.py", "--mode=print")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["languages"] == ["en", "de", "fr", "ru"]
    few = [f"--config.stages.{stage}.{key}=2" for stage in ("stage1", "stage2") for key in ("steps", "warmup_steps")]
    trained = _command(installed, tmp_path, "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", *few)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "summary.json").is_file()
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()  # its template is in the wheel
    again = _command(installed, tmp_path, f"--workdir={tmp_path / 'run'}", "--mode=evaluate")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_configs_and_launchers_and_nothing_else(installed):
    names = {path.name for path in installed.iterdir()}
    version = next(name for name in names if name.endswith(".dist-info"))
    assert names == {"ernie_m_jax", "configs", "launch", version}
    files = {str(path.relative_to(installed)) for path in installed.rglob("*.py")}
    tracked = _run(["git", "ls-files", "ernie_m_jax", "configs", "launch"], ROOT).stdout.split()
    assert files == {name for name in tracked if name.endswith(".py")}
    launchers = {str(path.relative_to(installed)) for path in (installed / "launch").rglob("*") if path.is_file()}
    assert launchers == {name for name in tracked if name.startswith("launch/")}
    help_of = _run(["bash", "launch/tpu_vm.sh", "--help"], installed)
    assert help_of.returncode == 0, help_of.stderr
    sweep = _run([sys.executable, "-m", "launch.sweep", "--help"], installed)
    assert sweep.returncode == 0, sweep.stderr


@pytest.mark.slow
def test_a_config_that_is_neither_here_nor_the_projects_is_an_error(tmp_path):
    command = [sys.executable, "-m", "ernie_m_jax.main", "--config=configs/nothing.py", "--mode=print"]
    failed = _run(command, tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert failed.returncode == 2
    assert failed.stderr == "error: --config=configs/nothing.py: configs/nothing.py: no such file\n"
