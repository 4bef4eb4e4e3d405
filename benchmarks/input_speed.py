"""How fast the host makes batches: tokens per CPU second of records, tokenizer, masking, packing and batch together.

    python benchmarks/input_speed.py --output benchmarks/results/input_speed.json

One process, timed in processor time, so other work on the machine does not count. The bundled messages in four
languages, rows of 256 tokens, a tokenizer of 5,000 entries trained on them; each objective from text and from stored
ids (`python -m ernie_m_jax.data.prepare corpus`): MMLM and BTMLM with lines as they are (about 15 tokens), MMLM also
joined to 2,000 characters and to about four rows. A real token is one that is not padding; the fill is their share.
Where the time goes is a profile by module of the same batches, whose instrumentation slows small functions more.
--workers=N times the wall clock of N worker processes too, which tells something only where as many cores are idle.
Prints a table and writes it with hardware, versions and date.
"""

import argparse
import contextlib
import cProfile
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import pstats
import tempfile
import time
from collections import Counter

from machine import processor

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax import tokenizer
from ernie_m_jax.data import loader, mixture

LANGUAGES = ("en", "de", "fr", "ru")
CASES = {
    "mmlm joined": ("mmlm", {"join_to_characters": 2000}),
    "mmlm to 4 rows": ("mmlm", {"join_to_characters": 4096}),
    "mmlm short lines": ("mmlm", {}),
    "tlm": ("tlm", {}),
    "camlm": ("camlm", {}),
    "btmlm": ("btmlm", {}),
}
VOCABULARY = 5000
BATCH = 64  # rows


def config_of(objective, keys, ids="", tokenizer_path="", workers=0):
    """The config of one case; with `ids` from the stored ids of that folder."""
    tree = base.get_config()
    tree.languages = LANGUAGES
    tree.model.update(base.model("tiny"))
    tree.model.vocab_size = VOCABULARY
    tree.data.monolingual.text = base.source(ids or "corpus:diagnostics/mono")
    tree.data.parallel.text = base.source(ids or "corpus:diagnostics/pairs")
    tree.data.workers = workers
    tree.tokenizer.path = tokenizer_path
    tree.objectives[objective].update(keys)
    tree.stages.one = base.stage(steps=1, warmup_steps=0, weights={objective: 1.0})
    tree.train.batch_size = BATCH
    tree.evals = {}
    return configs.resolve(tree)


def opened(config, objective, model):
    """A loader of the objective."""
    task = tasks.bind(config, objective)
    return contextlib.closing(loader.Loader(task, model, task.records(mixture.Sources(config))))


def real(batch):
    """Tokens of a batch that are not padding."""
    return int((batch["segments"] > 0).sum())


def timed(config, objective, model, seconds, clock):
    """Real tokens per second of a clock, once the first batches are made, and their share of all tokens."""
    # A packer delivers all of its rows at once: only between such times is as much work done as comes out.
    filled = config.data.virtual_streams * config.data.packing_bins // BATCH
    with opened(config, objective, model) as source:
        for _ in range(filled + 1):
            next(source)
        tokens, batches, begun, end = 0, 0, clock(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            tokens += sum(real(next(source)) for _ in range(filled))
            batches += filled
        return tokens / (clock() - begun), tokens / (batches * BATCH * config.data.sequence_length)


def profile(config, objective, model, rows=300):
    """Share of the time by module, the largest first."""
    with opened(config, objective, model) as source:
        stream = iter(source.rows(0))
        for _ in range(70):
            next(stream)
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(rows):
            next(stream)
        profiler.disable()
    shares = Counter()
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():
        path = pathlib.Path(file)
        inside = "ernie_m_jax" in path.parts
        shares["/".join(path.parts[-2:]) if inside else path.parts[0] + " " + name if file == "~" else path.stem] += own
    whole = sum(shares.values())
    return {name: round(share / whole, 3) for name, share in shares.most_common(8)}


def main():
    """Measures every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=0, help="also with 1 to so many worker processes, wall clock")
    parser.add_argument("--text_only", action="store_true", help="leave the stored ids out")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--output", help="JSON file")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        texts = mixture.Sources(config_of("tlm", {})).texts()
        model = tokenizer.train(texts, VOCABULARY, os.path.join(folder, "tokenizer"))
        for case, (objective, keys) in CASES.items():
            path = os.path.join(folder, case.replace(" ", "-"))
            kinds = {"text": config_of(objective, keys, "", os.path.join(folder, "tokenizer"))}
            if not args.text_only:
                from ernie_m_jax.data import preparation_corpus

                with contextlib.redirect_stdout(None):
                    preparation_corpus.corpus(kinds["text"], "benchmarks/input_speed.py", path)
                kinds["ids"] = config_of(objective, keys, path, os.path.join(folder, "tokenizer"))
            for kind, config in kinds.items():
                speed, fill = timed(config, objective, model, args.seconds, time.process_time)
                row = {"tokens_per_cpu_second": round(speed), "fill": round(fill, 4)}
                row["profile"] = profile(config, objective, model)
                for workers in range(1, args.workers + 1):
                    several = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
                    speed, _ = timed(several, objective, model, args.seconds, time.perf_counter)
                    row[f"tokens_per_second_{workers}_workers"] = round(speed)
                found.setdefault(case, {})[kind] = row
                shown = "  ".join(f"{name} {value:,}" for name, value in row.items() if name != "profile")
                print(f"{case:18}{kind:6}{shown}", flush=True)
                if args.profile:
                    print("   ", ", ".join(f"{name} {share:.0%}" for name, share in row["profile"].items()), flush=True)
    if args.output:
        versions = {name: importlib.metadata.version(name) for name in ("numpy", "grain", "sentencepiece")}
        tree = {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "versions": versions,
            "cases": found,
        }
        pathlib.Path(args.output).write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    main()
