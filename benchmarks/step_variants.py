"""What a benchmark of a training step is told: a variant's keys, its config, its FLOPs and a synthetic batch."""

import ml_collections
import numpy as np

from configs import base, recipes
from ernie_m_jax import config as configuration
from ernie_m_jax import task as tasks
from ernie_m_jax.data import batch as batches
from ernie_m_jax.model import flops
from ernie_m_jax.objectives import btmlm, camlm
from ernie_m_jax.task import IGNORE

DEFAULTS = {
    "size": "base", "length": "512", "rows": "128", "objective": "mmlm", "attention": "flash", "remat": "none",
    "chunk": "16384", "keep": "0", "norm": "xla", "dtype": "bfloat16", "dropout": "0", "micro": "1", "scan": "1",
    "float8": "0", "layers": "0",
}  # fmt: skip


def variant(text: str) -> dict[str, str]:
    """`key=value,key=value` over the defaults."""
    given = dict(part.split("=", 1) for part in text.split(",") if part)
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise SystemExit(f"{text}: unknown {', '.join(unknown)}; known are {', '.join(DEFAULTS)}")
    return DEFAULTS | given


def config_of(keys: dict[str, str]) -> configuration.Config:
    """The pre-training config of a variant; its data are never opened."""
    return configuration.resolve(tree_of(keys))


def tree_of(keys: dict[str, str]) -> ml_collections.ConfigDict:
    """The same, before it is resolved."""
    config = recipes.pretraining(keys["size"])
    config.languages = ("en", "de")
    config.data.sequence_length = int(keys["length"])
    config.data.virtual_streams = 1
    config.model.hidden_dropout = config.model.attention_dropout = float(keys["dropout"])
    config.compute.update(
        dtype=keys["dtype"], remat=keys["remat"], attention=keys["attention"], vocab_chunk=int(keys["chunk"]),
        scan_layers=keys["scan"] == "1", keep_logits=keys["keep"] == "1", layer_norm=keys["norm"],
        float8=keys["float8"] == "1",
    )  # fmt: skip
    config.model.num_layers = int(keys["layers"]) or config.model.num_layers
    config.train.batch_size = int(keys["rows"]) * int(keys["micro"])
    config.train.grad_accumulation_steps = int(keys["micro"])
    config.stages.stage1 = base.stage(
        steps=1000, weights={keys["objective"]: 1.0}, warmup_steps=10, learning_rate=1e-4, schedule="constant"
    )
    config.evals = {}
    return config


def model_flops(config: configuration.Config, objective: str) -> tuple[float, float]:
    """FLOPs of a training step per real token, and of BTMLM's generation pass; each row is one example."""
    task, length = tasks.bind(config, objective), config.data.sequence_length
    return flops.per_token(config.model, length, task.predictions() / length, task.written()[0] / length)


def synthetic(config: configuration.Config, objective: str) -> dict[str, np.ndarray]:
    """A full batch of one example a row, with the objective's roles and share of predictions."""
    spec = tasks.bind(config, objective).spec()
    rows, length, keys = config.train.batch_size, config.data.sequence_length, config.objectives[objective]
    made = batches.synthetic(spec, rows, config.model.vocab_size)
    rng = np.random.default_rng(1)
    words = length
    if objective == "camlm":
        words = int(length / (1 + keys.mask_ratio))
        half, slots = words // 2, (length - words) // 2
        layout = [(camlm.SOURCE_WORD, half), (camlm.TARGET_WORD, words - half), (camlm.SOURCE_SLOT, slots)]
        roles = np.concatenate([np.full(count, role) for role, count in layout])
        made["roles"][:] = np.concatenate([roles, np.full(length - len(roles), camlm.TARGET_SLOT)])
    if objective == "btmlm":
        words = int(length / (1 + keys.length_ratio))
        made["roles"][:] = np.where(np.arange(length) < words, btmlm.SOURCE, btmlm.PLACEHOLDER)
        room = made["generate_at"].shape[1]
        made["generate_at"][:] = np.where(words + np.arange(room) < length, words + np.arange(room), length)
    used = np.minimum((words * keys.mask_ratio + rng.random(rows)).astype(int), made["predict_labels"].shape[1])
    made["predict_labels"][np.arange(made["predict_labels"].shape[1]) >= used[:, None]] = IGNORE
    return made
