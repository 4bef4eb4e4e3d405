"""The smallest runs in which model selection can be watched: their evaluations return chosen numbers."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint.checkpoints import Checkpoints
from ernie_m_jax.evaluation.evaluator import Outcome
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import run, stages
from tests.conftest import small_tree

STEPS = 8
# Score of the state before each step that is evaluated.
MIDDLE = {2: 1.0, 4: 5.0, 6: 3.0, 8: 4.0}  # step 4 is the best
FIRST = {2: 5.0, 4: 1.0, 6: 5.0, 8: 2.0}  # of two equal ones, the first
LAST = {2: 1.0, 4: 2.0, 6: 0.0, 8: 3.0}
MADE = {}
LINES = [f"line {number} of a text that says little, and word {number * 7 % 13} again" for number in range(24)]


def tree(tokenizer_path, folder, names=("one",), **keys):
    """One objective, two languages, evaluated every 2 steps; saved every 3, at the best and at the last."""
    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n".join(LINES) + "\n")
    text = base.source(str(folder / "{language}.txt")).to_dict()
    stage = base.stage(steps=STEPS, weights={"mmlm": 1.0}, learning_rate=1e-2, warmup_steps=2).to_dict()
    own = {
        "tokenizer__path": str(tokenizer_path),
        "languages": ("en", "de"),
        "data__monolingual": {"text": text},
        "data__parallel": {},
        "data__sequence_length": 32,
        "stages": dict.fromkeys(names, stage),
        "evals": {"held": base.evaluation("heldout", monolingual=text, every=2).to_dict()},
        "train__batch_size": 4,
        "train__save_every": 3,
        "train__max_to_keep": 1,
        "train__select": "held/accuracy",
    }
    return small_tree(**(own | keys))


def share_programs(monkeypatch, made=MADE):
    """All runs have the same step and start with the same parameters: they are made once."""

    def once(function, run, stage, *arguments):
        key = function.__name__, repr(stage.config), repr(run.config.model), stage.name
        if key not in made:
            made[key] = function(run, stage, *arguments)
        return made[key]

    compiled, abstract, initial = stages.compiled_steps, stages.abstract_state, stages.initial_state

    def started(run, stage, params):
        if params is not None:
            return initial(run, stage, params)
        return jax.tree.map(jnp.copy, once(initial, run, stage, None))  # a step takes its state's memory

    monkeypatch.setattr(stages, "compiled_steps", lambda run, stage: once(compiled, run, stage))
    monkeypatch.setattr(stages, "abstract_state", lambda run, stage: once(abstract, run, stage))
    monkeypatch.setattr(stages, "initial_state", started)


class Scores:
    """Stands in for `Evaluations.run`.

    Attributes:
      calls: "STAGE/STEM" of each evaluation, in order.
      dies_at: the one that is cut short.
      otherwise: the score at the start and at the end.
    """

    otherwise = -1.0

    def __init__(self, monkeypatch, scores=MIDDLE):
        self.scores, self.calls, self.dies_at = scores, [], ""
        monkeypatch.setattr(Evaluations, "run", lambda _, *arguments: self._run(*arguments))

    def _run(self, name, model, params, tokenizer, directory, stem):
        self.calls.append(f"{directory.name}/{stem}")
        if self.calls[-1] == self.dies_at:
            raise KeyboardInterrupt
        step = stem.removeprefix(f"{name}-")
        score = self.scores[int(step)] if step.isdigit() else self.otherwise
        return Outcome({"accuracy": score, "loss": float(jnp.abs(params["embeddings"]["word"]).sum())})


def train(tree, workdir):
    """A run; what it saves in the background is on disk when this returns, however it ends."""
    try:
        return run.train(configs.resolve(tree), workdir)
    finally:
        for thread in threading.enumerate():
            if thread.name.startswith("checkpoint-"):
                thread.join()


def lines(directory):
    """The metrics without their timing, and without the lines that have nothing else."""
    read = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in read if len(line) > 2]


def steps(directory):
    """The steps that are saved."""
    return Checkpoints(directory / "checkpoints", 0, None).steps()


def selected(directory):
    """What selected.json says; None without it."""
    path = directory / "checkpoints" / "selected.json"
    return json.loads(path.read_text()) if path.exists() else None


def saved(directory, step):
    """A checkpoint's arrays by name, its streams and what else it keeps, but for the versions."""
    checkpoints = Checkpoints(directory / "checkpoints", 0, None)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for name, leaf in checkpoints.contents(step).items()
    }
    arrays, streams, meta = checkpoints.restore(step, nest(abstract))
    return jax.tree.map(np.asarray, arrays), streams, meta | {"versions": None}


def nest(flat):
    """`{"a/b": 1}` as `{"a": {"b": 1}}`."""
    nested = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested


def everything(directory):
    """What a stage leaves, but for seconds and versions; to be the same however often the run was disturbed."""
    summary = json.loads((directory / "summary.json").read_text())
    summary.pop("tokens_per_second")
    summary.pop("data_wait")
    return {
        "metrics": lines(directory),
        "selected": selected(directory),
        "summary": summary,
        "checkpoints": {step: saved(directory, step) for step in steps(directory)},
    }


def assert_same(directory, expected):
    """A checkpoint's selection is left out: what a stop saves does not know the evaluation of its own step yet."""
    found = everything(directory)
    assert {key: found[key] for key in ("metrics", "selected", "summary")} == {
        key: expected[key] for key in ("metrics", "selected", "summary")
    }
    assert found["checkpoints"].keys() == expected["checkpoints"].keys()
    for step, (arrays, streams, meta) in found["checkpoints"].items():
        expected_arrays, expected_streams, expected_meta = expected["checkpoints"][step]
        jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)
        assert streams == expected_streams
        assert meta | {"selection": None} == expected_meta | {"selection": None}
