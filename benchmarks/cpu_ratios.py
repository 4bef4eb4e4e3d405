"""Our steps on a CPU beside Hugging Face's in PyTorch, in pairs: forward, fine-tuning, masked language model.

    python benchmarks/cpu_ratios.py --peer_python venv-torch/bin/python --output benchmarks/results/cpu_ratios.json

Base, 16 rows of 128 tokens, fp32, dropout 0.1 while training, random weights, a vocabulary of 250,002. Each side of a
pair is a process of its own; they take turns on the same cores, one warm-up and then `--pairs` steps each, and what
counts is the median of the pairs' ratios, which a machine that is slower for a while does not move. `--peer_python` is
a Python with torch and transformers; without it only our own ratios are measured. Peak memory is the process's, with
its framework. Steps:

    forward        hidden states of all tokens, no gradient                   XLMRobertaModel, SDPA
    finetune       a classification step of 3 classes with AdamW              XLMRobertaForSequenceClassification
    mlm            a masked-LM step; logits of the 15 % that are scored,      the same positions gathered before lm_head
                   kept for the backward pass, as PyTorch keeps them
    mlm_all        our step with every position scored                        (none: beside our mlm)

A ratio of ours to the peer's below 1 means that ours is faster; of all positions to the masked ones, how much it saves.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
ROWS, LENGTH = 16, 128
PAIRS = {"forward": ("ours", "peer"), "finetune": ("ours", "peer"), "mlm": ("ours", "peer"), "mlm_all": ("all", "ours")}


def our_step(kind: str) -> Callable[[], Any]:
    """A function that runs a step of ours to its end."""
    import flax.linen as nn
    import jax
    import numpy as np

    from benchmarks import step_variants
    from configs.finetune import xnli
    from ernie_m_jax import compiler, sharding
    from ernie_m_jax import config as configuration
    from ernie_m_jax import task as tasks
    from ernie_m_jax.data import batch as batches
    from ernie_m_jax.evaluation.runner import Evaluations
    from ernie_m_jax.model import FULL, Inputs
    from ernie_m_jax.task import IGNORE
    from ernie_m_jax.training import loop, stages

    if kind == "finetune":
        tree = xnli.get_config("size=base")
        tree.data.sequence_length, tree.data.virtual_streams, tree.data.packing_bins = LENGTH, 1, 1
        tree.objectives.xnli.max_length, tree.train.select = LENGTH, ""
        tree.train.batch_size, tree.train.grad_accumulation_steps, tree.evals = ROWS, 1, {}
        tree.compute.update(dtype="float32", remat="none", scan_layers=False)
        tree.stages.finetune.update(steps=1000, epochs=0.0)
        name = "xnli"
    else:
        keys = f"length={LENGTH},rows={ROWS},dtype=float32,dropout=0.1,attention=xla,norm=xla,scan=0,keep=1"
        tree = step_variants.tree_of(step_variants.variant(keys))
        name = "mmlm"
        if kind == "mlm_all":
            tree.objectives.mmlm.mask_ratio = 1.0
    config = configuration.resolve(tree)
    mesh = sharding.make_mesh(config.mesh)
    run = stages.Run(
        config, None, stages.make_model(config, mesh), mesh, {}, Evaluations(dataclasses.replace(config, evals={}))
    )
    stage = stages.make_stage(config, next(iter(config.stages)), pathlib.Path("stage"))
    if kind == "finetune":
        rows = batches.synthetic(tasks.bind(config, name).spec(), ROWS, config.model.vocab_size)
        rows["class_at"][:], rows["class_labels"][:] = LENGTH, IGNORE
        rows["class_at"][:, 0], rows["class_labels"][:, 0] = 0, np.arange(ROWS) % 3
    else:
        rows = step_variants.synthetic(config, name)
    batch = batches.to_global(rows, ROWS, sharding.batch_sharding(mesh))
    if kind == "forward":
        encode = compiler.jit(lambda params, inputs: run.model.apply({"params": params}, inputs, FULL, method="encode"))
        inputs = Inputs.of(batch)
        made = jax.jit(lambda: nn.meta.unbox(run.model.init(jax.random.key(0), inputs, FULL)["params"]))()
        return lambda: jax.block_until_ready(encode(made, inputs))
    state, key = stages.initial_state(run, stage, None), loop.run_key(0, mesh)
    step = stages.compiled_steps(run, stage)[name]

    def train() -> None:
        nonlocal state
        state, sums = step(state, batch, key)
        jax.block_until_ready((state.params, sums))

    return train


def peer_step(kind: str) -> Callable[[], Any]:
    """A function that runs a step of Hugging Face's to its end."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        attn_implementation="sdpa", num_labels=3,
    )  # fmt: skip
    ids = torch.randint(4, 250_000, (ROWS, LENGTH))
    seen = torch.ones_like(ids)
    if kind == "forward":
        model = transformers.XLMRobertaModel(config, add_pooling_layer=False).eval()
        return torch.no_grad()(lambda: model(input_ids=ids, attention_mask=seen))
    whole = {"finetune": transformers.XLMRobertaForSequenceClassification, "mlm": transformers.XLMRobertaForMaskedLM}
    model = whole[kind](config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    scored = round(0.15 * LENGTH)
    at = torch.rand(ROWS, LENGTH).argsort(1)[:, :scored].sort(1).values

    def loss() -> torch.Tensor:
        if kind == "finetune":
            return model(input_ids=ids, attention_mask=seen, labels=torch.arange(ROWS) % 3).loss
        hidden = model.roberta(input_ids=ids, attention_mask=seen)[0]
        logits = model.lm_head(hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1])))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.gather(1, at).flatten())

    def train() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def work(side: str, kind: str) -> None:
    """A worker: one step per line of standard input, its seconds on standard output; at the end its peak memory."""
    step = peer_step(kind) if side == "peer" else our_step(kind)
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)
        if number == 0:  # the peak counts from the first step's end on, not of making the parameters and compiling
            pathlib.Path("/proc/self/clear_refs").write_text("5")
    peak = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 2**20, flush=True)


