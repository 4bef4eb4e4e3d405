"""Named entities without a released model: CoNLL in one language, from its training file alone, in minutes.

    python benchmarks/conll_small.py --data conll --language es --workdir runs/conll_small --seeds 1 \
        --output benchmarks/results/conll_small.json

--data is the folder of the shared task's files: CODE.train, CODE.testa and CODE.testb. MMLM on the training file's
sentences, without their tags, gives the parameters that `configs/finetune/conll.py:size=tiny` starts from; its
docstring has the same two commands. testa selects the checkpoint; training does not open testb, which is scored once,
afterwards. Prints F1 on both (conlleval's over words, and over pieces) and each seed's minutes, both trainings from
start to end, and writes them with hardware, versions and date. Nothing in here is of one language.
"""

import csv
import pathlib
import subprocess
import sys
from statistics import mean

import small_runs

from ernie_m_jax.data import tagged

PRETRAINING = (
    "--config.model.vocab_size=4000",
    "--config.model.initializer_range=0.08",
    "--config.objectives.mmlm.mask_ratio=0.3",
    "--config.data.parallel.pairs.path=",
    "--config.stages.stage1.weights.tlm=0",
    "--config.stages.stage1.weights.camlm=0",
    "--config.stages.stage1.learning_rate=2e-3",
    "--config.stages.stage1.warmup_steps=100",
    "--config.stages.stage1.steps=2500",
    *small_runs.SINGLE,
)


def write_text(data: pathlib.Path, language: str, path: pathlib.Path) -> None:
    """Writes the training file's sentences, one per line, words between spaces."""
    types = ("PER", "ORG", "LOC", "MISC")
    records = tagged.open_tagged(str(data), "train", (language,), types)[language]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{records[index].texts[0]}\n" for index in range(len(records))), "utf-8")


def run(seed: int, data: pathlib.Path, language: str, workdir: pathlib.Path) -> dict[str, dict]:
    """The summaries of pre-training and fine-tuning with a seed."""
    before = workdir / f"pretrained-{language}-{seed}"
    pretraining = small_runs.run(
        "configs/pretrain/stage1.py:size=tiny",
        before,
        [
            f"--config.seed={seed}",
            f"--config.languages={language}",
            f"--config.data.monolingual.text.path={workdir}/text/{{language}}.txt",
            *PRETRAINING,
        ],
    )
    finetuning = small_runs.run(
        f"configs/finetune/conll.py:size=tiny,seed={seed},init={before}",
        workdir / f"finetuned-{language}-{seed}",
        [
            f"--config.languages={language}",
            f"--config.objectives.conll.train={data}",
            f"--config.objectives.conll.dev={data}",
            "--config.objectives.conll.test=",
            f"--config.objectives.conll.train_languages={language}",
            "--config.evals.conll.splits=dev",
            *small_runs.SINGLE,
        ],
    )
    return {"pre-training": pretraining, "fine-tuning": finetuning}


def score(workdir: pathlib.Path, data: pathlib.Path) -> dict[str, float]:
    """The selected checkpoint's scores on dev and test, "test word_f1" and the like."""
    command = [sys.executable, "-m", "ernie_m_jax.main", f"--workdir={workdir}", "--mode=evaluate"]
    command += [f"--config.objectives.conll.test={data}", "--config.evals.conll.splits=dev,test"]
    with workdir.with_suffix(".evaluation.log").open("w") as log:
        subprocess.run(command, cwd=small_runs.ROOT, stdout=log, stderr=log, check=True)
    with (workdir / "evaluation" / "conll.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    return {row[0]: float(row[1]) for row in rows}


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = small_runs.parser(__doc__)
    parser.add_argument("--language", default="es", choices=tuple(tagged.CODES))
    parser.add_argument("--seeds", type=int, default=3, help="runs, seeds 0, 1, ...")
    arguments = parser.parse_args()
    workdir = arguments.workdir.absolute()
    write_text(arguments.data.absolute(), arguments.language, workdir / "text" / f"{arguments.language}.txt")
    runs = [run(seed, arguments.data.absolute(), arguments.language, workdir) for seed in range(arguments.seeds)]
    scores = [
        score(workdir / f"finetuned-{arguments.language}-{seed}", arguments.data.absolute())
        for seed in range(arguments.seeds)
    ]
    results = {name: [found[name] for found in scores] for name in scores[0]}
    results["minutes"] = [sum(part["process"]["wall_seconds"] for part in one.values()) / 60 for one in runs]
    print(f"| {arguments.language}, {arguments.seeds} seeds | mean | range |\n| --- | --- | --- |")
    for name, values in results.items():
        print(f"| {name} | {mean(values):.2f} | {min(values):.2f}-{max(values):.2f} |")
    small_runs.write(arguments, "conll_small.py", runs[0]["fine-tuning"]["versions"], **results, runs=runs)


if __name__ == "__main__":
    main()
