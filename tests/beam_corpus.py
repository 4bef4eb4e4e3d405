"""A small corpus with repeated lines, the command that prepares it on Beam, and what must come out of it."""

import gzip
import subprocess
import sys

import numpy as np

from ernie_m_jax.data import objects, prepared
from tests.command import ROOT

LANGUAGES = ("en", "de")
JOIN = 200
LINES = 240  # of each file
WORDS = ("ein", "wort", "the", "file", "opens", "schließt", "Datei", "nicht", "found", "again", "7", "€")
# A config of two objectives with lines as they are and joined, and pairs; sources of three formats.
CONFIG = """
from configs import base


def get_config():
    config = base.get_config()
    config.languages = {languages}
    config.model.update(base.model("tiny"))
    config.model.vocab_size = 1000
    config.tokenizer.path = "{tokenizer}"
    config.data.monolingual.lines = base.source("{folder}/{{language}}.txt")
    config.data.monolingual.more = base.source("{folder}/more.tsv.gz")
    config.data.parallel.pairs = base.source("{folder}/{{pair}}.{{language}}", format="moses")
    config.objectives.mmlm.join_to_characters = {join}
    config.stages.one = base.stage(steps=3, warmup_steps=1, weights={{"mmlm": 1.0, "btmlm": 1.0, "tlm": 1.0}})
    config.data.sequence_length = 64
    config.data.virtual_streams = 4
    config.train.batch_size = 8
    return config
"""


def sentences(rng, count):
    return [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(count)]


def write(folder, tokenizer, lines=LINES):
    """Writes text, in which many lines stand twice, and its config; the raw lines by language and pair, in order."""
    rng = np.random.default_rng(7)
    raw = {}
    for language in LANGUAGES:
        raw[language] = [f"  {line}" if number % 5 else "" for number, line in enumerate(sentences(rng, lines))]
        (folder / f"{language}.txt").write_text("\n".join(raw[language]) + "\n", "utf-8")
    columns = [sentences(rng, lines // 4) for _ in LANGUAGES]
    with gzip.open(folder / "more.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\t".join(LANGUAGES) + "\n" + "".join(f"{a}\t{b}\n" for a, b in zip(*columns, strict=True)))
    for language, column in zip(LANGUAGES, columns, strict=True):
        raw[language] += column
    sides = [[line if number % 7 else " " for number, line in enumerate(sentences(rng, lines))] for _ in LANGUAGES]
    for language, side in zip(LANGUAGES, sides, strict=True):
        (folder / f"en-de.{language}").write_text("\n".join(side * 2), "utf-8")
    raw["en-de"] = list(zip(*[side * 2 for side in sides], strict=True))
    config = CONFIG.format(folder=folder, tokenizer=tokenizer, languages=LANGUAGES, join=JOIN)
    (folder / "config.py").write_text(config)
    return raw


def command(folder, output, *more, workers=1):
    """The command; parts of a kilobyte, so that there are many."""
    many = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"] if workers > 1 else []
    started = [sys.executable, "-m", "ernie_m_jax.data.prepare", "corpus", f"--config={folder / 'config.py'}"]
    runner = [] if any(str(flag).startswith("--runner") for flag in more) else ["--runner=DirectRunner"]
    return [*started, f"--output={output}", *runner, "--shard_megabytes=0.001", *many, *map(str, more)]


def call(*arguments, status=0, env=None, **keys):
    """Runs the command to its end."""
    done = subprocess.run(
        command(*arguments, **keys), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done


def content(folder):
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ids(folder, start):
    """The records, as lists of ids, of each shard of a file whose name starts so, in the order of their numbers."""
    names = sorted(name for name in prepared.manifest(str(folder)).files if name.startswith(start))
    files = [objects.ArrayRecords(str(folder / name)) for name in names]
    return [[np.frombuffer(file.content(row), "<u4").tolist() for row in range(len(file))] for file in files]


def kept(raw):
    """What is to be stored of raw lines or pairs: without blank ones and those that stood before."""
    found = []
    for line in raw:
        line = line.strip() if isinstance(line, str) else tuple(side.strip() for side in line)
        if all([line] if isinstance(line, str) else line):
            found.append(line)
    return list(dict.fromkeys(found))
