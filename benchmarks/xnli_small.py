"""What a model of minutes learns of XNLI: fine-tuned on most of XNLI's English dev set, scored on its test set.

    make quickstart
    python benchmarks/xnli_small.py --data XNLI-1.0 --init runs/quickstart --seeds 3 --jobs 2 \
        --output benchmarks/results/xnli_small.json

--data is the published folder, with xnli.dev.tsv and xnli.test.tsv. The English dev rows are divided: the first 2,001
(whole premises, of which each has three hypotheses) are trained on, the other 489 select the checkpoint. Each seed is
run from the parameters of --init and once more from scratch, with the same model, tokenizer and steps. Chance: 33.3 %.
Every run is `configs/finetune/xnli.py:size=tiny` in its own process. Prints accuracy on test (percent, mean and range
over seeds) and writes it with hardware, versions and date. Finished runs in --workdir are not run again.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import subprocess
import sys
from statistics import mean

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from machine import ROOT, processor

TRAINED = 2001  # of the dev set's English rows
VARIANTS = {"pre-trained": (), "from scratch": ("--config.init.params=",)}


def divide(data: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes train.tsv and dev.tsv of the English dev rows."""
    header, *rows = (data / "xnli.dev.tsv").read_text("utf-8").splitlines()
    english = [row for row in rows if row.startswith("en\t")]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", english[:TRAINED]), ("dev", english[TRAINED:])):
        (folder / f"{name}.tsv").write_text("\n".join([header, *part]) + "\n", "utf-8")


def run(name: str, seed: int, arguments: argparse.Namespace, parts: pathlib.Path, cores: set[int]) -> dict:
    """One run's summary, with its test accuracies; its output goes to a log beside its directory."""
    target = arguments.workdir / f"{name.replace(' ', '-')}-{seed}"
    command = [
        sys.executable,
        "-m",
        "ernie_m_jax.main",
        f"--config=configs/finetune/xnli.py:size=tiny,seed={seed},init={arguments.init}",
        f"--workdir={target}",
        f"--config.objectives.xnli.train={parts / 'train.tsv'}",
        f"--config.objectives.xnli.dev={parts / 'dev.tsv'}",
        f"--config.objectives.xnli.test={arguments.data / 'xnli.test.tsv'}",
        "--config.objectives.xnli.languages=en",
        "--config.evals.dev.every=100",
        *VARIANTS[name],
    ]
    with target.with_suffix(".log").open("w") as log:
        subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=log, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
    return json.loads((target / "summary.json").read_text())


def table(results: dict[str, list[float]]) -> str:
    """A Markdown table of the test accuracies."""
    lines = ["| start | XNLI test, en |", "| --- | --- |"]
    lines += [f"| {name} | {mean(v):.1f} ({min(v):.1f}-{max(v):.1f}) |" for name, v in results.items()]
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of XNLI-1.0")
    parser.add_argument("--init", type=pathlib.Path, required=True, help="a run or model of this project")
    parser.add_argument("--seeds", type=int, default=3, help="runs per start, seeds 0, 1, ...")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "xnli_small")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    arguments = parser.parse_args()
    for name in ("data", "init", "workdir"):
        setattr(arguments, name, getattr(arguments, name).absolute())
    parts = arguments.workdir / "data"
    divide(arguments.data, parts)
    cores = sorted(os.sched_getaffinity(0))
    shares = [set(cores[job :: arguments.jobs]) for job in range(arguments.jobs)]
    tasks = [(name, seed) for seed in range(arguments.seeds) for name in VARIANTS]

    def work(job: int) -> list[tuple[str, dict]]:
        return [(name, run(name, seed, arguments, parts, shares[job])) for name, seed in tasks[job :: arguments.jobs]]

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        done = [pair for pairs in pool.map(work, range(arguments.jobs)) for pair in pairs]
    summaries = {name: [summary for other, summary in done if other == name] for name in VARIANTS}
    results = {
        name: [summary["stages"]["finetune"]["evals"]["xnli"]["test/en/accuracy"] for summary in runs]
        for name, runs in summaries.items()
    }
    print(table(results))
    arguments.output.write_text(
        json.dumps(
            {
                "command": f"python benchmarks/xnli_small.py {' '.join(sys.argv[1:])}",
                "date": datetime.date.today().isoformat(),
                "hardware": f"{processor()}, {len(cores)} cores",
                "versions": done[0][1]["versions"],
                "test_accuracy": results,
                "summaries": summaries,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
