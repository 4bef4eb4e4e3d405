"""Zero-shot transfer by fine-tuning: arms of `ablation.py` learn a labelled task in English, tried in other languages.

    python benchmarks/ablation_finetuned.py --data corpus --arms runs/messages --workdir runs/groups --jobs 2 \
        --output groups.json --seeds 3 --groups mmlm tlm camlm

--data is the messages' corpus, --arms the folder of the finished arms. Fine-tunes each with the task of
`ablation_groups.py`, a process and a share of the cores each, prints a row per group, accuracy in percent in English
and the mean of the other languages with their range over seeds, and writes every number. Finished ones are kept.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
from statistics import mean
from typing import Any

import small_runs
from ablation_corpus import write_table
from ablation_groups import LANGUAGES
from ablation_measures import table

PARTS = ("train", "dev", "test")


def write_files(corpus: pathlib.Path, folder: pathlib.Path) -> None:
    """A table of pairs per part and language, as classifying pairs reads them; the second sentence says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = table(corpus / "labelled" / f"{part}.tsv")
        for language in LANGUAGES:
            pairs = zip(rows[language], rows["label"], strict=True)
            written = ({"sentence1": text, "sentence2": "-", "label": label} for text, label in pairs)
            write_table(folder / f"{part}-{language}.tsv", ("sentence1", "sentence2", "label"), written)


def accuracies(run: pathlib.Path) -> dict[str, float]:
    """Of both sets in English and, as a mean, in the other languages; percent."""
    found = json.loads((run / "finetune" / "summary.json").read_text("utf-8"))["evals"]["groups"]
    return {
        f"{part}_{name}": mean(found[f"{part}/{language}/accuracy"] for language in languages)
        for part in ("dev", "test")
        for name, languages in (("en", LANGUAGES[:1]), ("others", LANGUAGES[1:]))
    }


def run(arguments: argparse.Namespace, arm: str, cores: "queue.SimpleQueue[set[int]]") -> dict[str, Any]:
    """What an arm reaches, once it is fine-tuned."""
    mine = cores.get()
    try:
        os.sched_setaffinity(0, mine)  # of this thread, and of the process that it starts
        argument = f"init={arguments.arms.absolute() / arm},data={(arguments.workdir / 'data').absolute()}"
        config = f"benchmarks/ablation_groups.py:{argument},seed={arm.rpartition('-')[2]}"
        summary = small_runs.run(config, workdir := arguments.workdir.absolute() / arm, ())
        return {**accuracies(workdir), "seconds": summary["process"]["wall_seconds"], "versions": summary["versions"]}
    finally:
        cores.put(mine)


def cell(values: list[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    """Fine-tunes, prints and writes."""
    parser = small_runs.parser(__doc__)
    parser.add_argument("--arms", type=pathlib.Path, required=True, help="folder of the arms' runs")
    parser.add_argument("--groups", nargs="+", required=True, help="of arms, as `ablation_arms.py` names them")
    parser.add_argument("--seeds", type=int, default=3, help="of every group, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    arguments = parser.parse_args()
    names = {group: [f"{group}-{seed}" for seed in range(arguments.seeds)] for group in arguments.groups}
    arms = [arm for members in names.values() for arm in members]
    if missing := [arm for arm in arms if not (arguments.arms / arm / "summary.json").exists()]:
        parser.error(f"not finished in {arguments.arms}: {', '.join(missing)}")
    write_files(arguments.data, arguments.workdir / "data")
    cores: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    every = sorted(os.sched_getaffinity(0))
    for job in range(arguments.jobs):
        cores.put(set(every[job % len(every) :: arguments.jobs]))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        found = dict(zip(arms, pool.map(lambda arm: run(arguments, arm, cores), arms), strict=True))
    small_runs.write(
        arguments, "ablation_finetuned.py", found[arms[0]]["versions"],
        arms={arm: {key: value for key, value in one.items() if key != "versions"} for arm, one in found.items()},
    )  # fmt: skip
    print("| arms | English | others |\n| --- | --- | --- |")
    for group, members in names.items():
        cells = [cell([found[arm][f"test_{name}"] for arm in members]) for name in ("en", "others")]
        print(f"| {group} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
