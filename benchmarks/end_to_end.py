"""A whole training run from stored token ids beside the same step on synthetic batches: what the input path costs.

    python benchmarks/end_to_end.py --text 'corpus/pairs-05/text/{language}.txt.gz' --languages en,de,fr,ru,zh,hi \
        --tokenizer corpus/tokenizer --workdir runs/end_to_end --steps 1000 --output end_to_end.json

The tokenizer is padded with entries that no text uses to the released models' 250,002, so that the step is theirs
whatever the corpus; the ids are stored once (`ernie_m_jax.data.prepare corpus`). Then `step_speed.py` times the step
and `ernie_m_jax.main` trains MMLM for --steps: same size, rows, length and kernels. Prints tokens a second of both,
after the run's first quarter, and the share of the time that the devices waited for data. Arguments that begin with
--config. go to the run, for instance --config.data.workers=4. What was prepared in --workdir is used again.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
VOCABULARY = 250_002
CONFIG = "configs/pretrain/stage1.py"


def padded(tokenizer: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a tokenizer with entries that no text uses, up to `VOCABULARY`."""
    shutil.copytree(tokenizer, folder)
    words = (folder / "vocab.txt").read_text("utf-8").splitlines()
    words[-1:-1] = [f"[unused{number}]" for number in range(VOCABULARY - len(words))]  # [MASK] stays the last
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    return folder


def data_flags(arguments: argparse.Namespace) -> list[str]:
    """The corpus as text, for storing its ids."""
    return [
        f"--config.languages={arguments.languages}",
        f"--config.data.sequence_length={arguments.length}",
        f"--config.data.monolingual.text.path={arguments.text}",
        "--config.stages.stage1.weights={'mmlm': 1.0}",
        f"--config.tokenizer.path={arguments.workdir / 'tokenizer'}",
    ]


def prepare(arguments: argparse.Namespace) -> pathlib.Path:
    """Stores the ids, unless they are there."""
    ids = arguments.workdir / "ids"
    if not ids.exists():
        arguments.workdir.mkdir(parents=True, exist_ok=True)
        padded(arguments.tokenizer, arguments.workdir / "tokenizer")
        command(
            "ernie_m_jax.data.prepare",
            "corpus",
            f"--config={CONFIG}:size={arguments.size}",
            f"--output={ids}",
            *data_flags(arguments),
        )
    return ids


def command(module: str, *arguments: str) -> None:
    """Runs a module of the project, whose output is shown."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


def synthetic(arguments: argparse.Namespace) -> dict[str, Any]:
    """The step alone, by `step_speed.py`."""
    kernels = f"attention={arguments.attention},norm={arguments.norm}"
    shape = f"size={arguments.size},length={arguments.length},rows={arguments.rows}"
    out = arguments.workdir / "step_speed.json"
    variant = f"{shape},{kernels},scan=0,keep=1,dtype={arguments.dtype}"
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/step_speed.py"), "--output", str(out), variant], cwd=ROOT, check=True
    )
    return json.loads(out.read_text())


def train(arguments: argparse.Namespace, ids: pathlib.Path, flags: list[str]) -> list[dict[str, Any]]:
    """Trains from the ids; the lines of the run's metrics that have a timing."""
    run = arguments.workdir / "run"
    shutil.rmtree(run, ignore_errors=True)
    command(
        "ernie_m_jax.main",
        f"--config={CONFIG}:size={arguments.size}",
        f"--workdir={run}",
        *data_flags(arguments),
        "--config.data.monolingual.text.path=",
        f"--config.data.monolingual.ids.path={ids}",
        f"--config.train.batch_size={arguments.rows}",
        "--config.train.grad_accumulation_steps=1",
        "--config.train.save_every=0",
        "--config.train.log_every=25",
        f"--config.stages.stage1.steps={arguments.steps}",
        f"--config.stages.stage1.warmup_steps={min(50, arguments.steps)}",
        f"--config.compute.dtype={arguments.dtype}",
        f"--config.compute.attention={arguments.attention}",
        f"--config.compute.layer_norm={arguments.norm}",
        "--config.compute.remat=none",
        "--config.compute.scan_layers=False",
        "--config.compute.keep_logits=True",
        "--config.compute.vocab_chunk=16384",
        "--config.evals={}",
        *flags,
    )
    lines = map(json.loads, (run / "stage1" / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "timing" in line]


def main() -> None:
    """Both, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="monolingual text, with {language} in its path")
    parser.add_argument("--languages", required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--size", default="base")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--attention", default="flash")
    parser.add_argument("--norm", default="fused")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only-prepare", action="store_true")
    arguments, flags = parser.parse_known_args()
    arguments.workdir = arguments.workdir.absolute()
    ids = prepare(arguments)
    if arguments.only_prepare:
        return
    step = synthetic(arguments)
    (alone,) = step["results"]
    lines = train(arguments, ids, flags)
    timed = [line["timing"] for line in lines][len(lines) // 4 :]
    speed = statistics.median(timing["tokens_per_second"] for timing in timed)
    waited = statistics.mean(timing["data_wait"] for timing in timed)
    print(
        f"synthetic {alone['tokens_per_second']:.0f} tokens/s; whole run {speed:.0f}, "
        f"{100 * speed / alone['tokens_per_second']:.1f} % of it; waiting for data {100 * waited:.2f} % of the time",
        flush=True,
    )
    record = {
        "command": f"python benchmarks/end_to_end.py {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "synthetic": step,
        "run": {"tokens_per_second": speed, "data_wait": waited, "windows": [line["timing"] for line in lines]},
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
