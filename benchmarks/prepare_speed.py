r"""What `prepare corpus` takes at two sizes of text: seconds and memory on Beam's local workers, or in one process.

    PYTHONPATH=. python benchmarks/prepare_speed.py --megabytes 50,200 \
        --output benchmarks/results/prepare_speed.json

Makes text of random words, in two languages and pairs of them (40, 40 and 20 % of the bytes; a tenth of the lines
stand twice), with a tokenizer of 8,000 entries, and runs the command on it in shards of 4 MB. Memory is the largest sum
of the resident sizes of the command's processes, read from /proc every fifth of a second: all of it, and what is no
page of a file ("own": a page of a mapped file may be dropped, and counts in every process that maps it). Prints a table
and writes it with hardware, versions and date.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from machine import processor

from ernie_m_jax import tokenizer

ROOT = pathlib.Path(__file__).parents[1]
LANGUAGES = ("en", "de")
VOCABULARY = 8000
SHARD_MEGABYTES = 4
LETTERS = {"en": "abcdefghijklmnopqrstuvwxyz", "de": "abcdefghijklmnopqrstuvwxyzäöüß"}
CONFIG = """
from configs import base


def get_config():
    config = base.get_config()
    config.languages = {languages}
    config.model.update(base.model("tiny"))
    config.model.vocab_size = {vocabulary}
    config.tokenizer.path = "{folder}/tokenizer"
    config.data.monolingual.lines = base.source("{folder}/{{language}}.txt")
    config.data.parallel.pairs = base.source("{folder}/{{pair}}.{{language}}", format="moses")
    config.objectives.mmlm.join_to_characters = 2000
    config.stages.one = base.stage(steps=3, warmup_steps=1, weights={{"mmlm": 1.0, "tlm": 1.0}})
    return config
"""


def words(language, rng, count=30_000):
    """Random words, the shorter the more frequent."""
    letters = list(LETTERS[language])
    return np.array(["".join(rng.choice(letters, 2 + min(number // 100, 9))) for number in range(count)], object)


def write_lines(path, vocabulary, size, rng):
    """Lines of random words until `size` bytes are written; a tenth of them stand twice."""
    weights = 1 / np.arange(10, len(vocabulary) + 10)
    edges = np.cumsum(weights / weights.sum())
    written = 0
    with path.open("wb") as file:
        while written < size:
            drawn = vocabulary[np.minimum(np.searchsorted(edges, rng.random(20_000)), len(vocabulary) - 1)]
            lines = [" ".join(part) for part in np.split(drawn, np.sort(rng.choice(20_000, 1500, replace=False)))]
            block = ("\n".join([*lines, *lines[::10]]) + "\n").encode()
            file.write(block)
            written += len(block)


def write(folder, megabytes):
    """The text, its tokenizer and its config."""
    rng = np.random.default_rng(0)
    known = {language: words(language, rng) for language in LANGUAGES}
    for language in LANGUAGES:
        write_lines(folder / f"{language}.txt", known[language], megabytes * 400_000, rng)
        write_lines(folder / f"en-de.{language}", known[language], megabytes * 100_000, rng)
    sides = [(folder / f"en-de.{language}").read_text("utf-8").splitlines() for language in LANGUAGES]
    for language, side in zip(LANGUAGES, sides, strict=True):  # as many lines in both
        (folder / f"en-de.{language}").write_text("\n".join(side[: min(map(len, sides))]) + "\n", "utf-8")
    sample = [line for side in sides for line in side[:10_000]]
    tokenizer.train(sample, VOCABULARY, folder / "tokenizer")
    (folder / "config.py").write_text(CONFIG.format(folder=folder, languages=LANGUAGES, vocabulary=VOCABULARY))


def family(pid):
    """A process and all that it started."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        with contextlib.suppress(OSError):
            for task in pathlib.Path(f"/proc/{found[-1]}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return found


def resident(pid):
    """Resident bytes of a process and of those what is no page of a file."""
    with contextlib.suppress(OSError):
        fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        return np.array(
            [int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon") if name in fields] or [0, 0]
        )
    return np.zeros(2, int)


def timed(folder, flags):
    """Seconds of the command, its largest memory (all, own) and what it says."""
    command = [sys.executable, "-m", "ernie_m_jax.data.prepare", "corpus", f"--config={folder / 'config.py'}"]
    begun, most = time.perf_counter(), np.zeros(2, int)
    with tempfile.TemporaryDirectory(dir=folder) as output, (folder / "said").open("w") as said:
        process = subprocess.Popen([*command, f"--output={output}/ids", *flags], cwd=ROOT, stdout=said, stderr=said)
        while process.poll() is None:
            most = np.maximum(most, sum(map(resident, family(process.pid))))
            time.sleep(0.2)
        said_lines = (folder / "said").read_text().splitlines()
        if process.returncode:
            raise RuntimeError("\n".join(said_lines[-5:]))
    return time.perf_counter() - begun, most, [line for line in said_lines if ".array_record: " in line]


def main():
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", default="50,200", help="of text, comma-separated")
    parser.add_argument("--workers", type=int, default=2, help="Beam's")
    parser.add_argument("--one_process", action="store_true", help="also without Beam")
    parser.add_argument("--output", help="JSON file")
    args = parser.parse_args()
    beam = ["--runner=DirectRunner", f"--shard_megabytes={SHARD_MEGABYTES}", f"--direct_num_workers={args.workers}"]
    ways = {f"Beam, {args.workers} workers": [*beam, "--direct_running_mode=multi_processing"]}
    if args.one_process:
        ways["one process"] = []
    found = []
    for megabytes in map(int, args.megabytes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write(folder, megabytes)
            for way, flags in ways.items():
                seconds, most, said = timed(folder, flags)
                all_, own = (most / 1e6).round().astype(int).tolist()
                found.append({"megabytes": megabytes, "way": way, "seconds": round(seconds, 1)})
                found[-1] |= {"resident_megabytes": all_, "own_megabytes": own, "said": said}
                print(
                    f"{megabytes:4} MB  {way:16} {seconds:7.1f} s  {all_:6,} MB resident, {own:6,} MB own", flush=True
                )
    if args.output:
        versions = {name: importlib.metadata.version(name) for name in ("apache-beam", "numpy", "sentencepiece")}
        tree = {"date": datetime.date.today().isoformat(), "processor": processor(), "cores": os.cpu_count()}
        pathlib.Path(args.output).write_text(
            json.dumps({**tree, "versions": versions, "cases": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
