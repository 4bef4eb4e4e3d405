"""Where the benchmarks run."""

import pathlib
import platform

ROOT = pathlib.Path(__file__).parents[1]  # of the project


def processor() -> str:
    """The processor's name."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
