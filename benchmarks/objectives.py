"""Which objectives align languages: the quickstart with all four, against MMLM alone and MMLM + TLM at the same steps.

    python benchmarks/objectives.py --seeds 3 --jobs 2 --output benchmarks/results/objectives.json

Each run is the quickstart's own command in its own process; --jobs shares the cores out among runs. Prints a table of
mean retrieval accuracy over all language pairs (percent, mean and range over seeds) and writes it with hardware,
versions and date. Finished runs in --workdir are not run again.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from statistics import mean

ROOT = pathlib.Path(__file__).parents[1]
VARIANTS = {
    "mmlm": ":objectives=mmlm",
    "mmlm + tlm": ":objectives=mmlm+tlm",
    "all four": "",
}
MOMENTS = ("untrained", "stage1", "stage2")


def run(name: str, seed: int, workdir: pathlib.Path, cores: set[int]) -> dict:
    """One run's summary; its output goes to a log beside its directory."""
    target = workdir / f"{name.replace(' ', '')}-{seed}"
    argument = VARIANTS[name]
    command = [sys.executable, "-m", "ernie_m_jax.main", f"--config=configs/quickstart.py{argument}"]
    command += [f"--config.seed={seed}", f"--workdir={target}"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".log").open("w") as log:
        subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=log, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
    return json.loads((target / "summary.json").read_text())


def processor() -> str:
    """The processor's name."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def table(results: dict) -> str:
    """A Markdown table of the retrieval averages."""
    lines = ["| objectives | untrained | after stage 1 | after stage 2 |", "| --- | --- | --- | --- |"]
    for name, moments in results.items():
        cells = []
        for moment in MOMENTS:
            values = moments[moment]
            cells.append(f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs per variant, seeds 0, 1, ...")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "objectives")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    shares = [set(cores[job :: arguments.jobs]) for job in range(arguments.jobs)]
    tasks = [(name, seed) for seed in range(arguments.seeds) for name in VARIANTS]

    def work(job: int) -> list[tuple[str, dict]]:
        return [(name, run(name, seed, arguments.workdir, shares[job])) for name, seed in tasks[job :: arguments.jobs]]

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        done = [pair for pairs in pool.map(work, range(arguments.jobs)) for pair in pairs]
    summaries = {name: [summary for other, summary in done if other == name] for name in VARIANTS}
    results = {
        name: {moment: [summary["evals"]["retrieval"][moment] for summary in runs] for moment in MOMENTS}
        for name, runs in summaries.items()
    }
    print(table(results))
    arguments.output.write_text(
        json.dumps(
            {
                "command": f"python benchmarks/objectives.py {' '.join(sys.argv[1:])}",
                "date": datetime.date.today().isoformat(),
                "hardware": f"{processor()}, {len(cores)} cores",
                "versions": done[0][1]["versions"],
                "retrieval": results,
                "summaries": summaries,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
