"""`python -m tests.chaos soak`: a long run of tiny steps, whose memory and open files must not grow."""

import ctypes
import gc
import os
import pathlib
from typing import Any
from unittest import mock

import numpy as np

from ernie_m_jax import config as configs
from ernie_m_jax.reporting import metrics
from ernie_m_jax.training import run
from tests.conftest import VOCAB_SIZE, small_tree

# MiB per 1,000 steps that memory may grow by, beside what the slope's error explains. Resident memory has what Python's
# small objects take, the lists of `watched` among them, and what malloc keeps for itself between one save and the next.
MOST = {"allocated": 0.5, "resident": 1.0}
# The fields of glibc's struct mallinfo2, in its order.
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Malloc(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def allocated() -> int:
    """Bytes that malloc has given to any thread and not got back; 0 where the C library cannot say (not glibc).

    Python keeps objects of up to 512 bytes in memory of its own, which is not in it.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _Malloc
    info = library.mallinfo2()
    return info.uordblks + info.hblkhd


def watched(config: configs.Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs a config of one stage; memory and descriptors after each step, as a straight line's slope.

    The line goes through the second half by least squares; its error is the standard error of the slope.
    """
    resident: list[int] = []
    descriptors: list[int] = []
    given_out: list[int] = []
    read = metrics.Meter.read

    def counted(self: metrics.Meter, step: metrics.Step) -> dict[str, float]:
        if len(resident) % 50 == 0:
            gc.collect()
        resident.append(int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        descriptors.append(len(os.listdir("/proc/self/fd")))
        given_out.append(allocated())
        return read(self, step)

    with mock.patch.object(metrics.Meter, "read", counted):
        run.train(config, workdir)
    steps, half = len(resident), len(resident) // 2
    found: dict[str, Any] = {"steps": steps, "early": min(100, half)}
    series = (("resident", resident, 2**20), ("allocated", given_out, 2**20), ("descriptors", descriptors, 1))
    for name, values, unit in series:
        late = np.array(values[half:]) / unit
        (slope, _), covariance = np.polyfit(np.arange(len(late)), late, 1, cov=True)
        found[name] = {
            "after_early": values[found["early"]] / unit,
            "end": values[-1] / unit,
            "most_before_half": max(values[found["early"] : half]) / unit,
            "most_after_half": max(late.tolist()),
            "per_1000_steps": 1e3 * slope,
            "standard_error": 1e3 * float(covariance[0, 0]) ** 0.5,
        }
    return found


def growing(found: dict[str, Any]) -> list[str]:
    """What grows of what `watched` found."""
    wrong, files = [], found["descriptors"]
    for name, most in MOST.items():
        if found[name]["per_1000_steps"] >= most + 3 * found[name]["standard_error"]:
            wrong.append(f"{name} memory grows by {found[name]['per_1000_steps']:.3f} MiB per 1,000 steps")
    if files["most_after_half"] > files["most_before_half"] + 2:
        wrong.append(f"{files['most_after_half']} files are open, before {files['most_before_half']}")
    return wrong


def text(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{found['steps']} steps; slopes of the second half, with their standard errors"]
    for name, unit in (("resident", " MiB"), ("allocated", " MiB"), ("descriptors", "")):
        of = found[name]
        lines.append(
            f"{name}: {of['after_early']:.0f}{unit} after {found['early']} steps, {of['end']:.0f}{unit} at the end; "
            f"{of['per_1000_steps']:+.3f} +- {of['standard_error']:.3f}{unit} per 1,000 steps"
        )
    return "\n".join(lines)


def soak(steps: int, folder: pathlib.Path) -> dict[str, Any]:
    """A run of all four objectives with a save every 1,000 steps."""
    from ernie_m_jax import tokenizer
    from ernie_m_jax.data import mixture

    tokenizer.train(mixture.Sources(configs.resolve(small_tree())).texts(), VOCAB_SIZE, folder / "tokenizer")
    found = watched(config_of(folder / "tokenizer", steps), folder / "run")
    print(text(found), flush=True)
    return found


def config_of(tokenizer: pathlib.Path, steps: int) -> configs.Config:
    """The small config for so many steps."""
    keys = {"stages__one__steps": steps, "train__save_every": 1000, "train__log_every": 100, "evals": {}}
    return configs.resolve(small_tree(tokenizer__path=str(tokenizer), **keys))
