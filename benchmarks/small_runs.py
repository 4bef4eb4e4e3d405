"""What the benchmarks of small models on real data share: one run of the command line, and the file of results."""

import argparse
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from machine import ROOT, processor

SINGLE = ("--config.compute.scan_layers=False", "--config.compute.vocab_chunk=0")  # faster for few layers on a CPU


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all of them have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=pathlib.Path, required=True, help="folder of the published files")
    made.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of the runs; finished ones are kept")
    made.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    return made


def run(config: str, workdir: pathlib.Path, flags: Sequence[str]) -> dict[str, Any]:
    """Trains with a config file and its argument in a process of its own, unless that is done; the run's summary.

    Its output is in a log beside the work directory.
    """
    if not (workdir / "summary.json").exists():
        workdir.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ernie_m_jax.main", f"--config={config}", f"--workdir={workdir}"]
        begun, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with workdir.with_suffix(".log").open("w") as log:
            subprocess.run([*command, *flags], cwd=ROOT, stdout=log, stderr=log, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        seconds = {"wall_seconds": time.monotonic() - begun, "cpu_seconds": cpu}
        workdir.with_suffix(".seconds.json").write_text(json.dumps(seconds))
    summary = json.loads((workdir / "summary.json").read_text())
    return {**summary, "process": json.loads(workdir.with_suffix(".seconds.json").read_text())}


def write(arguments: argparse.Namespace, script: str, versions: Mapping[str, str], **results: Any) -> None:
    """Writes the results with the command, hardware, versions and date."""
    cores = len(os.sched_getaffinity(0))
    record = {
        "command": f"python benchmarks/{script} {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {cores} of {os.cpu_count()} cores",
        "versions": versions,
        **results,
    }
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
