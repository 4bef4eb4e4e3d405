"""What the project's steps need on TPUs and GPUs: every cell compiled by the machine's own compiler, where it is not.

    make compilers
    PYTHONPATH=.venv/compilers python benchmarks/compile_table.py --output benchmarks/results/compile_table.json

Each cell is `--mode=compile --topology=...` in a process of its own. The table is written beside the output, as
Markdown. A cell that the output has already is not compiled again, so that a run which was stopped goes on; `--again`
begins anew. `--cells TEXT` takes those whose name contains it.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm", "xnli")


class Cell(NamedTuple):
    """A step on a machine: model size, objective, topology, parts that a batch is computed in, mesh, packed rows."""

    size: str
    objective: str
    topology: str
    parts: int
    fsdp: int = 1
    tensor: int = 1
    rows: int = 2048

    @property
    def name(self) -> str:
        """What the results are kept under."""
        mesh = f" tensor={self.tensor}" if self.tensor > 1 else ""
        return f"{self.size} {self.objective} {self.topology} fsdp={self.fsdp}{mesh}"


# TPUs: base data parallel, 32 rows of 512 tokens per chip and part, as far as 2,048 rows go; large 16 rows, fsdp where
# there are chips for it. GPUs: 128 rows of base, 32 of large. Fine-tuning: XNLI's rows of 256 tokens. The order is that
# of what is most wanted.
CELLS = (
    Cell("base", "mmlm", "h100:1", 16),
    Cell("large", "mmlm", "h100:8", 8),
    Cell("large", "mmlm", "h100:8", 8, fsdp=8),
    Cell("large", "mmlm", "h100:8", 8, fsdp=2, tensor=2),
    Cell("base", "btmlm", "h100:8", 2),
    Cell("base", "camlm", "h200:8", 2),
    Cell("base", "tlm", "a100:8", 4),
    Cell("base", "xnli", "a100-40:1", 1, rows=128),
    Cell("large", "btmlm", "h100:64", 1, fsdp=8),
    Cell("large", "camlm", "a100:16", 8, fsdp=8),
    Cell("large", "tlm", "h200:8", 8),
    Cell("large", "xnli", "h200:1", 1, rows=128),
    Cell("base", "mmlm", "v5e:1x1", 64),
    Cell("large", "mmlm", "v5e:16x16", 1, fsdp=8),
    Cell("base", "btmlm", "v5e:8x8", 1),
    Cell("base", "camlm", "v6e:2x4", 8),
    Cell("base", "xnli", "v5e:2x2", 1, rows=128),
    Cell("large", "btmlm", "v5p:4x4x4", 2, fsdp=4),
    Cell("large", "camlm", "v4:2x2x4", 8, fsdp=4),
    Cell("base", "tlm", "v4:2x2x1", 16),
    Cell("large", "tlm", "v6e:4x4", 8, fsdp=4),
    Cell("large", "xnli", "v5p:2x2x1", 1, rows=128),
    Cell("base", "mmlm", "v5p:2x2x1", 16),
    Cell("base", "mmlm", "v5e:16x16", 1),
    Cell("large", "mmlm", "v5e:2x4", 16, fsdp=8),
    Cell("large", "mmlm", "v6e:1x1", 128),
)


def command(cell: Cell, output: pathlib.Path) -> list[str]:
    """The command of a cell, as a user gives it."""
    pretraining = cell.objective != "xnli"
    config = "pretrain/stage2.py" if pretraining else "finetune/xnli.py"
    flags = [
        f"--config=configs/{config}:size={cell.size}",
        "--mode=compile",
        f"--topology={cell.topology}",
        f"--output={output}",
        f"--config.train.batch_size={cell.rows}",
        f"--config.train.grad_accumulation_steps={cell.parts}",
        f"--config.mesh.fsdp={cell.fsdp}",
        f"--config.mesh.tensor={cell.tensor}",
    ]
    if pretraining:
        flags += ["--config.languages=en,de", f"--config.stages.stage2.weights={{'{cell.objective}': 1.0}}"]
    return [sys.executable, "-m", "ernie_m_jax.main", *flags]


def compile_cell(cell: Cell) -> dict[str, Any]:
    """Runs a cell's command; what it wrote, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "cell.json")
        began = time.monotonic()
        done = subprocess.run(command(cell, output), cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1], "seconds": time.monotonic() - began}
        (step,) = json.loads(output.read_text())["steps"].values()
        about = {key: value for key, value in json.loads(output.read_text()).items() if key != "steps"}
        return about | {"step": step, "seconds": time.monotonic() - began}


