"""The paper's claim in small: the arms of `ablation_arms.py` side by side, on a corpus of `ablation_corpus.py`.

    python benchmarks/ablation.py --size study-cpu --corpus corpus --output ablation.json --jobs 2 --pin --measures \
        --seeds 1 --arms mmlm tlm camlm camlm+camlm camlm+btmlm
    python benchmarks/ablation.py --corpus bibles --output ablation.json --jobs 16 --minutes 9.5

Each arm is a run of `configs/pretrain/ablation.py:size=SIZE` in a process of its own, --jobs at a time; on one GPU the
processes share it, on a CPU --pin gives each its share of the cores. First all of the first phase, then those that
start from one of them. --minutes after the start what still runs is stopped, and counts as unfinished. Finished arms in
--workdir are not run again: a second call goes on after the first, or adds arms. Arguments that begin with --config. go
to every arm. Prints a row per group of arms, mean and range over seeds, and writes every number of every arm, with
hardware, versions and date.

Columns: "dev" and "test" are retrieval (percent, mean over all directions) at the layer that is best on dev, chosen arm
by arm; "last" is test at the last layer, "layers" its mean over all layers above the embeddings; "udhr" is another
domain's, at dev's layer, and so are the columns of --also. "margin" is test by margin scoring to and from English, at
the layer best on dev. "words" is CAMLM's accuracy on dev in percent, "text" MMLM's: how well words are restored from
the translation alone, and from their own sentence. With --measures those of `ablation_measures.py` come with each arm;
the table shows some: "centred" test retrieval; "transfer" of a task learned in English to the other languages; of the
written tokens F1, chrF and what the real translation and the own pseudo tokens take off the loss of the masked source
("true gain", "own gain").
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import ablation_arms
import ablation_runner
import ablation_table
from machine import ROOT, processor


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(ablation_runner.SIZES), default="study", help="of model and corpus")
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder that ablation_corpus.py wrote")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of the results")
    parser.add_argument("--arms", nargs="+", default=[], help="groups to run, with what they start from; none: all")
    parser.add_argument("--seeds", type=int, default=0, help="of every group; 0: as many as ablation_arms.py says")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    parser.add_argument("--pin", action="store_true", help="give each job its share of the cores")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which what still runs is stopped")
    parser.add_argument("--measures", action="store_true", help="measure more, with ablation_measures.py")
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=PATH", help="more retrieval sets: a TSV with a "
                        "column per language, or a path with {pair} and {language} for a file per side")  # fmt: skip
    parser.add_argument("--stage1-steps", type=int, default=-1, help="of an arm of the first phase; -1: the size's")
    parser.add_argument("--stage2-steps", type=int, default=-1, help="of the second; 0: what the time left holds")
    arguments, flags = parser.parse_known_args()
    if wrong := [flag for flag in flags if not flag.startswith("--config.")]:
        parser.error(f"unknown arguments: {' '.join(wrong)}")
    if wrong := [item for item in arguments.also if not item.partition("=")[2]]:
        parser.error(f"--also {wrong[0]}: expected NAME=PATH")
    try:
        arms = ablation_arms.chosen(arguments.arms, arguments.seeds)
    except ValueError as error:
        parser.error(str(error))
    usual = ablation_runner.SIZES[arguments.size]
    first = usual[0] if arguments.stage1_steps < 0 else arguments.stage1_steps
    second = usual[1] if arguments.stage2_steps < 0 else arguments.stage2_steps or first
    runner = ablation_runner.Runner(arguments, {"first": first, "second": second}, flags)
    begun, found, failed = time.monotonic(), {}, {}
    for starts in (False, True):
        timed = [arm for arm in found.values() if arm["stage"]["steps"] > 1]
        if starts and not arguments.stage2_steps and timed:
            runner.fit_second(timed)
        for arm, problem in ablation_runner.phase(
            runner, [arm for arm in arms if bool(arm.start) == starts], arguments.jobs
        ):
            print(f"{time.monotonic() - begun:6.0f} s {arm.name}: {problem or 'finished'}", flush=True)
            if problem:
                failed[arm.name] = problem
            else:
                found[arm.name] = ablation_table.numbers(arguments.workdir, arm)
            _write(arguments, found, failed)
        print(ablation_table.table(found, arms), flush=True)


def _write(arguments: argparse.Namespace, found: Mapping[str, Any], failed: Mapping[str, str]) -> None:
    """Writes the results so far: after each arm, for what comes after may not be reached."""
    record = {
        "command": f"python benchmarks/ablation.py {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "unfinished": failed,
        "arms": found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