class Worker:
    """A process that runs steps when it is told to."""

    def __init__(self, side: str, kind: str, python: str):
        command = [python, __file__, "--worker", side, kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    def step(self) -> float:
        """Seconds of one step."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"a worker ended with exit status {self._process.wait()}")
        return float(line)

    def end(self) -> float:
        """Peak memory in GiB."""
        self._process.stdin.close()
        peak = float(self._process.stdout.readline())
        self._process.wait()
        return peak


def compare(kind: str, pairs: int, peer: str) -> dict[str, Any] | None:
    """Times of the two sides of a pair, step about; None where there is no peer."""
    sides = PAIRS[kind]
    if "peer" in sides and not peer:
        return None
    what = {"ours": ("ours", "mlm" if kind == "mlm_all" else kind), "all": ("ours", kind), "peer": ("peer", kind)}
    workers = {side: Worker(*what[side], peer if side == "peer" else sys.executable) for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(1 + pairs):
        for side in sides if turn % 2 else sides[::-1]:
            took = workers[side].step()
            if turn:  # the first compiles
                seconds[side].append(took)
    ratios = [one / other for one, other in zip(*(seconds[side] for side in sides), strict=True)]
    return {
        "sides": sides,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "peak_gib": {side: worker.end() for side, worker in workers.items()},
    }


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    about = pathlib.Path("/proc/cpuinfo").read_text()
    flags = set(next((line for line in about.splitlines() if line.startswith("flags")), "").split())
    widest = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()
    model = next((line.split(": ")[1] for line in about.splitlines() if line.startswith("model name")), "")
    import jax

    versions = {"python": platform.python_version(), "jax": jax.__version__}
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "instructions": widest, **versions}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(PAIRS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peer_python", default="", help="a Python that has torch and transformers")
    parser.add_argument("--output", default="", help="JSON file of the results")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    about = machine() | {"date": str(datetime.date.today())}
    if arguments.peer_python:
        show = "import torch, transformers; print(torch.__version__, transformers.__version__)"
        done = subprocess.run([arguments.peer_python, "-c", show], capture_output=True, text=True, check=True)
        about["torch"], about["transformers"] = done.stdout.split()
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    results = {}
    for kind in arguments.kinds.split(","):
        if kind not in PAIRS:
            raise SystemExit(f"--kinds: {kind!r} is none of {', '.join(PAIRS)}")
        found = compare(kind, arguments.pairs, arguments.peer_python)
        if found is None:
            print(f"{kind}: needs --peer_python", flush=True)
            continue
        results[kind] = found
        one, other = found["sides"]
        print(
            f"{kind}: {one} / {other} {found['ratio']:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f}); "
            + ", ".join(
                f"{side} {found['seconds'][side]:.2f} s, {found['peak_gib'][side]:.1f} GiB" for side in found["sides"]
            ),
            flush=True,
        )
        if arguments.output:
            pathlib.Path(arguments.output).write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