def row(cell: Cell, result: dict[str, Any]) -> str:
    """A cell's line of the table."""
    start = f"| {cell.size} | {cell.objective} | {cell.topology} | "
    if "step" not in result:
        return start + f"{result['error']} |" + " |" * 12
    step, mesh = result["step"], result["mesh"]
    gib = step["gib"] or {}
    rows = cell.rows // cell.parts // (mesh["data"] * mesh["fsdp"])
    speed = step["tokens_per_second"]
    columns = [
        str(result["chips"]),
        f"{mesh['data']} x {mesh['fsdp']} x {mesh['tensor']}",
        f"{rows} x {cell.parts}",
        *(f"{gib[kind]:.2f}" if gib else "-" for kind in ("arguments", "temporary", "total")),
        verdict(step, result["chip"]["gib"]),
        ", ".join(f"{kind} {traffic['bytes'] / 2**30:.2f}" for kind, traffic in step["collectives"].items())
        or ("none" if "products_pflop" in step else unread(step)),
        largest(step),
        f"{step['moved_gib'] + step['moved_gib_besides']:.0f}, {step['moved_gib_besides']:.0f}"
        if "moved_gib" in step
        else unread(step),
        f"{step['gflop_per_token'] + step['gflop_written_per_token']:.3f}",
        f"{100 * step['products_pflop'] / step['pflop_per_step']:.0f} %" if "products_pflop" in step else unread(step),
        f"{speed / 1e3:,.0f}k",
    ]
    return start + " | ".join(columns) + " |"


def unread(step: dict[str, Any]) -> str:
    """What stands for what a program's text would tell."""
    return "not readable" if "unreadable" in step else "-"


def largest(step: dict[str, Any]) -> str:
    """The largest array that a chip makes."""
    if "largest" not in step:
        return unread(step)
    return f"{step['largest'][0]['shape']} {step['largest'][0]['gib']:.2f}"


def verdict(step: dict[str, Any], gib: int) -> str:
    """Whether it fits."""
    if step["fits"]:
        return f"fits {gib}"
    return f"needs {step['missing_gib']:.1f} more than {gib}" if step["missing_gib"] else f"does not fit {gib}"


def table(results: dict[str, Any]) -> str:
    """The table in Markdown, the cells in the order of size, objective and chips."""
    lines = [
        "| size | step | topology | chips | data x fsdp x tensor | rows x parts | arguments | temporary | total GiB "
        "| of a chip's | collectives, GiB per step | largest array, GiB | moved, besides products and kernels, GiB "
        "| GFLOP per token | of it in products | tokens/s at 40 % |",
        "| --- " * 16 + "|",
    ]
    order = [cell for cell in CELLS if cell.name in results]
    order.sort(key=lambda cell: (cell.size, OBJECTIVES.index(cell.objective), results[cell.name].get("chips", 0)))
    lines += [row(cell, results[cell.name]) for cell in order]
    if left := [cell.name for cell in CELLS if cell not in order]:
        lines += ["", f"Not compiled yet: {', '.join(left)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compiles what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file of the results")
    parser.add_argument("--cells", default="", help="only those whose name contains this")
    parser.add_argument("--again", action="store_true", help="compile what is there already, too")
    arguments = parser.parse_args()
    output = pathlib.Path(arguments.output)
    stored = json.loads(output.read_text())["cells"] if output.exists() else {}
    for cell in CELLS:
        if arguments.cells not in cell.name or ("step" in stored.get(cell.name, {}) and not arguments.again):
            continue
        result = compile_cell(cell)
        stored[cell.name] = result | {"date": str(datetime.date.today())}
        print(f"{cell.name}: {result['seconds']:.0f} s {result.get('error', '')}", flush=True)
        output.write_text(json.dumps({"cells": stored}, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(stored))


if __name__ == "__main__":
    main()
