"""Loss curves of one run in float32, in bfloat16 and with 8-bit linear maps, on real text.

    python benchmarks/precision_curves.py --workdir runs/precision --steps 600 --output results.json

Each is the quickstart's first stage with the same seed, so the same batches and initial weights; `--config.` arguments
go to all of them. On a CPU 16 and 8 bits are computed in wider registers: the roundings are real, the speed is not.
Prints the mean loss of every tenth of the steps, all objectives together, and the retrieval at the end.
"""

import argparse
import itertools
import json
import pathlib
import statistics

import small_runs

PRECISIONS = {
    "float32": ("--config.compute.dtype=float32",),
    "bfloat16": ("--config.compute.dtype=bfloat16",),
    "8-bit linear maps": ("--config.compute.dtype=bfloat16", "--config.compute.float8=True"),
}
PARTS = 10


def curve(stage: pathlib.Path) -> list[float]:
    """Mean loss of every tenth of the steps."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "objective" in line]
    ends = [round(part * len(losses) / PARTS) for part in range(PARTS + 1)]
    return [statistics.mean(losses[one:other]) for one, other in itertools.pairwise(ends)]


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    parser.add_argument("--steps", type=int, default=600)
    arguments, more = parser.parse_known_args()
    # The second stage cannot be left out, so it is a step.
    lengths = {"stage1.steps": arguments.steps, "stage2.steps": 1, "stage2.warmup_steps": 0}
    flags = (*(f"--config.stages.{key}={value}" for key, value in lengths.items()), *small_runs.SINGLE)
    results, versions = {}, {}
    for name, precision in PRECISIONS.items():
        workdir = arguments.workdir / name.replace(" ", "-")
        summary = small_runs.run("configs/quickstart.py", workdir, (*flags, *precision, *more))
        retrieval = summary["evals"]["retrieval"]["stage1"]
        results[name] = {"loss": curve(workdir / "stage1"), "retrieval": retrieval}
        versions = summary["versions"]
        print(f"{name}: {' '.join(f'{loss:.3f}' for loss in results[name]['loss'])}; retrieval {retrieval:.2f}")
    small_runs.write(arguments, pathlib.Path(__file__).name, versions, results=results)


if __name__ == "__main__":
    main()
