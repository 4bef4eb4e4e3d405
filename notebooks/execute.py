"""Runs notebooks from start to end and stores them with their outputs.

python notebooks/execute.py [NAME ...]

Each runs in a fresh folder with a fresh kernel of this Python (`pip install -e '.[dev]'`), on the CPU unless JAX finds
something else, and replaces the stored file only when every cell has succeeded. Prints each one's seconds, and its
CPU's, which do not count what else the machine does. What would change from run to run without a meaning (execution
times, versions of the kernel) is not stored.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent
NAMES = ("quickstart", "released_weights", "finetune", "continue_pretraining")
CELL_SECONDS = 1800


def execute(path: pathlib.Path, folder: pathlib.Path) -> nbformat.NotebookNode:
    """Runs a notebook in a folder and returns it with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    with _importable():
        client.execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Lets a kernel import this checkout, also where it is not installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def main(names: list[str]) -> None:
    """Runs the named notebooks, or all of them."""
    for name in names or NAMES:
        path, begun, used = FOLDER / f"{name}.ipynb", time.monotonic(), _cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(path, pathlib.Path(folder)), path)
        seconds, cpu = time.monotonic() - begun, _cpu_seconds() - used
        print(f"{name}: {seconds:.0f} s, {cpu:.0f} s of CPU, {path.stat().st_size / 1e3:.0f} kB", flush=True)


def _cpu_seconds() -> float:
    """Of the kernels that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main(sys.argv[1:])
